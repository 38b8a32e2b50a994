"""ModelStreamInfer that goes wrong: one request fails in the stream and the stream goes on; cancellation; drain."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anyserve._proto.grpc_predict_v2_pb2 import ModelStreamInferResponse
from anyserve.errors import Code
from support.client import Client, InferStream
from support.instances import Instance, StartInstance
from support.waiting import eventually, within
from support.wire import frame, key, length_delimited, parameters_of, reply, request, stream_reply
from support.worker import Connection, Exchange, ScriptedWorker

ONE = stream_reply(request_id="one")


def assert_in_band(got: ModelStreamInferResponse, code: Code, *words: str, request_id: str = "7") -> None:
    """An error of one request: a message, the request's id, and our code among the parameters."""
    assert got.error_message
    for word in words:
        assert word in got.error_message
    assert got.infer_response.id == request_id
    assert parameters_of(got.infer_response)["anyserve_error_code"] == code


async def goes_on(instance: Instance, stream: InferStream) -> None:
    """The stream serves another request and ends well."""
    await instance.worker("next", answer=lambda _: reply())
    await stream.send(request("next", request_id="next"))
    got = await stream.receive()
    assert (got.error_message, got.infer_response.id) == ("", "next")
    assert await stream.rest() == []


FAILING: dict[str, tuple[bytes, Code, str, str]] = {
    "unknown-model": (request("chatt", request_id="7").SerializeToString(), Code.NOT_FOUND, "chatt", "7"),
    "no-name": (request(request_id="7").SerializeToString(), Code.INVALID_ARGUMENT, "model_name", "7"),
    "reserved": (
        request("chat", request_id="7", anyserve_x=1).SerializeToString(),
        Code.INVALID_ARGUMENT,
        "anyserve_x",
        "7",
    ),
    "not-a-request": (b"hello", Code.INVALID_ARGUMENT, "ModelInferRequest", ""),
    "cut-off": (request("chat", raw=b"x" * 9).SerializeToString()[:-1], Code.INVALID_ARGUMENT, "ModelInferRequest", ""),
}


@pytest.mark.parametrize(("payload", "code", "word", "request_id"), FAILING.values(), ids=FAILING.keys())
async def test_a_refused_request_fails_in_the_stream_which_goes_on(
    instance: Instance, client: Client, *, payload: bytes, code: Code, word: str, request_id: str
) -> None:
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(payload)
    assert_in_band(await stream.receive(), code, word, request_id=request_id)
    assert worker.connections == []
    await goes_on(instance, stream)


async def test_a_full_queue_fails_one_request_of_a_stream(start_instance: StartInstance) -> None:
    instance = await start_instance(queue_size=0)
    worker = await instance.worker("chat", stream=True, max_concurrency=1)
    stream = instance.client.stream()
    await stream.send(request("chat", request_id="first"))
    exchange = await worker.exchange()
    await stream.send(request("chat", request_id="7"))
    assert_in_band(await stream.receive(), Code.RESOURCE_EXHAUSTED, "chat")
    await exchange.end()
    await goes_on(instance, stream)


async def test_an_unreachable_worker_fails_one_request_of_a_stream(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True)
    await worker.refuse()
    stream = client.stream()
    await stream.send(request("chat", request_id="7"))
    assert_in_band(await stream.receive(), Code.UNAVAILABLE, "chat")
    await goes_on(instance, stream)


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED, Code.CANCELLED])
async def test_the_error_of_a_unary_capability_comes_in_the_stream(
    instance: Instance, client: Client, code: Code
) -> None:
    answer = reply(anyserve_error_code=int(code), anyserve_error_message="größe ≠ 3")
    await instance.worker("echo", answer=lambda _: answer)
    stream = client.stream()
    await stream.send(request("echo", request_id="7"))
    got = await stream.receive()
    assert_in_band(got, code)
    assert got.error_message == "größe ≠ 3"
    await goes_on(instance, stream)


