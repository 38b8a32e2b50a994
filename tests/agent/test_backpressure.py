"""A client that does not read stops the worker: what the agent holds stays bounded (wire.md section 5)."""

from __future__ import annotations

import asyncio

import pytest

from support.client import Client
from support.instances import Instance
from support.waiting import settled, within
from support.wire import frame, reply, request, stream_reply
from support.worker import Exchange

BOUND = 8 << 20
TOTAL = 32 << 20


async def send_all(exchange: Exchange, size: int) -> None:
    """TOTAL bytes in replies of `size`, numbered."""
    for number in range(TOTAL // size):
        await exchange.send(stream_reply(request_id=str(number), raw=bytes(size)))
    await exchange.end()


@pytest.mark.parametrize("size", [1 << 14, 1 << 16, 1 << 20])
async def test_a_client_that_does_not_read_stops_the_worker_and_gets_all_when_it_reads(
    instance: Instance, size: int
) -> None:
    client = instance.new_client(window=1 << 16)
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(request("chat"))
    exchange = await worker.exchange()
    sending = asyncio.ensure_future(send_all(exchange, size))
    accepted = await settled(lambda: exchange.connection.sent)
    assert not sending.done()
    assert 0 < accepted < BOUND
    for number in range(TOTAL // size):
        assert (await stream.receive()).infer_response.id == str(number)
    assert await stream.rest() == []
    await within(sending)


async def test_tiny_replies_are_bounded_too(instance: Instance) -> None:
    client = instance.new_client(window=1 << 16)
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(request("chat"))
    exchange = await worker.exchange()
    many = frame(stream_reply(request_id="x")) * 100_000  # each costs the agent far more than its bytes
    sending = asyncio.ensure_future(exchange.connection.send(many))
    accepted = await settled(lambda: exchange.connection.sent)
    assert not sending.done()
    assert accepted < len(many) // 2
    stream.cancel()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await within(sending)


async def test_a_client_that_does_not_read_holds_up_nobody_else(instance: Instance, client: Client) -> None:
    idle = instance.new_client(window=1 << 16)
    worker = await instance.worker("chat", stream=True)
    stream = idle.stream()
    await stream.send(request("chat"))
    exchange = await worker.exchange()
    sending = asyncio.ensure_future(send_all(exchange, 1 << 16))
    await settled(lambda: exchange.connection.sent)
    other = client.stream()
    await other.send(request("chat", request_id="other"))
    beside = await worker.exchange()
    for _ in range(50):
        await beside.send(stream_reply(raw=bytes(1 << 16)))
        assert (await other.receive()).infer_response.id == "other"
    await beside.end()
    assert await other.rest() == []
    stream.cancel()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await within(sending)


async def test_cancellation_reaches_a_worker_whose_client_does_not_read(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    client = instance.new_client(window=1 << 16)
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(request("chat"))
    exchange = await worker.exchange()
    sending = asyncio.ensure_future(send_all(exchange, 1 << 16))
    await settled(lambda: exchange.connection.sent)
    stream.cancel()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await within(sending)
    await instance.stop()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_stream_whose_client_only_sends_is_bounded(instance: Instance) -> None:
    """A client that sends and does not read: its requests are not taken without end."""
    client = instance.new_client(window=1 << 16)
    worker = await instance.worker("echo", answer=lambda _: reply(raw=bytes(1 << 16)))
    stream = client.stream()

    async def send() -> None:
        for _ in range(TOTAL >> 16):
            await stream.call.write(request("echo", raw=bytes(1 << 16)).SerializeToString())

    sending = asyncio.ensure_future(send())
    answered = await settled(lambda: len(worker.requests))
    assert not sending.done()
    assert answered << 16 < BOUND + (64 << 16)
    stream.cancel()
    with pytest.raises((asyncio.CancelledError, asyncio.InvalidStateError)):
        await within(sending)


async def test_a_client_that_does_not_read_keeps_no_places_of_a_unary_worker(instance: Instance) -> None:
    idle = instance.new_client(window=1 << 16)
    worker = await instance.worker("echo", answer=lambda _: reply(raw=bytes(1 << 17)))
    stream = idle.stream()
    for _ in range(20):
        await stream.send(request("echo"))
    await settled(lambda: len(worker.requests))
    await instance.client.infer(request("echo"), timeout=3)
    stream.cancel()
