"""Workers that break the framing: the exchange fails, the agent lives, others are untouched (wire.md section 4)."""

from __future__ import annotations

import asyncio
import struct

import pytest

from anyserve.errors import Code
from support.client import Client, Management
from support.instances import Instance, StartInstance
from support.waiting import within
from support.wire import frame, key, length_delimited, reply, request
from support.worker import Connection, ScriptedWorker

ANSWER = frame(reply("m", request_id="fine"))
LIMIT_BYTES = 1 << 20

# What a worker sends in place of its reply, and whether it closes then.
VIOLATIONS: dict[str, tuple[bytes, bool]] = {
    "length-of-4-gib": (b"\xff\xff\xff\xff", False),
    "length-above-the-limit": (struct.pack(">I", LIMIT_BYTES + 1) + bytes(100), False),
    "little-endian-length": (struct.pack("<I", 100) + bytes(100), False),
    "text": (b"HTTP/1.1 200 OK\r\n\r\n", False),
    "header-cut-off": (ANSWER[:2], True),
    "frame-cut-off": (ANSWER[:-1], True),
    "payload-missing": (ANSWER[:4], True),
    "two-replies": (ANSWER + ANSWER, False),
    "two-replies-and-a-close": (ANSWER + ANSWER, True),
    "reply-and-an-empty-frame": (ANSWER + frame(), False),
    "reply-and-half-a-header": (ANSWER + b"\x00\x00", False),
    "reply-and-half-a-frame-and-a-close": (ANSWER + ANSWER[:-1], True),
}


@pytest.fixture
async def small_instance(start_instance: StartInstance) -> Instance:
    """An instance whose limit on messages is LIMIT_BYTES."""
    return await start_instance(max_message_bytes=LIMIT_BYTES)


async def break_framing(
    client: Client, worker: ScriptedWorker, sent: bytes = b"\xff\xff\xff\xff", close: bool = False
) -> Code:
    """One request that a worker answers with these bytes; how it failed."""
    call = asyncio.ensure_future(client.refused(request("m")))
    exchange = await worker.exchange()
    await exchange.connection.send(sent)
    if close:
        await exchange.close()
    error = await call
    if not close:
        await exchange.cancelled()
    return error.code


async def serve_well(client: Client, worker: ScriptedWorker) -> None:
    """One request that a worker answers as it should."""
    call = client.background(request("m"))
    await (await worker.exchange()).answer(reply(request_id="fine"))
    assert (await call).id == "fine"


@pytest.mark.parametrize(("sent", "close"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_broken_framing_fails_the_exchange_alone(small_instance: Instance, sent: bytes, close: bool) -> None:
    client = small_instance.client
    other = await small_instance.worker("other")
    untouched = client.background(request("other"))
    running = await other.exchange()
    worker = await small_instance.worker("m")
    same_worker = client.background(request("m"))
    running_beside = await worker.exchange()

    assert await break_framing(client, worker, sent, close) is Code.INTERNAL

    await running.answer(reply(request_id="other"))
    await running_beside.answer(reply(request_id="beside"))
    assert [(await untouched).id, (await same_worker).id] == ["other", "beside"]
    await serve_well(client, worker)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"hello, world", id="text"),
        pytest.param(b"\xff" * 20, id="ones"),
        pytest.param(reply("m", raw=bytes(100)).SerializeToString()[:-1], id="cut-off"),
        pytest.param(length_delimited(1, b"\xff"), id="name-not-utf-8"),
        pytest.param(key(1, 0) + b"\x01", id="wire-type"),
        pytest.param(length_delimited(4, b"\xff"), id="broken-parameter"),
    ],
)
async def test_bytes_that_are_no_reply_are_internal(instance: Instance, client: Client, payload: bytes) -> None:
    worker = await instance.worker("m")
    call = asyncio.ensure_future(client.refused(request("m")))
    await (await worker.exchange()).answer(payload)
    error = await call
    assert error.code is Code.INTERNAL
    assert "ModelInferResponse" in error.message
    await serve_well(client, worker)
    assert len(worker.connections) == 1  # the framing was kept, so the connection is kept


async def test_an_empty_frame_is_an_empty_reply(instance: Instance, client: Client) -> None:
    await instance.worker("m", "1", answer=lambda _: b"")
    got = await client.infer(request("m", request_id="7"))
    assert got == reply("m", version="1", request_id="7")


