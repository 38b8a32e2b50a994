"""What the server tells of itself and of its models: metadata, readiness, configuration, statistics, repository."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve._proto import worker_management_pb2
from anyserve.errors import Code
from support.client import Client, failure
from support.instances import Instance
from support.waiting import within
from support.wire import reply, request

TENSORS: dict[str, Any] = {
    "inputs": [worker_management_pb2.TensorMetadata(name="a", datatype="FP32", shape=[-1, 3])],
    "outputs": [
        worker_management_pb2.TensorMetadata(name="b", datatype="BYTES", shape=[1]),
        worker_management_pb2.TensorMetadata(name="c", datatype="BF16", shape=[2]),
    ],
}


async def test_the_server_is_live(client: Client) -> None:
    assert (await within(client.ServerLive(pb.ServerLiveRequest()))).live


async def test_a_bare_agent_is_ready_at_once(client: Client) -> None:
    assert (await within(client.ServerReady(pb.ServerReadyRequest()))).ready


async def test_the_server_is_ready_once_every_launched_worker_is_there(instance: Instance, client: Client) -> None:
    async def ready() -> bool:
        return bool((await within(client.ServerReady(pb.ServerReadyRequest()))).ready)

    instance.agent.expect_workers(["one", "two"])
    assert not await ready()
    for worker_id, then in (("one", False), ("stranger", False), ("two", True)):
        await instance.worker("m", worker_id=worker_id)
        await instance.management.heartbeat(worker_id)
        assert await ready() is then


async def test_server_metadata(client: Client) -> None:
    metadata = await within(client.ServerMetadata(pb.ServerMetadataRequest()))
    assert (metadata.name, metadata.version) == ("anyserve", version("anyserve"))
    assert {"model_configuration", "statistics", "model_repository"} <= set(metadata.extensions)
    assert not {"system_shared_memory", "cuda_shared_memory", "trace", "logging"} & set(metadata.extensions)


@pytest.mark.parametrize(
    ("name", "model_version", "ready"),
    [
        ("served", "", True),
        ("served", "2", True),
        ("served", "3", False),
        ("by-capability", "", True),
        ("by-capability", "5", True),
        ("by-capability", "6", False),
        ("unknown", "", False),
        ("", "", False),
    ],
)
async def test_model_ready(instance: Instance, client: Client, name: str, model_version: str, ready: bool) -> None:
    await instance.worker("served", "2")
    await instance.worker("other", capability={"type": "x", "model": "by-capability", "version": "5"})
    answer = await within(client.ModelReady(pb.ModelReadyRequest(name=name, version=model_version)))
    assert answer.ready is ready


async def test_a_model_is_not_ready_once_its_worker_has_left(instance: Instance, client: Client) -> None:
    worker = await instance.worker("served")
    await instance.unregister(worker.worker_id)
    assert not (await within(client.ModelReady(pb.ModelReadyRequest(name="served")))).ready


async def test_model_metadata_is_what_was_registered(instance: Instance, client: Client) -> None:
    for model_version in ("10", "9", "beta"):
        await instance.worker("served", model_version, platform="onnx", **TENSORS)
    metadata = await within(client.ModelMetadata(pb.ModelMetadataRequest(name="served", version="9")))
    assert metadata == pb.ModelMetadataResponse(
        name="served",
        versions=["9", "10", "beta"],
        platform="onnx",
        inputs=[pb.ModelMetadataResponse.TensorMetadata(name="a", datatype="FP32", shape=[-1, 3])],
        outputs=[
            pb.ModelMetadataResponse.TensorMetadata(name="b", datatype="BYTES", shape=[1]),
            pb.ModelMetadataResponse.TensorMetadata(name="c", datatype="BF16", shape=[2]),
        ],
    )


@pytest.mark.parametrize("streaming", [False, True])
async def test_model_config_is_what_was_registered(instance: Instance, client: Client, streaming: bool) -> None:
    await instance.worker("served", platform="onnx", stream=streaming, **TENSORS)
    config = (await within(client.ModelConfig(pb.ModelConfigRequest(name="served")))).config
    assert (config.name, config.platform, config.max_batch_size) == ("served", "onnx", 0)
    assert config.model_transaction_policy.decoupled is streaming
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("a", pb.TYPE_FP32, [-1, 3])]
    assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [
        ("b", pb.TYPE_STRING, [1]),
        ("c", pb.TYPE_BF16, [2]),
    ]


@pytest.mark.parametrize(
    ("rpc", "message"),
    [
        ("ModelMetadata", pb.ModelMetadataRequest),
        ("ModelConfig", pb.ModelConfigRequest),
        ("ModelStatistics", pb.ModelStatisticsRequest),
    ],
)
@pytest.mark.parametrize(("name", "model_version"), [("unknown", ""), ("served", "9")])
async def test_questions_about_an_unknown_model_are_not_found(
    instance: Instance, client: Client, *, rpc: str, message: type, name: str, model_version: str
) -> None:
    await instance.worker("served", "1")
    error = await failure(client.rpcs[rpc](message(name=name, version=model_version)))
    assert error.code is Code.NOT_FOUND
    assert name in error.message
    assert model_version in error.message


async def test_statistics_count_successes_and_failures(instance: Instance, client: Client) -> None:
    replies = [reply(), reply(anyserve_error_code=3, anyserve_error_message="no"), reply()]
    await instance.worker("served", "1", answer=lambda _: replies.pop())
    await client.infer(request("served"))
    await client.refused(request("served"))
    await client.infer(request("served"))
    answer = await within(client.ModelStatistics(pb.ModelStatisticsRequest(name="served")))
    (found,) = answer.model_stats
    assert (found.name, found.version) == ("served", "1")
    assert (found.inference_count, found.execution_count) == (2, 2)
    assert found.last_inference > 1_600_000_000_000
    counts = found.inference_stats
    assert (counts.success.count, counts.fail.count, counts.queue.count) == (2, 1, 3)
    assert counts.success.ns > 0
    assert counts.fail.ns > 0


async def test_statistics_count_a_streamed_request_once(instance: Instance, client: Client) -> None:
    worker = await instance.worker("served", stream=True)
    stream = client.stream()
    await stream.send(request("served"))
    exchange = await worker.exchange()
    for _ in range(3):
        await exchange.send(pb.ModelStreamInferResponse(infer_response=reply()))
    await exchange.end()
    assert len(await stream.rest()) == 3
    (found,) = (await within(client.ModelStatistics(pb.ModelStatisticsRequest(name="served")))).model_stats
    assert (found.inference_count, found.inference_stats.fail.count) == (1, 0)


async def test_statistics_without_a_name_tell_of_all_models(instance: Instance, client: Client) -> None:
    await instance.worker("b", "1", answer=lambda _: b"")
    await instance.worker("b", "2")
    await instance.worker("a")
    await client.infer(request("b", version="1"))
    answer = await within(client.ModelStatistics(pb.ModelStatisticsRequest()))
    assert [(m.name, m.version, m.inference_count) for m in answer.model_stats] == [
        ("a", "", 0),
        ("b", "1", 1),
        ("b", "2", 0),
    ]


@pytest.mark.parametrize("ready_only", [False, True])
async def test_repository_index_lists_every_model_once(instance: Instance, client: Client, ready_only: bool) -> None:
    await instance.worker("b", "1")
    await instance.worker("b", "1")  # a replica
    await instance.worker("a")
    answer = await within(client.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready_only)))
    assert [(m.name, m.version, m.state) for m in answer.models] == [("a", "", "READY"), ("b", "1", "READY")]


async def test_a_registration_without_a_name_is_listed_as_the_model_of_its_capability(
    instance: Instance, client: Client
) -> None:
    await instance.worker(capability={"type": "chat", "model": "llama", "version": "3"}, answer=lambda _: b"")
    await instance.worker(capability={"type": "echo"})  # found by queries alone
    await client.infer(request("llama"))
    index = await within(client.RepositoryIndex(pb.RepositoryIndexRequest()))
    assert [(m.name, m.version) for m in index.models] == [("llama", "3")]
    (found,) = (await within(client.ModelStatistics(pb.ModelStatisticsRequest()))).model_stats
    assert (found.name, found.version, found.inference_count) == ("llama", "3", 1)
    metadata = await within(client.ModelMetadata(pb.ModelMetadataRequest(name="llama")))
    assert (metadata.name, list(metadata.versions)) == ("llama", ["3"])


TRITON = {"repository_name": "", "model_name": "served"}
KSERVE = {"repository_name": "served"}  # its `model_name` is our field 1


@pytest.mark.parametrize("form", [TRITON, KSERVE], ids=["triton", "kserve"])
async def test_loading_a_model_that_is_served_succeeds(
    instance: Instance, client: Client, form: dict[str, Any]
) -> None:
    await instance.worker("served")
    answer = await within(client.RepositoryModelLoad(pb.RepositoryModelLoadRequest(**form)))
    assert (answer.model_name, answer.isLoaded) == ("served", True)


async def test_in_tritons_form_field_1_names_the_repository(instance: Instance, client: Client) -> None:
    await instance.worker("served")
    form = pb.RepositoryModelLoadRequest(repository_name="elsewhere", model_name="served")
    assert (await within(client.RepositoryModelLoad(form))).model_name == "served"


@pytest.mark.parametrize("form", [TRITON, KSERVE], ids=["triton", "kserve"])
async def test_unloading_what_others_started_is_refused(
    instance: Instance, client: Client, form: dict[str, Any]
) -> None:
    await instance.worker("served", answer=lambda _: b"")
    error = await failure(client.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(**form)))
    assert error.code is Code.FAILED_PRECONDITION
    assert "served" in error.message
    await client.infer(request("served"))


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"repository_name": "unknown"}, Code.NOT_FOUND),
        ({"repository_name": "served", "model_name": "unknown"}, Code.NOT_FOUND),
        ({}, Code.INVALID_ARGUMENT),
    ],
)
@pytest.mark.parametrize("what", ["Load", "Unload"])
async def test_loading_and_unloading_of_what_is_not_there(
    instance: Instance, client: Client, form: dict[str, Any], code: Code, what: str
) -> None:
    await instance.worker("served")
    message = pb.RepositoryModelLoadRequest if what == "Load" else pb.RepositoryModelUnloadRequest
    error = await failure(client.rpcs[f"RepositoryModel{what}"](message(**form)))
    assert error.code is code
    assert ("unknown" if form else "model") in error.message


@pytest.mark.parametrize(
    "rpc",
    [
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
async def test_what_is_not_built_says_so_by_its_name(client: Client, rpc: str) -> None:
    call: Any = client.channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}")
    error = await failure(call(b""))
    assert error.code is Code.UNIMPLEMENTED
    assert rpc in error.message


async def test_a_method_that_does_not_exist_is_unimplemented(client: Client) -> None:
    call: Any = client.channel.unary_unary("/inference.GRPCInferenceService/ModelDream")
    assert (await failure(call(b""))).code is Code.UNIMPLEMENTED
