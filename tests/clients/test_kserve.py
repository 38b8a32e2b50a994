"""The kserve package's gRPC client and its generated messages, which differ from Triton's in two places."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

kserve = pytest.importorskip("kserve", reason="the kserve package is not installed (tox -e kserve has it)")
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages  # noqa: E402
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub  # noqa: E402

import anyserve  # noqa: E402

LIMIT = 20.0  # seconds that anything here may take

ARRAYS = {
    "BOOL": np.array([True, False]),
    "INT8": np.array([[-128], [127]], np.int8),
    "INT64": np.array([-(2**63), 2**63 - 1]),
    "UINT64": np.array([2**64 - 1], np.uint64),
    "FP32": np.array([[1.5, -2.0]], np.float32),
    "FP64": np.array([0.1]),
    "BYTES": np.array([b"a", b"bc"], object),
}


@pytest_asyncio.fixture
async def client(address: str) -> AsyncIterator[Any]:
    async with kserve.InferenceGRPCClient(address, timeout=LIMIT) as client:
        yield client


@pytest_asyncio.fixture
async def stub(address: str) -> AsyncIterator[Any]:
    """What the package generates from KServe's own definitions, without its client around it."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield GRPCInferenceServiceStub(channel)


def tensor(name: str, array: np.ndarray, datatype: str, *, raw: bool) -> Any:
    made = kserve.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=raw)
    return made


async def test_questions(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("echo")
    assert not await client.is_model_ready("no_such_model")


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("datatype", ARRAYS)
async def test_a_tensor_comes_back_as_it_went(client, datatype, raw):
    array = ARRAYS[datatype]
    request = kserve.InferRequest("echo", [tensor("x", array, datatype, raw=raw)], request_id="1")
    response = await client.infer(request)
    assert (response.model_name, response.id) == ("echo", "1")
    (output,) = response.outputs
    assert (output.name, output.datatype, output.shape) == ("x", datatype, list(array.shape))
    np.testing.assert_array_equal(output.as_numpy(), array)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
async def test_a_model_version_and_two_inputs(client, raw):
    inputs = [tensor(name, np.full(3, value, np.float32), "FP32", raw=raw) for name, value in [("a", 1.5), ("b", 2)]]
    response = await client.infer(kserve.InferRequest("add", inputs, model_version="2"))
    assert response.model_version == "2"
    np.testing.assert_array_equal(response.get_output_by_name("sum").as_numpy(), [3.5, 3.5, 3.5])


async def test_parameters_come_back(client):
    parameters = {"text": "é", "flag": True, "number": 7}
    response = await client.infer(kserve.InferRequest("echo", [], parameters=parameters))
    assert {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in response.parameters.items()} == parameters


async def test_headers_choose_by_capability(client):
    response = await client.infer(kserve.InferRequest("", []), headers=(("x-cap-model", "llama-7b"),))
    assert response.get_output_by_name("answered_by").as_numpy().tolist() == [b"llama-7b"]


@pytest.mark.parametrize(
    ("model", "parameters", "code"),
    [
        ("no_such_model", {}, grpc.StatusCode.NOT_FOUND),
        ("count", {}, grpc.StatusCode.UNIMPLEMENTED),
        ("fail", {}, grpc.StatusCode.INTERNAL),
        ("fail", {"code": "DATA_LOSS", "message": "gone"}, grpc.StatusCode.DATA_LOSS),
    ],
)
async def test_errors(client, model, parameters, code):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.infer(kserve.InferRequest(model, [], parameters=parameters))
    assert raised.value.code() == code


async def test_a_timeout_is_the_deadline(client):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.infer(kserve.InferRequest("wait", [], request_id="late"), timeout=0.3)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await client.infer(kserve.InferRequest("witness", [], request_id="late", parameters={"event": "cancelled"}))


async def test_metadata(stub):
    server = await stub.ServerMetadata(messages.ServerMetadataRequest())
    assert server.name == "anyserve"
    model = await stub.ModelMetadata(messages.ModelMetadataRequest(name="add", version="2"))
    assert (model.platform, list(model.versions)) == ("numpy", ["2", "10"])
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("sum", "FP32", [-1])]


async def test_unload_and_load_in_the_form_of_kserve(stub):
    """Field 1 is the model's name there, and the answer says what became of it; in Triton's form it is empty."""
    unloaded = await stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="loadable"))
    assert (unloaded.model_name, unloaded.isUnloaded) == ("loadable", True)
    assert not (await stub.ModelReady(messages.ModelReadyRequest(name="loadable"))).ready

    loaded = await stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="loadable"))
    assert (loaded.model_name, loaded.isLoaded) == ("loadable", True)
    assert (await stub.ModelReady(messages.ModelReadyRequest(name="loadable"))).ready

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="no_such_model"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_beside_anyserve_in_one_process(client, address):
    """Both define `inference.ModelInferRequest`: in one descriptor pool they would clash."""
    ones = np.ones(2, np.float32)
    theirs = await client.infer(kserve.InferRequest("echo", [tensor("x", ones, "FP32", raw=True)]))
    async with anyserve.AsyncAnyserveClient(address) as ours:
        reply = await ours.infer("echo", {"x": ones})
    np.testing.assert_array_equal(theirs.outputs[0].as_numpy(), reply.tensors()["x"])
