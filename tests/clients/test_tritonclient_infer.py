"""tritonclient's blocking client: `infer` and `async_infer` with everything that they let a user set."""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

LIMIT = 20.0  # seconds that anything here may take
ERROR_CODES = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


def tensor(name: str, array: np.ndarray) -> Any:
    datatype = np_to_triton_dtype(array.dtype)
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def witness(client: Any, request_id: str, event: str) -> None:
    """Returns once that has happened to the request of the model `wait`."""
    client.infer("witness", [], request_id=request_id, parameters={"event": event}, client_timeout=LIMIT)


ARRAYS = {
    "BOOL": np.array([[True, False], [False, True]]),
    "INT8": np.array([-128, 0, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([[-(2**63)], [2**63 - 1]], np.int64),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([2**16 - 1], np.uint16),
    "UINT32": np.array([2**32 - 1], np.uint32),
    "UINT64": np.array([2**64 - 1], np.uint64),
    "FP16": np.array([1.5, -65504.0, np.inf], np.float16),
    "FP32": np.array([[[1.5, -0.0, np.inf]]], np.float32),
    "FP64": np.array([math.pi, -1e300], np.float64),
    "BYTES": np.array([[b"text", b""], [b"\x00\xff", "é€".encode()]], dtype=object),
}


@pytest.mark.parametrize("datatype", ARRAYS)
def test_a_tensor_comes_back_as_it_went(client, datatype):
    array = ARRAYS[datatype]
    result = client.infer("echo", [tensor("x", array)])
    got = result.as_numpy("x")
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)
    assert result.get_output("x").datatype == datatype


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
@pytest.mark.parametrize("dtype", [np.float32, object])
def test_empty_and_scalar_shapes(client, shape, dtype):
    array = np.full(shape, b"x" if dtype is object else 1, dtype)
    assert client.infer("echo", [tensor("x", array)]).as_numpy("x").shape == shape


def test_bf16_goes_through_numpy_and_the_handler(client):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="this tritonclient has no BF16 arrays")
    x = np.array([[3.0, -0.5], [2.0**100, np.inf]], ml_dtypes.bfloat16)
    y = client.infer("halve", [tensor("x", x)]).as_numpy("y")
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y.astype(np.float32), [[1.5, -0.25], [2.0**99, np.inf]])


def test_several_inputs_and_the_outputs_asked_for(client):
    a, b = np.arange(5, dtype=np.float32), np.full(5, 0.5, np.float32)
    result = client.infer(
        "add", [tensor("a", a), tensor("b", b)], model_version="2", outputs=[triton.InferRequestedOutput("sum")]
    )
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
    assert result.as_numpy("difference") is None


def test_without_a_version_the_greatest_number_answers(client):
    ones = np.ones(1, np.float32)
    result = client.infer("add", [tensor("a", ones), tensor("b", ones)])
    assert list(result.as_numpy("version")) == [b"10"]


def test_the_response_says_what_was_asked(client):
    result = client.infer("echo", [tensor("x", np.ones(1))], request_id="request é 1").get_response()
    assert (result.model_name, result.model_version, result.id) == ("echo", "", "request é 1")
    assert client.infer("add", [tensor(n, np.ones(1, np.float32)) for n in "ab"]).get_response().model_version == "10"


def test_parameters_reach_the_handler(client):
    response = client.infer(
        "echo",
        [],
        sequence_id=7,
        sequence_start=True,
        priority=3,
        timeout=5_000_000,
        parameters={"text": "é", "flag": True, "number": -(2**63), "real": 0.1},
    ).get_response(as_json=True)
    assert response["parameters"] == {
        "sequence_id": {"int64_param": "7"},
        "sequence_start": {"bool_param": True},
        "sequence_end": {"bool_param": False},
        "priority": {"uint64_param": "3"},
        "timeout": {"int64_param": "5000000"},
        "text": {"string_param": "é"},
        "flag": {"bool_param": True},
        "number": {"int64_param": str(-(2**63))},
        "real": {"double_param": 0.1},
    }


@pytest.mark.parametrize("algorithm", ["gzip", "deflate", None])
def test_compressed_requests(client, algorithm):
    array = np.zeros(1_000_000, np.float32)
    result = client.infer("echo", [tensor("x", array)], compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("x"), array)


def test_large_tensors(client):
    array = np.arange(4_000_000, dtype=np.int64)  # 32 MB
    np.testing.assert_array_equal(client.infer("echo", [tensor("x", array)]).as_numpy("x"), array)


