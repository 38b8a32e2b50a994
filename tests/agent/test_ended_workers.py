"""Workers of which the agent is told that their process has ended: dropped at once, what they had sent still counts."""

from __future__ import annotations

import struct
from fcntl import ioctl
from termios import TIOCOUTQ

import pytest

from anyserve._proto import worker_management_pb2 as pb
from anyserve.errors import Code
from support.client import Client, Management, failure
from support.instances import Instance
from support.waiting import eventually, settled, within
from support.wire import reply, request, stream_reply
from support.worker import Connection

REASON = "its process was killed by SIGKILL"


def unread(connection: Connection) -> int:
    """What the agent has not read of the bytes sent, and what the system needs to keep them."""
    return int(struct.unpack("i", ioctl(connection._socket, TIOCOUTQ, bytes(4)))[0])


async def test_it_is_dropped_at_once_and_the_reason_told(
    instance: Instance, client: Client, management: Management
) -> None:
    worker = await instance.worker("m", answer=lambda _: reply())
    assert await management.heartbeat(worker.worker_id)
    await client.infer(request("m"))
    watch = management.watch(include_existing=True)
    await within(watch.read())
    instance.agent.worker_ended(worker.worker_id, REASON)
    assert (await client.refused(request("m"))).code is Code.NOT_FOUND
    assert await management.workers() == {}
    assert not await management.heartbeat(worker.worker_id)
    lost, unregistered = [await within(watch.read()) for _ in range(2)]
    assert (lost.type, lost.worker_id, lost.message) == (pb.Event.WORKER_LOST, worker.worker_id, REASON)
    assert unregistered.type == pb.Event.MODEL_UNREGISTERED
    await within(worker.connections[0].read())  # the agent closes what it had kept
    assert worker.connections[0].ended.is_set()


async def test_one_that_has_taken_its_leave_is_not_lost(instance: Instance, management: Management) -> None:
    worker = await instance.worker("m")
    await instance.unregister(worker.worker_id)
    await instance.worker("witness", worker_id="witness")
    watch = management.watch(include_existing=True)
    await within(watch.read())
    for worker_id in (worker.worker_id, "stranger"):
        instance.agent.worker_ended(worker_id, REASON)
    await instance.unregister("witness")
    assert (await within(watch.read())).worker_id == "witness"  # the next event there is


async def test_requests_that_wait_go_to_what_is_left(instance: Instance, client: Client) -> None:
    ended = await instance.worker("m", worker_id="ended", max_concurrency=1, priority=1)
    lost = client.start(request("m"))
    await ended.exchange()
    waiting = [client.background(request("m")) for _ in range(3)]
    await instance.worker("m", answer=lambda _: reply(request_id="left"))
    instance.agent.worker_ended("ended", REASON)
    assert (await failure(lost)).code is Code.UNAVAILABLE
    assert [(await call).id for call in waiting] == ["left"] * 3


async def test_a_reply_that_lies_in_the_socket_is_not_lost(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m")
    call = client.background(request("m"))
    exchange = await worker.exchange()
    await exchange.answer(reply(request_id="complete"))
    assert unread(exchange.connection)
    instance.agent.worker_ended(worker.worker_id, REASON)
    assert (await call).id == "complete"


async def test_a_stream_that_lies_in_the_socket_is_not_lost(instance: Instance) -> None:
    client = instance.new_client(window=1 << 16)
    worker = await instance.worker("m", stream=True)
    stream = client.stream()
    await stream.send(request("m"))
    exchange = await worker.exchange()
    count = 0
    while not unread(exchange.connection):  # until the agent is behind, because the client is
        for _ in range(8):
            await exchange.send(stream_reply(request_id=str(count), raw=bytes(4096)))
            count += 1
        await settled(lambda: unread(exchange.connection), still=0.05)
    await exchange.end()
    await exchange.connection.close()
    instance.agent.worker_ended(worker.worker_id, REASON)
    replies = await stream.rest()
    assert [(r.infer_response.id, r.error_message) for r in replies] == [(str(n), "") for n in range(count)]


@pytest.mark.parametrize("stream", [False, True])
async def test_exchanges_end_although_a_child_of_it_keeps_its_sockets(
    instance: Instance, client: Client, stream: bool
) -> None:
    worker = await instance.worker("m", stream=stream)
    call = client.stream()
    await call.send(request("m"))
    exchange = await worker.exchange()
    if stream:
        await exchange.send(stream_reply(request_id="sent"))
    instance.agent.worker_ended(worker.worker_id, REASON)  # and the worker's end stays open
    if stream:
        assert (await call.receive()).infer_response.id == "sent"
    lost = await call.receive()
    assert lost.error_message
    assert lost.infer_response.parameters["anyserve_error_code"].int64_param == Code.UNAVAILABLE
    await exchange.cancelled()
    assert await call.rest() == []


async def test_a_request_that_it_had_not_taken_goes_to_another(instance: Instance, client: Client) -> None:
    ended = instance.new_worker("ended", accept=False)
    await instance.management.register(ended, "m", priority=1)
    call = client.background(request("m", raw=bytes(4 << 20)))  # more than a socket holds
    await eventually(lambda: instance.agent.snapshot()["workers"]["ended"]["connections"], "the agent's connection")
    await instance.worker("m", answer=lambda _: reply(request_id="left"))
    instance.agent.worker_ended("ended", REASON)
    assert (await call).id == "left"