@pytest.mark.parametrize("parameters", [{}, {"anyserve_error_code": 3}])
@pytest.mark.parametrize("before", [0, 2])
async def test_the_error_of_a_streaming_worker_is_passed_on(
    instance: Instance, client: Client, parameters: dict[str, Any], before: int
) -> None:
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(request("chat", request_id="7"))
    exchange = await worker.exchange()
    for _ in range(before):
        await exchange.send(stream_reply())
        await stream.receive()
    await exchange.send(stream_reply(error="no: größe", **parameters))
    await exchange.end()
    got = await stream.receive()
    assert (got.error_message, got.infer_response.id) == ("no: größe", "7")
    assert parameters_of(got.infer_response) == parameters
    await goes_on(instance, stream)
    assert len(worker.connections) == 1


async def test_a_long_error_message_comes_whole(instance: Instance, client: Client) -> None:
    answer = reply(anyserve_error_code=3, anyserve_error_message="x" * 100_000)
    await instance.worker("echo", answer=lambda _: answer)
    stream = client.stream()
    await stream.send(request("echo", request_id="7"))
    assert_in_band(await stream.receive(), Code.INVALID_ARGUMENT, "x" * 1000)
    await goes_on(instance, stream)


@pytest.mark.parametrize("streaming", [True, False])
async def test_with_a_final_response_asked_for_a_failure_is_marked_as_the_last(
    instance: Instance, client: Client, streaming: bool
) -> None:
    worker = await instance.worker("chat", stream=streaming)
    stream = client.stream()
    await stream.send(request("chat", request_id="7", triton_enable_empty_final_response=True))
    await (await worker.exchange()).close()
    got = await stream.receive()
    assert_in_band(got, Code.UNAVAILABLE)
    assert parameters_of(got.infer_response)["triton_final_response"] is True
    await goes_on(instance, stream)


# What a streaming worker does after one good response; the code of the failure that follows.
Act = Callable[[Exchange], Awaitable[None]]


def sends(data: bytes, *, close: bool = False) -> Act:
    async def act(exchange: Exchange) -> None:
        await exchange.connection.send(data)
        if close:
            await exchange.close()

    return act


BROKEN: dict[str, tuple[Act, Code]] = {
    "length-of-4-gib": (sends(b"\xff\xff\xff\xff"), Code.INTERNAL),
    "length-above-the-limit": (sends(struct.pack(">I", (1 << 20) + 1)), Code.INTERNAL),
    "frame-cut-off": (sends(frame(ONE)[:-1], close=True), Code.INTERNAL),
    "header-cut-off": (sends(b"\x00\x00", close=True), Code.INTERNAL),
    "bytes-after-the-end": (sends(frame() + frame(ONE)), Code.INTERNAL),
    "byte-after-the-end": (sends(frame() + b"\x00"), Code.INTERNAL),
    "two-ends": (sends(frame() + frame()), Code.INTERNAL),
    "garbage": (sends(frame(b"hello, world")), Code.INTERNAL),
    "wire-type": (sends(frame(key(2, 0) + b"\x01")), Code.INTERNAL),
    "error-not-utf-8": (sends(frame(length_delimited(1, b"\xff"))), Code.INTERNAL),
    "response-garbage": (sends(frame(length_delimited(2, b"\xff"))), Code.INTERNAL),
    "response-cut-off": (sends(frame(ONE[:-1])), Code.INTERNAL),
    "closes": (sends(b"", close=True), Code.UNAVAILABLE),
}