async def test_a_reply_may_come_byte_by_byte(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m")
    call = client.background(request("m"))
    exchange = await worker.exchange()
    for byte in frame(reply(request_id="slow", raw=bytes(50))):
        await exchange.connection.send(bytes((byte,)))
        await asyncio.sleep(0)  # lets the agent read it
    exchange.over.set()
    assert (await call).id == "slow"
    await serve_well(client, worker)
    assert len(worker.connections) == 1


async def test_a_length_above_the_limit_fails_before_its_payload_comes(small_instance: Instance) -> None:
    worker = await small_instance.worker("m")
    assert await break_framing(small_instance.client, worker, struct.pack(">I", LIMIT_BYTES + 1)) is Code.INTERNAL


async def test_a_reply_of_the_greatest_length_passes(small_instance: Instance) -> None:
    worker = await small_instance.worker("m")
    call = asyncio.ensure_future(small_instance.client.infer_bytes(request("m")))
    empty = len(reply("m", raw=bytes(LIMIT_BYTES // 2)).SerializeToString()) - LIMIT_BYTES // 2
    largest = reply("m", raw=bytes(LIMIT_BYTES - empty)).SerializeToString()
    assert len(largest) == LIMIT_BYTES
    await (await worker.exchange()).answer(largest)
    assert await call == largest


@pytest.mark.parametrize(
    "sent", [ANSWER, frame(), b"\x00", b"\xff\xff\xff\xff"], ids=["reply", "empty", "byte", "4-gib"]
)
async def test_bytes_without_a_request_close_the_idle_connection(
    instance: Instance, client: Client, sent: bytes
) -> None:
    worker = await instance.worker("m")
    await serve_well(client, worker)
    idle = worker.connections[0]
    await idle.send(sent)
    await within(idle.ended.wait())
    assert bytes(idle.received) == frame(request("m"))
    await serve_well(client, worker)
    assert len(worker.connections) == 2


async def test_a_reply_before_the_request_was_taken_is_internal(instance: Instance, client: Client) -> None:
    async def eager(_: ScriptedWorker, connection: Connection) -> None:
        await connection.read_exactly(10)
        await connection.send(ANSWER)  # of 8 MiB only some kilobytes can have been sent
        await connection.ended.wait()

    worker = await instance.worker("m", script=eager)
    error = await client.refused(request("m", raw=bytes(8 << 20)))
    assert error.code is Code.INTERNAL
    assert len(worker.connections) == 1


async def test_three_violations_in_a_row_drop_the_worker(
    instance: Instance, client: Client, management: Management
) -> None:
    worker = await instance.worker("m")
    for _ in range(2):
        assert await break_framing(client, worker) is Code.INTERNAL
    assert set(await management.workers()) == {worker.worker_id}
    assert await break_framing(client, worker) is Code.INTERNAL
    assert await management.workers() == {}
    assert (await client.refused(request("m"))).code is Code.NOT_FOUND


async def test_violations_without_an_exchange_count_too(
    instance: Instance, client: Client, management: Management
) -> None:
    worker = await instance.worker("m")
    calls = [client.background(request("m")) for _ in range(3)]
    for exchange in [await worker.exchange() for _ in calls]:
        await exchange.answer(reply())
    await asyncio.gather(*calls)
    assert len(worker.connections) == 3
    for connection in worker.connections:
        assert set(await management.workers()) == {worker.worker_id}
        await connection.send(b"\x00")
        await within(connection.ended.wait())
    assert await management.workers() == {}


async def test_a_good_reply_between_violations_starts_the_count_anew(
    instance: Instance, client: Client, management: Management
) -> None:
    worker = await instance.worker("m")
    for _ in range(3):
        for _ in range(2):
            assert await break_framing(client, worker) is Code.INTERNAL
        await serve_well(client, worker)
    assert set(await management.workers()) == {worker.worker_id}


async def test_violations_of_one_worker_do_not_count_for_another(
    instance: Instance, client: Client, management: Management
) -> None:
    first = await instance.worker("m", worker_id="first")
    second = await instance.worker("n", worker_id="second")
    for _ in range(2):
        assert await break_framing(client, first) is Code.INTERNAL
    call = asyncio.ensure_future(client.refused(request("n")))
    await (await second.exchange()).connection.send(b"\xff\xff\xff\xff")
    assert (await call).code is Code.INTERNAL
    assert set(await management.workers()) == {"first", "second"}


async def test_a_worker_dropped_for_violations_may_register_again(
    instance: Instance, client: Client, management: Management
) -> None:
    worker = await instance.worker("m")
    for _ in range(3):
        await break_framing(client, worker)
    await management.register(worker, "m")
    for _ in range(2):
        assert await break_framing(client, worker) is Code.INTERNAL
    assert set(await management.workers()) == {worker.worker_id}
    await serve_well(client, worker)


async def test_closing_without_a_reply_is_no_violation(
    instance: Instance, client: Client, management: Management
) -> None:
    worker = await instance.worker("m")
    for _ in range(5):
        call = asyncio.ensure_future(client.refused(request("m")))
        await (await worker.exchange()).close()
        assert (await call).code is Code.UNAVAILABLE
    assert set(await management.workers()) == {worker.worker_id}
