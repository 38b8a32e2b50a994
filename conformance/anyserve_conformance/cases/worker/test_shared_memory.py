"""Payloads by shared memory, as a worker takes and sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anyserve_conformance import proto
from anyserve_conformance.patience import Patience
from anyserve_conformance.requirement import not_applicable, requirement
from anyserve_conformance.scripted_agent import ScriptedAgent, WorkerUnderTest
from anyserve_conformance.shared_memory import (
    BODY_SEALS,
    ROOM_SEALS,
    encode,
    memory,
    read_reply,
    send_request,
)

LOOK_AT = "the worker's reading of frames by reference, and its mapping of the memory"

SIZE = 1 << 20


@pytest.fixture
def sharing(launch_worker: Callable[..., WorkerUnderTest], patience: Patience) -> WorkerUnderTest:
    """A worker that asked for shared memory, and was answered that it is agreed."""
    agent = ScriptedAgent(patience)
    agent.answers["RegisterModel"] = lambda request: proto.RegisterModelResponse(
        success=True, shared_memory=request.shared_memory
    )
    agent.start()
    worker = launch_worker(agent=agent)
    if not worker.registration("echo").shared_memory:
        not_applicable("the worker does not ask for shared memory")
    return worker


def request_of(worker: WorkerUnderTest, raw: bytes) -> bytes:
    """A request for the worker's echo."""
    data: bytes = worker.request("echo", raw=raw).SerializeToString()
    return data


def contents(payload: bytes) -> list[bytes]:
    """What the tensors of a reply hold."""
    return list(proto.ModelInferResponse.FromString(payload).raw_output_contents)


@requirement("frame.shared.take")
def test_body(sharing: WorkerUnderTest) -> None:
    """A request lies in a body, its end is inline; another one comes in one piece on the same connection."""
    connection = sharing.connect()
    payload = request_of(sharing, bytes(range(256)) * 4096)
    with memory(payload[:-100], 2 * SIZE) as (body, mapped):
        send_request(connection, encode(len(payload) - 100, 0, payload[-100:]), [body])
        reply = read_reply(connection, 0)
        assert contents(reply.payload(mapped)) == [bytes(range(256)) * 4096]
    assert list(connection.ask(sharing.request("echo", raw=b"abc")).raw_output_contents) == [b"abc"]


@requirement("frame.shared.take")
def test_body_without_inline_bytes(sharing: WorkerUnderTest) -> None:
    """A request lies in a body as a whole, also a small one."""
    connection = sharing.connect()
    payload = request_of(sharing, b"abc")
    with memory(payload) as (body, mapped):
        send_request(connection, encode(len(payload)), [body])
        assert contents(read_reply(connection, 0).payload(mapped)) == [b"abc"]


@requirement("frame.shared.take", "frame.shared.known")
def test_same_memory_again(sharing: WorkerUnderTest) -> None:
    """The same memory comes again with other bytes: these are read."""
    connection = sharing.connect()
    with memory(b"", 2 * SIZE) as (body, mapped):
        for byte in b"abcde":
            payload = request_of(sharing, bytes([byte]) * SIZE)
            mapped[: len(payload)] = payload
            send_request(connection, encode(len(payload)), [body])
            assert contents(read_reply(connection, 0).payload(mapped)) == [bytes([byte]) * SIZE]


@requirement("frame.shared.take")
def test_memory_of_many_sizes(sharing: WorkerUnderTest) -> None:
    """Memory that is closed after use, one of each size, on connections of their own."""
    for shift in range(12, 24):
        raw = bytes([shift]) * (1 << shift)
        payload = request_of(sharing, raw)
        connection = sharing.connect()
        with memory(payload, 2 << shift) as (body, mapped):
            send_request(connection, encode(len(payload)), [body])
            assert contents(read_reply(connection, 0).payload(mapped)) == [raw]
        connection.close()


def with_room(worker: WorkerUnderTest, connection: Any, raw: bytes, room: int, mapped: Any) -> bytes:
    """One exchange whose request is inline and offers room: the reply's payload."""
    payload = request_of(worker, raw)
    send_request(connection, encode(0, len(mapped), payload), [room])
    return read_reply(connection, len(mapped)).payload(mapped)


@requirement("frame.shared.reply", "frame.shared.take")
@pytest.mark.parametrize("size", [1, 1000, 100_000, SIZE])
def test_room(sharing: WorkerUnderTest, size: int) -> None:
    """A reply of any size to a request that offers room: in it, inline, or both."""
    connection = sharing.connect()
    with memory(b"", 2 * SIZE, ROOM_SEALS) as (room, mapped):
        for byte in b"abc":
            raw = bytes([byte]) * min(size, 60_000)  # the request is inline
            assert contents(with_room(sharing, connection, raw, room, mapped)) == [raw]


@requirement("frame.shared.reply", "frame.shared.take")
@pytest.mark.parametrize("room_size", [1, 4096, 2 * SIZE], ids=["tiny", "small", "large"])
def test_body_and_room(sharing: WorkerUnderTest, room_size: int) -> None:
    """A large request and a room; where the reply does not fit it comes inline."""
    connection = sharing.connect()
    raw = bytes(range(256)) * 4096
    payload = request_of(sharing, raw)
    with memory(payload) as (body, _), memory(b"", room_size, ROOM_SEALS) as (room, mapped):
        send_request(connection, encode(len(payload), room_size), [body, room])
        assert contents(read_reply(connection, room_size).payload(mapped)) == [raw]
    assert list(connection.ask(sharing.request("echo", raw=b"abc")).raw_output_contents) == [b"abc"]


@requirement("frame.shared.reply-done")
def test_room_is_left_alone(sharing: WorkerUnderTest) -> None:
    """Nothing is written into a room behind the reply that is in it."""
    connection = sharing.connect()
    with memory(b"", 2 * SIZE, ROOM_SEALS) as (room, mapped):
        with_room(sharing, connection, bytes(50_000), room, mapped)
        mapped[:] = b"m" * len(mapped)
        for _ in range(3):
            connection.ask(sharing.request("echo", raw=b"x" * 50_000))
        assert mapped[:] == b"m" * len(mapped), "the worker has written into a room after its reply"


@requirement("frame.shared.check")
@pytest.mark.parametrize("fault", ["none", "one-of-two", "too-small", "may-shrink"])
def test_descriptors_that_are_wrong(sharing: WorkerUnderTest, fault: str) -> None:
    """A frame whose descriptors are not what it tells ends the connection, and nothing else."""
    connection = sharing.connect()
    payload = request_of(sharing, bytes(SIZE))
    seals = 0 if fault == "may-shrink" else BODY_SEALS
    with memory(payload, seals=seals) as (body, _):
        told = len(payload) + (4 * SIZE if fault == "too-small" else 0)
        room = 4096 if fault == "one-of-two" else 0
        send_request(connection, encode(told, room), [] if fault == "none" else [body])
        connection.expect_end()
    sharing.serves()