@pytest.mark.parametrize(("act", "code"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("first", [True, False], ids=["at-once", "later"])
async def test_a_streaming_worker_that_breaks_the_rules_fails_one_request(
    start_instance: StartInstance, act: Act, code: Code, first: bool
) -> None:
    instance = await start_instance(max_message_bytes=1 << 20)
    worker = await instance.worker("chat", stream=True)
    stream = instance.client.stream()
    await stream.send(request("chat", request_id="beside"))
    beside = await worker.exchange()
    await stream.send(request("chat", request_id="7"))
    exchange = await worker.exchange()
    if not first:
        await exchange.send(ONE)
        assert (await stream.receive()).infer_response.id == "one"
    await act(exchange)
    assert_in_band(await stream.receive(), code)
    if code is Code.INTERNAL and not exchange.connection.ended.is_set():
        await ended(exchange.connection)
    await beside.send(stream_reply())
    assert (await stream.receive()).infer_response.id == "beside"
    await beside.end()
    await goes_on(instance, stream)


async def ended(connection: Connection) -> None:
    """The agent has closed it; a connection that the worker closed is no matter."""
    if connection.is_open:
        assert await within(connection.read()) == b""


async def test_bytes_after_the_end_and_a_close_fail_one_request_and_not_the_stream(
    instance: Instance, client: Client
) -> None:
    async def all_at_once(_: ScriptedWorker, connection: Connection) -> None:
        await connection.read_frame()
        many = b"".join(frame(stream_reply(raw=bytes(100))) for _ in range(8))
        await connection.send(many + frame() + frame(ONE))
        await connection.close()

    await instance.worker("chat", stream=True, script=all_at_once)
    stream = client.stream()
    await stream.send(request("chat", request_id="7"))
    for _ in range(8):
        assert (await stream.receive()).error_message == ""
    assert_in_band(await stream.receive(), Code.INTERNAL)
    await goes_on(instance, stream)


async def test_a_streaming_worker_that_died_after_replies_is_not_asked_again(
    instance: Instance, client: Client
) -> None:
    worker = await instance.worker("chat", stream=True)
    spare = await instance.worker("chat", stream=True, priority=-1)
    stream = client.stream()
    await stream.send(request("chat", request_id="7"))
    exchange = await worker.exchange()
    await exchange.send(ONE)
    await stream.receive()
    await exchange.close()
    assert_in_band(await stream.receive(), Code.UNAVAILABLE)
    assert spare.connections == []


async def test_violations_in_streams_count_and_a_good_end_starts_anew(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    for violations in (2, 2, 3):
        for _ in range(violations):
            await stream.send(request("chat", request_id="7"))
            await (await worker.exchange()).connection.send(b"\xff\xff\xff\xff")
            assert_in_band(await stream.receive(), Code.INTERNAL)
        if violations < 3:
            await stream.send(request("chat"))
            await (await worker.exchange()).end()
            await eventually(
                lambda: instance.agent.snapshot()["workers"][worker.worker_id]["in_flight"] == 0, "the end"
            )
    assert await instance.management.workers() == {}


async def test_cancelling_the_call_cancels_all_its_exchanges(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True, max_concurrency=3)
    unary = await instance.worker("echo")
    stream = client.stream()
    for number in range(4):
        await stream.send(request("chat", request_id=str(number)))
    await stream.send(request("echo"))
    exchanges = [await worker.exchange() for _ in range(3)]
    exchanges.append(await unary.exchange())
    await eventually(lambda: instance.waiting == 1, "a request in the queue")
    await exchanges[0].send(ONE)
    await stream.receive()
    stream.cancel()
    for exchange in exchanges:
        await exchange.cancelled()
    await eventually(lambda: instance.waiting == 0, "an empty queue")
    assert len(worker.requests) == 3


async def test_cancelling_one_call_leaves_another(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True)
    cancelled, other = client.stream(), client.stream()
    exchanges = []
    for stream, request_id in ((cancelled, "cancelled"), (other, "other")):
        await stream.send(request("chat", request_id=request_id))
        exchanges.append(await worker.exchange())
    cancelled.cancel()
    await exchanges[0].cancelled()
    await exchanges[1].send(stream_reply())
    assert (await other.receive()).infer_response.id == "other"
    await exchanges[1].end()
    await goes_on(instance, other)