def test_headers_choose_by_capability(client):
    def answered(**query: str) -> bytes:
        headers = {f"x-cap-{key}": pattern for key, pattern in query.items()}
        return client.infer("whatever", [], headers=headers).as_numpy("answered_by")[0]

    assert answered(type="chat", model="llama-7b") == b"llama-7b"
    assert answered(type="chat", model="llama-*") == b"llama-70b"  # the one with the higher priority
    assert answered(type="chat") == b"llama-70b"
    assert answered(model="mistral|llama-7b") == b"llama-7b"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-cap-type": "no-such-type"}, "NOT_FOUND"),
        ({"x-cap-type": "chat", "x-cap-model": ""}, "INVALID_ARGUMENT"),
        ({"x-cap-type": "%zz"}, "INVALID_ARGUMENT"),
    ],
)
def test_headers_that_choose_nothing(client, headers, status):
    with pytest.raises(InferenceServerException) as raised:
        client.infer("echo", [], headers=headers)
    assert raised.value.status() == f"StatusCode.{status}"


def test_other_headers_change_nothing(client):
    headers = {"authorization": "Bearer secret", "x-request-id": "1", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    assert client.infer("echo", [tensor("x", np.ones(1))], headers=headers).as_numpy("x") == [1.0]


@pytest.mark.parametrize("code", ERROR_CODES)
def test_the_status_and_message_that_a_handler_chose(client, code):
    message = 'no: "é"\nand a second line %20'
    with pytest.raises(InferenceServerException) as raised:
        client.infer("fail", [], parameters={"code": code, "message": message})
    assert raised.value.status() == f"StatusCode.{code}"
    assert raised.value.message() == message


def test_an_exception_of_the_handler_is_internal(client):
    with pytest.raises(InferenceServerException) as raised:
        client.infer("fail", [])
    assert raised.value.status() == "StatusCode.INTERNAL"
    assert raised.value.message() == "the model divided by zero"


@pytest.mark.parametrize(
    ("model", "inputs", "status", "message"),
    [
        ("ehco", {}, "NOT_FOUND", "ehco.*did you mean.*echo"),
        ("", {}, "INVALID_ARGUMENT", "names no model"),
        ("count", {}, "UNIMPLEMENTED", "ModelStreamInfer"),
        ("halve", {}, "INVALID_ARGUMENT", "'x' is missing"),
        ("halve", {"x": np.ones((1, 2), np.float32)}, "INVALID_ARGUMENT", "BF16.*FP32|FP32.*BF16"),
        ("halve", {"x": np.ones(2, np.float32)}, "INVALID_ARGUMENT", "x"),
        ("add", {"a": np.ones(1), "b": np.ones(1), "c": np.ones(1)}, "INVALID_ARGUMENT", "'c' is not known"),
    ],
)
def test_wrong_requests(client, model, inputs, status, message):
    with pytest.raises(InferenceServerException, match=message) as raised:
        client.infer(model, [tensor(*item) for item in inputs.items()])
    assert raised.value.status() == f"StatusCode.{status}"


def test_the_client_timeout_is_the_deadline(client):
    with pytest.raises(InferenceServerException) as raised:
        client.infer("wait", [], request_id="late", client_timeout=0.3)
    assert raised.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    witness(client, "late", "cancelled")


def test_the_handler_knows_the_deadline(client):
    def left(client_timeout: float | None) -> float:
        return float(client.infer("time_remaining", [], client_timeout=client_timeout).as_numpy("seconds")[0])

    assert 10.0 < left(15.0) <= 15.5  # gRPC rounds timeouts up on the wire
    assert left(None) == math.inf


def test_async_infer_calls_back(client):
    results: queue.Queue[Any] = queue.Queue()
    for number in range(20):
        client.async_infer(
            "echo",
            [tensor("x", np.array([number]))],
            lambda result, error: results.put((result, error)),
            request_id=str(number),
        )
    got = {}
    for _ in range(20):
        result, error = results.get(timeout=LIMIT)
        assert error is None
        got[result.get_response().id] = int(result.as_numpy("x")[0])
    assert got == {str(number): number for number in range(20)}


def test_async_infer_hands_errors_to_the_callback(client):
    errors: queue.Queue[Any] = queue.Queue()
    client.async_infer(
        "fail",
        [],
        lambda result, error: errors.put((result, error)),
        parameters={"code": "FAILED_PRECONDITION", "message": "not now"},
    )
    result, error = errors.get(timeout=LIMIT)
    assert result is None
    assert (error.status(), error.message()) == ("StatusCode.FAILED_PRECONDITION", "not now")


def test_async_infer_cancelled_by_the_client(client):
    errors: queue.Queue[Any] = queue.Queue()
    call = client.async_infer("wait", [], lambda result, error: errors.put(error), request_id="unwanted")
    witness(client, "unwanted", "started")
    call.cancel()
    assert errors.get(timeout=LIMIT).status() == "StatusCode.CANCELLED"
    witness(client, "unwanted", "cancelled")


def test_a_client_that_goes_away_cancels(client, address):
    leaving = triton.InferenceServerClient(address)
    leaving.async_infer("wait", [], lambda result, error: None, request_id="left behind")
    witness(client, "left behind", "started")
    leaving.close()
    witness(client, "left behind", "cancelled")
