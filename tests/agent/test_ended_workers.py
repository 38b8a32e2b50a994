"""Workers of which the agent is told that their process has ended: dropped at once, what they had sent still counts;
what a worker served that is to be started anew is UNAVAILABLE until it is."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from fcntl import ioctl
from termios import TIOCOUTQ

import pytest

from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve._proto import worker_management_pb2 as pb
from anyserve.agent import Agent
from anyserve.errors import Code
from support.client import Client, Management, failure
from support.instances import Instance
from support.waiting import eventually, settled, within
from support.wire import reply, request, stream_reply
from support.worker import Connection, ScriptedWorker

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
    if isinstance(instance.agent, Agent):  # on the test's own loop, and cannot have read it
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


async def cuts_its_reply_off(_worker: ScriptedWorker, connection: Connection) -> None:
    await connection.read_frame()
    await connection.send(b"\0")
    await connection.close()


async def ends(instance: Instance) -> None:
    instance.agent.worker_ended("kept", REASON)


async def leaves(instance: Instance) -> None:
    await instance.unregister("kept")
    instance.agent.worker_ended("kept", REASON)


async def breaks_the_framing(instance: Instance) -> None:
    for _ in range(3):
        assert (await instance.client.refused(request("bad"))).code is Code.INTERNAL
    instance.agent.worker_ended("kept", REASON)


@pytest.mark.parametrize("go", [ends, leaves, breaks_the_framing])
async def test_what_a_kept_worker_served_is_unavailable_until_one_is_back(
    instance: Instance, client: Client, management: Management, go: Callable[[Instance], Awaitable[None]]
) -> None:
    instance.agent.keep_worker("place", "kept")
    kept = instance.new_worker("kept", script=cuts_its_reply_off)
    await management.register(kept, "m", "2", capability={"type": "chat", "lang": "de"})
    await management.register(kept, "bad")
    assert await management.heartbeat("kept")
    await go(instance)
    assert (await client.refused(request("m"))).code is Code.UNAVAILABLE
    assert (await client.refused(request("m", version="2"))).code is Code.UNAVAILABLE
    assert (await client.refused(request(), query={"lang": "d*"})).code is Code.UNAVAILABLE
    stream = client.stream()
    await stream.send(request("m"))
    told = (await stream.receive()).infer_response.parameters["anyserve_error_code"].int64_param
    assert told == Code.UNAVAILABLE
    for elsewhere in (client.infer(request("m", version="1")), client.infer(request("n"))):
        assert (await failure(elsewhere)).code is Code.NOT_FOUND
    assert not (await client.ModelReady(kserve.ModelReadyRequest(name="m"))).ready
    assert (await failure(client.ModelMetadata(kserve.ModelMetadataRequest(name="m")))).code is Code.NOT_FOUND
    instance.agent.keep_worker("place", "new")
    new = await instance.worker("m", "2", worker_id="new", answer=lambda _: reply(request_id="new"))
    assert (await client.infer(request("m"))).id == "new"
    assert (await client.refused(request("bad"))).code is Code.UNAVAILABLE  # not yet all that it serves
    assert await management.heartbeat(new.worker_id)
    assert (await client.refused(request("bad"))).code is Code.NOT_FOUND


async def test_what_no_worker_is_kept_for_is_not_found(instance: Instance, client: Client) -> None:
    for place, worker_id in (("a", "stopped"), ("b", "replaced")):
        instance.agent.keep_worker(place, worker_id)
        await instance.worker(worker_id, worker_id=worker_id)
        await instance.management.heartbeat(worker_id)
    await instance.worker("foreign", worker_id="foreign")
    instance.agent.worker_ended("foreign", REASON)
    assert (await client.refused(request("foreign"))).code is Code.NOT_FOUND
    instance.agent.worker_ended("stopped", REASON)
    assert (await client.refused(request("stopped"))).code is Code.UNAVAILABLE
    instance.agent.keep_worker("a", None)
    assert (await client.refused(request("stopped"))).code is Code.NOT_FOUND
    await instance.worker("other", worker_id="new")
    instance.agent.keep_worker("b", "new")
    await instance.unregister("replaced")
    assert (await client.refused(request("replaced"))).code is Code.NOT_FOUND


async def test_a_worker_that_is_kept_when_it_is_there_already_leaves_nothing_to_wait_for(
    instance: Instance, client: Client
) -> None:
    """At a reload the new worker has registered before it takes the place of the old."""
    instance.agent.keep_worker("place", "old")
    await instance.worker("gone", worker_id="old")
    instance.agent.worker_ended("old", REASON)
    await instance.worker("m", worker_id="new")
    await instance.management.heartbeat("new")
    assert (await client.refused(request("gone"))).code is Code.UNAVAILABLE
    instance.agent.keep_worker("place", "new")
    assert (await client.refused(request("gone"))).code is Code.NOT_FOUND


async def test_workers_that_die_again_before_they_have_registered_all(instance: Instance, client: Client) -> None:
    for worker_id in ("first", "second", "third"):
        instance.agent.keep_worker("place", worker_id)
        await instance.worker("m", worker_id=worker_id)
        if worker_id == "first":
            await instance.worker("n", worker_id=worker_id)
        instance.agent.worker_ended(worker_id, REASON)
        for model in ("m", "n"):
            assert (await client.refused(request(model))).code is Code.UNAVAILABLE


async def test_what_is_left_serves_although_a_kept_worker_has_gone(instance: Instance, client: Client) -> None:
    instance.agent.keep_worker("place", "kept")
    await instance.worker("m", worker_id="kept", priority=1)
    await instance.worker("m", worker_id="left", answer=lambda _: reply(request_id="left"))
    instance.agent.worker_ended("kept", REASON)
    assert (await client.infer(request("m"))).id == "left"


async def test_model_infer_of_what_streams_stays_unimplemented(instance: Instance, client: Client) -> None:
    """It would be, too, when the worker is back: to try again does not help."""
    instance.agent.keep_worker("place", "kept")
    await instance.worker("tokens", worker_id="kept", stream=True)
    instance.agent.worker_ended("kept", REASON)
    assert (await client.refused(request("tokens"))).code is Code.UNIMPLEMENTED
    stream = client.stream()
    await stream.send(request("tokens"))
    told = (await stream.receive()).infer_response.parameters["anyserve_error_code"].int64_param
    assert told == Code.UNAVAILABLE


async def test_a_registration_that_comes_after_the_end_is_refused(
    instance: Instance, client: Client, management: Management
) -> None:
    """It was on its way when the process ended; who takes it waits for a worker that is not there."""
    worker = await instance.worker("m", worker_id="ended")
    instance.agent.worker_ended("ended", REASON)
    refused = await failure(management.register(worker, "m"))
    assert (refused.code, "ended" in refused.message) == (Code.FAILED_PRECONDITION, True)
    assert await management.workers() == {}
    assert (await client.refused(request("m"))).code is Code.NOT_FOUND


async def test_of_ended_workers_a_bounded_number_is_remembered(instance: Instance, management: Management) -> None:
    worker = instance.new_worker("ended")
    instance.agent.worker_ended("ended", REASON)
    for number in range(1023):
        instance.agent.worker_ended(f"ended-{number}", REASON)
    assert (await failure(management.register(worker, "m"))).code is Code.FAILED_PRECONDITION
    instance.agent.worker_ended("one-more", REASON)
    await management.register(worker, "m")
