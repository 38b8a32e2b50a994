"""tritonclient's blocking client: one bidirectional stream with many requests, each with any number of responses."""

from __future__ import annotations

import queue
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")

LIMIT = 20.0  # seconds that anything here may take


class Received:
    """What a stream's callback got, in order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def __call__(self, result: Any, error: Any) -> None:
        self._queue.put((result, error))

    def next(self) -> tuple[Any, Any]:
        return self._queue.get(timeout=LIMIT)

    def rest(self) -> list[tuple[Any, Any]]:
        """All that came until now; all there is, once `stop_stream` has returned."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture
def stream(client: Any) -> Iterator[Callable[..., Received]]:
    """Starts the client's stream."""

    def start(**options: Any) -> Received:
        received = Received()
        client.start_stream(received, **options)
        return received

    yield start
    client.stop_stream(cancel_requests=True)


def counting(to: int) -> list[Any]:
    return [triton.InferInput("to", [1], "INT64").set_data_from_numpy(np.array([to], np.int64))]


def indexes(received: list[tuple[Any, Any]]) -> dict[str, list[int]]:
    """Request id -> what was counted for it."""
    found: dict[str, list[int]] = defaultdict(list)
    for result, error in received:
        assert error is None, error.message()
        found[result.get_response().id] += result.as_numpy("index").tolist()
    return dict(found)


def test_several_responses_in_order(client, stream):
    received = stream()
    client.async_stream_infer("count", counting(100), request_id="1")
    client.stop_stream()  # waits for all of them
    got = received.rest()
    assert indexes(got) == {"1": list(range(100))}
    assert {result.get_response().model_name for result, _ in got} == {"count"}


def test_many_requests_on_one_stream(client, stream):
    received = stream()
    for number in range(50):
        client.async_stream_infer("count", counting(1 + number % 3), request_id=str(number))
    client.stop_stream()
    assert indexes(received.rest()) == {str(n): list(range(1 + n % 3)) for n in range(50)}


def test_a_unary_model_answers_with_one_response(client, stream):
    received = stream()
    x = triton.InferInput("x", [2], "BYTES").set_data_from_numpy(np.array([b"a", b"bc"], object))
    client.async_stream_infer("echo", [x], request_id="1", parameters={"k": "v"})
    client.stop_stream()
    ((result, error),) = received.rest()
    assert error is None
    assert result.as_numpy("x").tolist() == [b"a", b"bc"]
    assert result.get_response().parameters["k"].string_param == "v"


def test_requests_run_at_the_same_time(client, stream):
    received = stream()
    client.async_stream_infer("wait", [], request_id="streaming")
    client.async_stream_infer("witness", [], request_id="streaming", parameters={"event": "started"})
    client.async_stream_infer("count", counting(1), request_id="counted")
    ids = {received.next()[0].get_response().id for _ in range(2)}
    assert ids == {"streaming", "counted"}  # while `wait` is still at it


def test_the_stream_stays_open_for_later_requests(client, stream):
    received = stream()
    for number in range(3):
        client.async_stream_infer("count", counting(1), request_id=str(number))
        assert received.next()[0].get_response().id == str(number)


def test_an_error_is_told_in_the_stream_which_goes_on(client, stream):
    received = stream()
    for model, request_id in [("no_such_model", "1"), ("", "2"), ("fail", "3")]:
        client.async_stream_infer(model, [], request_id=request_id)
        result, error = received.next()
        assert result is None
        assert error.message()
    client.async_stream_infer("count", counting(2), request_id="4")
    client.stop_stream()
    assert indexes(received.rest()) == {"4": [0, 1]}


def test_an_error_after_some_responses(client, stream):
    received = stream()
    client.async_stream_infer("count", counting(-2), request_id="1")
    client.stop_stream()
    *replies, (result, error) = received.rest()
    assert indexes(replies) == {"1": [0, 1]}
    assert result is None
    assert error.message() == "cannot count to -2"


