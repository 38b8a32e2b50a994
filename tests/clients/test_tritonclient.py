"""tritonclient's blocking client: what it asks about server and models, and loading and unloading."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
from tritonclient.utils import InferenceServerException  # noqa: E402


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


def tensor(name: str, array: np.ndarray, datatype: str) -> Any:
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def test_server_is_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready(headers={"authorization": "Basic bm9ib2R5"}, client_timeout=10.0)


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert (metadata.name, metadata.version) == ("anyserve", version("anyserve"))
    assert {"model_configuration", "model_repository", "statistics"} <= set(metadata.extensions)
    assert client.get_server_metadata(as_json=True)["name"] == "anyserve"


@pytest.mark.parametrize(
    ("name", "model_version", "ready"),
    [("echo", "", True), ("add", "", True), ("add", "2", True), ("add", "3", False), ("ech", "", False)],
)
def test_model_ready(client, name, model_version, ready):
    assert client.is_model_ready(name, model_version) is ready


def test_model_metadata_as_declared(client):
    metadata = client.get_model_metadata("add", "2", as_json=True)
    assert metadata == {
        "name": "add",
        "versions": ["2", "10"],
        "platform": "numpy",
        "inputs": [{"name": name, "datatype": "FP32", "shape": ["-1"]} for name in "ab"],
        "outputs": [{"name": "sum", "datatype": "FP32", "shape": ["-1"]}],
    }


def test_model_metadata_without_a_version_is_that_of_the_greatest(client):
    metadata = client.get_model_metadata("add")
    assert list(metadata.versions) == ["2", "10"]
    assert not metadata.inputs  # version 10 declares none


def test_model_config(client):
    config = client.get_model_config("halve").config
    assert (config.name, config.backend, config.max_batch_size) == ("halve", "anyserve", 0)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("x", 14, [-1, 2])]  # TYPE_BF16
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [("y", 14, [-1, 2])]
    assert not config.model_transaction_policy.decoupled


def test_model_config_of_a_streaming_model_is_decoupled(client):
    config = client.get_model_config("count", as_json=True)["config"]
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["platform"] == "generator"


@pytest.mark.parametrize("ask", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
def test_an_unknown_model_is_not_found(client, ask):
    with pytest.raises(InferenceServerException, match="no_such_model") as raised:
        getattr(client, ask)("no_such_model")
    assert raised.value.status() == "StatusCode.NOT_FOUND"


def test_repository_index_lists_every_model_and_version(client):
    index = client.get_model_repository_index()
    assert {("echo", ""), ("add", "2"), ("add", "10"), ("llama-70b", "")} <= {(m.name, m.version) for m in index.models}
    assert {m.state for m in index.models} == {"READY"}


def test_statistics_count_successes_and_failures(client):
    def counts() -> tuple[int, int]:
        (model,) = client.get_inference_statistics("fail").model_stats
        return model.inference_stats.success.count, model.inference_stats.fail.count

    before = counts()
    for _ in range(3):
        with pytest.raises(InferenceServerException):
            client.infer("fail", [])
    assert counts() == (before[0], before[1] + 3)


def test_statistics_measure_what_was_served(client):
    def of_add_2() -> Any:
        (model,) = client.get_inference_statistics("add", "2").model_stats
        return model

    before = of_add_2()
    ones = np.ones(4, np.float32)
    for _ in range(2):
        client.infer("add", [tensor("a", ones, "FP32"), tensor("b", ones, "FP32")], model_version="2")
    after = of_add_2()
    assert (after.name, after.version) == ("add", "2")
    assert after.inference_count - before.inference_count == 2
    assert after.execution_count - before.execution_count == 2
    assert after.last_inference > before.last_inference
    for duration in ("success", "queue", "compute_infer"):
        was, is_ = getattr(before.inference_stats, duration), getattr(after.inference_stats, duration)
        assert is_.count - was.count == 2
        assert is_.ns > was.ns or duration == "queue"  # nobody has waited


def test_statistics_of_all_models(client):
    names = {model["name"] for model in client.get_inference_statistics(as_json=True)["model_stats"]}
    assert {"echo", "add", "count", "loadable"} <= names


def test_unload_and_load(client):
    def pid() -> int:
        return int(client.infer("loadable", []).as_numpy("pid")[0])

    first = pid()
    client.load_model("loadable")  # it is there already: nothing happens
    assert pid() == first

    client.unload_model("loadable")
    assert not client.is_model_ready("loadable")
    assert "loadable" not in {m.name for m in client.get_model_repository_index().models}
    with pytest.raises(InferenceServerException) as raised:
        pid()
    assert raised.value.status() == "StatusCode.NOT_FOUND"
    assert client.is_server_ready()  # the server itself is not concerned
    assert client.is_model_ready("echo")

    client.load_model("loadable", config='{"backend": "anyserve"}')
    assert client.is_model_ready("loadable")
    assert pid() != first


@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_loading_an_unknown_model_is_not_found(client, call):
    with pytest.raises(InferenceServerException, match="no_such_model") as raised:
        getattr(client, call)("no_such_model")
    assert raised.value.status() == "StatusCode.NOT_FOUND"


def test_a_model_that_shares_its_process_is_not_unloaded(client):
    with pytest.raises(InferenceServerException, match="shares its workers") as raised:
        client.unload_model("echo")
    assert raised.value.status() == "StatusCode.FAILED_PRECONDITION"
    assert client.is_model_ready("echo")


@pytest.mark.parametrize(
    ("rpc", "call"),
    [
        ("SystemSharedMemoryStatus", lambda c: c.get_system_shared_memory_status()),
        ("SystemSharedMemoryRegister", lambda c: c.register_system_shared_memory("r", "/r", 64)),
        ("SystemSharedMemoryUnregister", lambda c: c.unregister_system_shared_memory("r")),
        ("CudaSharedMemoryStatus", lambda c: c.get_cuda_shared_memory_status()),
        ("CudaSharedMemoryRegister", lambda c: c.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 64)),
        ("CudaSharedMemoryUnregister", lambda c: c.unregister_cuda_shared_memory()),
        ("TraceSetting", lambda c: c.get_trace_settings()),
        ("LogSettings", lambda c: c.update_log_settings({"log_info": True})),
    ],
)
def test_what_is_not_built_says_so_by_name(client, rpc, call):
    with pytest.raises(InferenceServerException, match=rf"\b{rpc}\b") as raised:
        call(client)
    assert raised.value.status() == "StatusCode.UNIMPLEMENTED"
