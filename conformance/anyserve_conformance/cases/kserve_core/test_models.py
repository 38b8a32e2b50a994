"""What the server says of its models."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from anyserve_conformance import proto
from anyserve_conformance.cases.kserve_core.tensors import refused, with_version
from anyserve_conformance.client import Client
from anyserve_conformance.fixtures import Model
from anyserve_conformance.requirement import requirement

LOOK_AT = "the look-up of a model by name and version, the same for every RPC"

NO_SUCH_MODEL = "anyserve-conformance-no-such-model"
NO_SUCH_VERSION = "987654321"  # a number: some servers have versions of no other kind


@requirement("serving.model.served")
def test_served_models_are_ready(client: Client, models: Sequence[Model]) -> None:
    """ModelReady for each model that is served is answered with OK and `ready = true`, with its version and without."""
    for model in models:
        for version in {"", model.version}:
            request = proto.ModelReadyRequest(name=model.name, version=version)
            assert client.call("ModelReady", request).message.ready, f"{model} version {version!r} is not ready"


@requirement("serving.model.unknown")
def test_unknown_model_is_not_ready(client: Client) -> None:
    """ModelReady for an unknown model is answered with `ready = false` or an error."""
    _is_not_ready(client, NO_SUCH_MODEL)


@requirement("serving.model.unknown")
def test_longer_name_is_another_model(client: Client, model: Model) -> None:
    """A name that only begins with that of a model is not said to be ready."""
    _is_not_ready(client, f"{model.name}-{NO_SUCH_MODEL}")


def _is_not_ready(client: Client, name: str) -> None:
    answer = client.call("ModelReady", proto.ModelReadyRequest(name=name))
    if answer.code is grpc.StatusCode.OK:
        assert not answer.message.ready, f"the unknown model {name!r} is said to be ready"
    else:
        refused(client, answer, f"ModelReady for the unknown model {name!r}")


@requirement("serving.metadata.model")
def test_metadata_has_the_name(client: Client, model: Model) -> None:
    """ModelMetadata has the name that was asked for."""
    _has_the_name(client, model, "")


@requirement("serving.metadata.model")
def test_metadata_of_a_version_has_the_name(client: Client, models: Sequence[Model]) -> None:
    """ModelMetadata of a version has the name that was asked for."""
    for model in with_version(models):
        _has_the_name(client, model, model.version)


def _has_the_name(client: Client, model: Model, version: str) -> None:
    name = client.call("ModelMetadata", proto.ModelMetadataRequest(name=model.name, version=version)).message.name
    assert name == model.name, f"asked for {model.name!r}, and the metadata is of {name!r}"


@requirement("serving.metadata.unknown")
def test_no_metadata_of_an_unknown_model(client: Client) -> None:
    """ModelMetadata for an unknown model is an error."""
    answer = client.call("ModelMetadata", proto.ModelMetadataRequest(name=NO_SUCH_MODEL))
    refused(client, answer, f"ModelMetadata for the unknown model {NO_SUCH_MODEL!r}")


@requirement("serving.metadata.unknown")
def test_no_metadata_of_an_unknown_version(client: Client, model: Model) -> None:
    """ModelMetadata for a version that the model does not have is an error."""
    answer = client.call("ModelMetadata", proto.ModelMetadataRequest(name=model.name, version=NO_SUCH_VERSION))
    refused(client, answer, f"ModelMetadata for the unknown version {NO_SUCH_VERSION} of {model.name!r}")