@pytest.mark.parametrize("to", [0, 1, 3])
def test_the_empty_final_response_comes_after_the_last(client, stream, to):
    received = stream()
    client.async_stream_infer("count", counting(to), request_id="1", enable_empty_final_response=True)
    client.stop_stream()
    *replies, (last, error) = received.rest()
    assert error is None
    assert indexes(replies) == ({"1": list(range(to))} if to else {})
    assert not any(result.get_response().parameters["triton_final_response"].bool_param for result, _ in replies)
    response = last.get_response()
    assert response.parameters["triton_final_response"].bool_param
    assert (response.model_name, response.id, len(response.outputs)) == ("count", "1", 0)


def test_every_response_says_whether_it_is_the_last(client, stream):
    """Triton's servers always say so, and clients read it of each: one that is not there counts as the last."""
    received = stream()
    client.async_stream_infer("count", counting(2), request_id="1", enable_empty_final_response=True)
    client.stop_stream()
    said = [result.get_response(as_json=True)["parameters"]["triton_final_response"] for result, _ in received.rest()]
    assert said == [{"bool_param": False}, {"bool_param": False}, {"bool_param": True}]


def test_the_one_response_of_a_unary_model_is_the_final_one(client, stream):
    received = stream()
    client.async_stream_infer("echo", [], request_id="1", enable_empty_final_response=True)
    client.stop_stream()
    ((result, error),) = received.rest()
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param


def test_without_being_asked_no_empty_response_comes(client, stream):
    received = stream()
    client.async_stream_infer("count", counting(0), request_id="1")
    client.stop_stream()
    assert received.rest() == []


def test_headers_choose_for_the_whole_stream(client, stream):
    received = stream(headers={"x-cap-type": "count"}, compression_algorithm="gzip")
    client.async_stream_infer("whatever", counting(2), request_id="1")
    client.stop_stream()
    assert indexes(received.rest()) == {"1": [0, 1]}


def test_malformed_headers_fail_the_stream(client, stream):
    received = stream(headers={"x-cap-type": "%zz"})
    result, error = received.next()
    assert result is None
    assert error.status() == "StatusCode.INVALID_ARGUMENT"


def test_cancelling_the_stream_cancels_its_requests(client, stream, address):
    received = stream()
    client.async_stream_infer("wait", [], request_id="dropped")
    client.async_stream_infer("witness", [], request_id="dropped", parameters={"event": "started"})
    assert received.next()[1] is None
    client.stop_stream(cancel_requests=True)
    ((result, error),) = received.rest()
    assert result is None
    assert error.status() == "StatusCode.CANCELLED"
    client.infer("witness", [], request_id="dropped", parameters={"event": "cancelled"}, client_timeout=LIMIT)


def test_the_stream_timeout_is_the_deadline_of_all(client, stream):
    received = stream(stream_timeout=0.5)
    client.async_stream_infer("wait", [], request_id="slow stream")
    error = None
    while error is None or error.status() is None:  # told in the stream, too, if the server was first
        error = received.next()[1]
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED"
    client.infer("witness", [], request_id="slow stream", parameters={"event": "cancelled"}, client_timeout=LIMIT)


def test_a_callback_that_is_slow_loses_nothing(client):
    """The client reads the next response after the callback has returned: the server waits for it."""
    got: list[int] = []
    ended: queue.Queue[Any] = queue.Queue()
    gate: queue.Queue[None] = queue.Queue()

    def callback(result: Any, error: Any) -> None:
        if not got:
            gate.get(timeout=LIMIT)
        got.extend(result.as_numpy("index").tolist())
        if len(got) == 5000:
            ended.put(error)

    client.start_stream(callback)
    client.async_stream_infer("count", counting(5000))
    client.is_server_live()  # served meanwhile
    gate.put(None)
    assert ended.get(timeout=LIMIT) is None
    client.stop_stream()
    assert got == list(range(5000))
