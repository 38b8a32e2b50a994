"""What the server says about itself and its models: metadata, configuration, statistics, the repository.

All of it follows from registrations and counters. Loading and unloading is handed
to whoever starts worker processes (`Lifecycle`). Rules: spec `serving.model.*`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Protocol

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.agent.registry import Registration, Registry, TensorMetadata
from anyserve.agent.statistics import Count, Statistics
from anyserve.errors import Code, InferenceError

__all__ = ["EXTENSIONS", "Lifecycle", "ModelInfo"]

EXTENSIONS = ("model_configuration", "model_repository", "statistics", "parameters")

DATA_TYPES = {"BYTES": "TYPE_STRING"} | {
    name.removeprefix("TYPE_"): name
    for name in pb.DataType.DESCRIPTOR.values_by_name
    if name not in ("TYPE_INVALID", "TYPE_STRING")
}
"""The protocol's datatypes as the model configuration names them."""


class Lifecycle(Protocol):
    """Starts and stops the workers of this instance by model name (`control/supervisor.py`)."""

    async def load(self, model_name: str) -> bool:
        """Starts the workers that serve a model and waits for them; False if none of ours does."""
        ...

    async def unload(self, model_name: str) -> bool:
        """Drains and stops the workers that serve a model; False if none of ours does."""
        ...


class ModelInfo:
    """Answers the questions about the server and its models."""

    def __init__(self, registry: Registry, statistics: Statistics) -> None:
        self._registry = registry
        self._statistics = statistics
        self.lifecycle: Lifecycle | None = None

    def server_metadata(self) -> pb.ServerMetadataResponse:
        """Name, version and the extensions that are really served."""
        return pb.ServerMetadataResponse(name="anyserve", version=version("anyserve"), extensions=EXTENSIONS)

    def is_ready(self, name: str, model_version: str) -> bool:
        """Whether a live worker serves the model (`serving.model.ready`)."""
        return bool(self._registry.named(name, model_version))

    def metadata(self, name: str, model_version: str) -> pb.ModelMetadataResponse:
        """Name, all versions, platform and tensors as registered.

        Raises:
            InferenceError: NOT_FOUND.
        """
        registration = self._find(name, model_version)
        return pb.ModelMetadataResponse(
            name=name,
            versions=self._registry.versions(name),
            platform=registration.platform,
            inputs=map(_tensor_metadata, registration.inputs),
            outputs=map(_tensor_metadata, registration.outputs),
        )

    def config(self, name: str, model_version: str) -> pb.ModelConfigResponse:
        """The part of Triton's model configuration that follows from a registration.

        Raises:
            InferenceError: NOT_FOUND.
        """
        registration = self._find(name, model_version)
        return pb.ModelConfigResponse(
            config=pb.ModelConfig(
                name=name,
                platform=registration.platform,
                backend="anyserve",
                input=[
                    pb.ModelInput(name=t.name, data_type=DATA_TYPES.get(t.datatype, "TYPE_INVALID"), dims=t.shape)
                    for t in registration.inputs
                ],
                output=[
                    pb.ModelOutput(name=t.name, data_type=DATA_TYPES.get(t.datatype, "TYPE_INVALID"), dims=t.shape)
                    for t in registration.outputs
                ],
                model_transaction_policy=pb.ModelTransactionPolicy(decoupled=registration.stream),
            )
        )

    def statistics(self, name: str, model_version: str) -> pb.ModelStatisticsResponse:
        """The counts of one model, or of all for an empty name.

        Raises:
            InferenceError: NOT_FOUND.
        """
        chosen: Iterable[Registration] = self._registry
        if name:
            self._find(name, model_version)
            chosen = (
                self._registry.named(name, model_version) if model_version else self._registry.named_any_version(name)
            )
        models = _listed(chosen)
        return pb.ModelStatisticsResponse(model_stats=[self._model_statistics(*model) for model in models])

    def index(self, *, ready_only: bool) -> pb.RepositoryIndexResponse:
        """Every model that is registered; what is registered is ready, so `ready_only` leaves out nothing."""
        del ready_only
        models = _listed(self._registry)
        return pb.RepositoryIndexResponse(
            models=[pb.RepositoryIndexResponse.ModelIndex(name=n, version=v, state="READY") for n, v in models]
        )

    async def load(self, name: str) -> None:
        """Starts the workers of a model, if it is not served already.

        Raises:
            InferenceError: INVALID_ARGUMENT, NOT_FOUND, or what hinders the start.
        """
        _check_name(name)
        started = self.lifecycle is not None and await self.lifecycle.load(name)
        if not started and not self._registry.named_any_version(name):
            raise InferenceError(Code.NOT_FOUND, f"model {name!r} is not known to this instance")

    async def unload(self, name: str) -> None:
        """Stops the workers of a model.

        Raises:
            InferenceError: INVALID_ARGUMENT, NOT_FOUND, or FAILED_PRECONDITION for
                workers that this instance did not start.
        """
        _check_name(name)
        if self.lifecycle is not None and await self.lifecycle.unload(name):
            return
        if not self._registry.named_any_version(name):
            raise InferenceError(Code.NOT_FOUND, f"model {name!r} is not known to this instance")
        raise InferenceError(
            Code.FAILED_PRECONDITION,
            f"model {name!r} is served by workers that registered by themselves: stop them where they were started",
        )

    def _find(self, name: str, model_version: str) -> Registration:
        found = self._registry.named(name, model_version)
        if not found:
            wanted = f" version {model_version!r}" if model_version else ""
            raise InferenceError(Code.NOT_FOUND, f"no worker serves model {name!r}{wanted}")
        return found[0]

    def _model_statistics(self, name: str, model_version: str) -> pb.ModelStatistics:
        counts = self._statistics.of(name, model_version)
        return pb.ModelStatistics(
            name=name,
            version=model_version,
            last_inference=counts.last_inference_ms,
            inference_count=counts.success.count,
            execution_count=counts.calls.count or counts.success.count,
            inference_stats=pb.InferStatistics(
                success=_duration(counts.success),
                fail=_duration(counts.fail),
                queue=_duration(counts.queue),
                compute_infer=_duration(counts.compute),
            ),
            batch_stats=[
                pb.InferBatchStatistics(batch_size=size, compute_infer=_duration(count))
                for size, count in sorted(counts.batches.items())
            ],
        )


def _listed(registrations: Iterable[Registration]) -> list[tuple[str, str]]:
    """The names and versions by which clients find them; what is found by capability queries alone has none."""
    return sorted({(r.listed_name, r.listed_version) for r in registrations if r.listed_name})


def _check_name(name: str) -> None:
    if not name:
        raise InferenceError(Code.INVALID_ARGUMENT, "the request names no model")


def _duration(count: Count) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count.count, ns=count.ns)


def _tensor_metadata(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
