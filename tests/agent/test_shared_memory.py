"""Payloads by shared memory between agent and worker: both agents, against a scripted worker (`frame.shared.*`)."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc.aio
import pytest

from anyserve._proto import worker_management_pb2
from anyserve.errors import Code
from support.client import Client
from support.instances import Instance, StartInstance
from support.shared_memory import (
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    Request,
    read_request,
    reference,
    seals,
    sharing,
)
from support.waiting import eventually, within
from support.wire import frame, raw_bytes, reply, request, stream_reply
from support.worker import Connection, ScriptedWorker, silent

LARGE = 1 << 20


async def test_registering_tells_whether_it_is_agreed(start_instance: StartInstance) -> None:
    for settings, agreed in (({}, True), ({"shared_memory_threshold": 0}, False), ({"shared_memory_bytes": 0}, False)):
        instance = await start_instance(**settings)
        worker = instance.new_worker()
        for asked in (True, False):
            answer = await within(
                instance.management.RegisterModel(
                    worker_management_pb2.RegisterModelRequest(
                        model_name="m",
                        worker_address=worker.address,
                        worker_id=worker.worker_id,
                        shared_memory=asked,
                    )
                )
            )
            assert answer.success
            assert answer.shared_memory is (agreed and asked)


async def test_a_large_request_lies_in_a_body_and_what_is_appended_behind_it(
    instance: Instance, client: Client
) -> None:
    with sharing() as script:
        await instance.worker("m", script=script, shared_memory=True, capability={"type": "t"})
        sent = raw_bytes(request("m", raw=os.urandom(LARGE)))
        await client.infer(sent)
        (got,) = script.requests
        assert got.by_reference
        assert got.room_size == 0
        assert got.payload == sent + got.inline
        assert b"anyserve_capability" in got.inline
        assert seals(got.body) == F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL


@pytest.mark.parametrize("shared_memory", [False, True])
async def test_small_requests_and_those_for_workers_that_do_not_ask_go_inline(
    instance: Instance, client: Client, shared_memory: bool
) -> None:
    # Another worker takes it, so the agent may have put the request into shared memory already.
    await instance.worker("other", script=silent, shared_memory=True)
    with sharing() as script:
        await instance.worker("m", script=script, shared_memory=shared_memory)
        sent = raw_bytes(request("m", raw=bytes(100 if shared_memory else LARGE)))
        await client.infer(sent)
        (got,) = script.requests
        assert not got.by_reference
        assert got.payload == sent


async def test_room_is_offered_once_a_reply_was_large(instance: Instance, client: Client) -> None:
    with sharing(answer=LARGE) as script:
        await instance.worker("m", script=script, shared_memory=True)
        for _ in range(3):
            answer = await client.infer(request("m", request_id="7"))
            assert answer.raw_output_contents[0] == bytes(LARGE)
            assert (answer.id, answer.model_name) == ("7", "m"), "filled in behind the room's bytes"
        first, second, third = script.requests
        assert not first.by_reference
        assert second.room_size > LARGE
        assert second.body == -1
        assert seals(second.room) == F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL
        assert third.inode(third.room) == second.inode(second.room), "the same memory again"
        script.answer = 10
        await client.infer(request("m"))
        await client.infer(request("m"))
        assert not script.requests[-1].by_reference, "the last reply was small"


async def test_bodies_are_used_again(instance: Instance, client: Client) -> None:
    with sharing() as script:
        await instance.worker("m", script=script, shared_memory=True)
        for number in range(4):
            await client.infer(request("m", raw=bytes([number]) * LARGE))
        inodes = {got.inode(got.body) for got in script.requests}
        assert len(inodes) <= 2  # a client may send before the last call's memory is free


async def test_rooms_are_a_workers_own(instance: Instance, client: Client) -> None:
    with sharing(answer=LARGE) as one, sharing(answer=LARGE) as two:
        await instance.worker("one", script=one, shared_memory=True)
        await instance.worker("two", script=two, shared_memory=True)
        for _ in range(3):
            await client.infer(request("one"))
            await client.infer(request("two"))
        rooms = [{got.inode(got.room) for got in script.requests if got.room_size} for script in (one, two)]
        assert all(rooms)
        assert not rooms[0] & rooms[1]


async def test_a_body_of_a_cancelled_exchange_is_not_used_again(instance: Instance, client: Client) -> None:
    seen: list[Request] = []
    answers = asyncio.Event()

    async def script(_: ScriptedWorker, connection: Connection) -> None:
        while True:
            seen.append(await read_request(connection))
            if not answers.is_set():
                await connection.read()  # until the agent gives up
                return
            await connection.send(frame(b""))

    await instance.worker("m", script=script, shared_memory=True)
    error = await client.refused(request("m", raw=b"1" * LARGE), timeout=0.5)
    assert error.code is Code.DEADLINE_EXCEEDED
    answers.set()
    for _ in range(3):
        await client.infer(request("m", raw=b"2" * LARGE))
    first, *others = seen
    assert all(first.inode(first.body) != other.inode(other.body) for other in others)
    with mmap.mmap(first.body, LARGE, prot=mmap.PROT_READ) as memory:
        assert memory[-1000:] != b"2" * 1000
    for got in seen:
        got.close()


async def test_memory_has_a_bound_beyond_which_requests_go_inline(start_instance: StartInstance) -> None:
    instance = await start_instance(shared_memory_bytes=4 * LARGE)
    seen: list[Request] = []
    go_on = asyncio.Event()

    async def script(_: ScriptedWorker, connection: Connection) -> None:
        seen.append(await read_request(connection))
        await go_on.wait()
        await connection.send(frame(b""))

    await instance.worker("m", script=script, shared_memory=True)
    calls = [instance.client.background(request("m", raw=bytes(LARGE))) for _ in range(4)]  # of 2 MiB each, rounded up
    await eventually(lambda: len(seen) == 4)
    assert sorted(got.by_reference for got in seen) == [False, False, True, True]
    go_on.set()
    for call in calls:
        await call
    for got in seen:
        got.close()


@pytest.mark.parametrize(
    "bad",
    [
        lambda room: reference(room + 1),
        lambda _: reference((1 << 64) - 1),
        lambda _: reference(4, last=1),
        lambda _: reference((1 << 64) - 4, b"1234"),
        lambda _: reference(4) + b"more",
    ],
    ids=["one-more", "all-ones", "third-number", "sum-overflows", "trailing"],
)
async def test_a_reply_that_tells_too_much_is_a_violation(
    instance: Instance, client: Client, bad: Callable[[int], bytes]
) -> None:
    async def script(_: ScriptedWorker, connection: Connection) -> None:
        while True:
            got = await read_request(connection)
            if got.room_size:
                got.put(b"none")
                await connection.send(bad(got.room_size))
            else:
                await connection.send(frame(reply(raw=bytes(LARGE))))
            got.close()

    await instance.worker("m", script=script, shared_memory=True)
    await client.infer(request("m"))
    error = await client.refused(request("m"))
    assert error.code is Code.INTERNAL


async def test_a_reply_by_reference_without_a_room_is_a_violation(instance: Instance, client: Client) -> None:
    async def script(_: ScriptedWorker, connection: Connection) -> None:
        await read_request(connection)
        await connection.send(reference(1))
        await connection.ended.wait()

    await instance.worker("m", script=script, shared_memory=True)
    assert (await client.refused(request("m"))).code is Code.INTERNAL


async def test_a_streaming_registration_is_offered_no_room(instance: Instance, client: Client) -> None:
    seen: list[Request] = []

    async def script(_: ScriptedWorker, connection: Connection) -> None:
        while True:
            seen.append(await read_request(connection))
            await connection.send(frame(stream_reply(raw=bytes(LARGE))) + frame(b""))

    await instance.worker("m", script=script, shared_memory=True, stream=True)
    for _ in range(3):
        stream = client.stream()
        await stream.send(request("m", raw=bytes(LARGE)))
        (answer,) = await stream.rest()
        assert not answer.error_message
    assert [(got.by_reference, got.room_size) for got in seen] == [(True, 0)] * 3
    for got in seen:
        got.close()


async def test_a_unary_reply_from_a_room_goes_into_a_stream(instance: Instance, client: Client) -> None:
    with sharing(answer=LARGE) as script:
        await instance.worker("m", script=script, shared_memory=True)
        stream = client.stream()
        for _ in range(3):
            await stream.send(request("m"))
            assert (await stream.receive()).infer_response.raw_output_contents[0] == bytes(LARGE)
        await stream.done_sending()
        assert script.requests[-1].room_size


async def test_whatever_a_worker_does_with_its_descriptors(instance: Instance, client: Client) -> None:
    """Seals make truncation impossible; holes and other bytes are the worker's own reply."""

    async def script(_: ScriptedWorker, connection: Connection) -> None:
        while True:
            got = await read_request(connection)
            for descriptor in got.descriptors:
                for size in (0, 1 << 30):
                    with pytest.raises(PermissionError):
                        os.ftruncate(descriptor, size)
            if got.body >= 0:
                with pytest.raises(PermissionError):
                    os.pwrite(got.body, b"x", 0)
                with pytest.raises(PermissionError):
                    mmap.mmap(got.body, LARGE)
            payload = raw_bytes(reply(raw=bytes(LARGE)))
            if got.room_size:
                got.put(payload)
                await connection.send(reference(len(payload)))
                got.put(os.urandom(len(payload)))  # against the rules: the client may see either
            else:
                await connection.send(frame(payload))
            got.close()

    await instance.worker("m", script=script, shared_memory=True)
    with sharing(answer=LARGE) as good:
        await instance.worker("good", script=good, shared_memory=True)
        for _ in range(10):
            await answered(client.start(request("m")))
            answer = await client.infer(request("good", raw=bytes(LARGE)))
            assert answer.raw_output_contents[0] == bytes(LARGE)


async def answered(call: Awaitable[bytes]) -> None:
    """Waits for an answer or an error."""
    with suppress(grpc.aio.AioRpcError):
        await within(call)
