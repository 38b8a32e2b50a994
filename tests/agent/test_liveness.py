"""Heartbeats and losses: which worker is dropped, when, and what becomes of its requests; who may connect at all."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from anyserve._proto import worker_management_pb2 as pb
from anyserve.errors import Code
from support.client import Client, Management, failure
from support.instances import Instance, StartInstance
from support.waiting import eventually, within
from support.wire import reply, request
from support.worker import ScriptedWorker


async def test_a_heartbeat_of_a_registered_worker_is_healthy(instance: Instance, management: Management) -> None:
    worker = await instance.worker("m")
    assert await management.heartbeat(worker.worker_id)
    assert 0 <= (await management.workers())[worker.worker_id].heartbeat_age_ms < 10_000


async def test_a_heartbeat_of_an_unknown_worker_asks_it_to_register(instance: Instance, management: Management) -> None:
    assert not await management.heartbeat("stranger")
    assert await management.workers() == {}
    worker = await instance.worker("m")
    await instance.unregister(worker.worker_id)
    assert not await management.heartbeat(worker.worker_id)
    await management.register(worker, "m")
    assert await management.heartbeat(worker.worker_id)


async def test_a_worker_whose_heartbeats_stop_is_dropped_and_one_that_sent_none_is_not(
    start_instance: StartInstance,
) -> None:
    instance = await start_instance(heartbeat_timeout=0.2)
    await instance.worker("m", worker_id="silent-from-the-start", answer=lambda _: reply(request_id="left"))
    await instance.worker("m", worker_id="stopped", priority=1)
    assert await instance.management.heartbeat("stopped")
    await instance.management.until_workers({"silent-from-the-start"})
    assert not await instance.management.heartbeat("stopped")
    assert (await instance.client.infer(request("m"))).id == "left"


async def test_a_worker_that_keeps_sending_heartbeats_stays(start_instance: StartInstance) -> None:
    instance = await start_instance(heartbeat_timeout=1.0)
    loop = asyncio.get_running_loop()
    await instance.worker("m", worker_id="w")
    end = loop.time() + 1.5
    while loop.time() < end:
        assert await instance.management.heartbeat("w")
        await asyncio.sleep(0.05)
    assert set(await instance.management.workers()) == {"w"}


async def test_what_a_dropped_worker_was_doing_is_unavailable_and_its_connections_are_closed(
    start_instance: StartInstance,
) -> None:
    instance = await start_instance(heartbeat_timeout=0.2)
    worker = await instance.worker("m")
    await instance.management.heartbeat(worker.worker_id)
    call = instance.client.start(request("m"))
    exchange = await worker.exchange()
    assert (await failure(call)).code is Code.UNAVAILABLE
    await exchange.cancelled()


async def test_dropping_a_worker_loses_no_request_that_waits(start_instance: StartInstance) -> None:
    instance = await start_instance(heartbeat_timeout=0.3)
    dropped = await instance.worker("m", worker_id="dropped", max_concurrency=1)
    left = await instance.worker("m", worker_id="left", max_concurrency=1)
    first = instance.client.start(request("m"))
    second = instance.client.start(request("m"))
    await dropped.exchange()
    running = await left.exchange()
    waiting = [instance.client.background(request("m")) for _ in range(3)]
    await eventually(lambda: instance.waiting == 3, "the requests in the queue")
    await instance.management.heartbeat("dropped")
    await instance.management.until_workers({"left"})
    for _ in range(3):
        await running.answer(reply(request_id="left"))
        running = await left.exchange()
    await running.answer(reply(request_id="left"))
    assert [(await call).id for call in waiting] == ["left"] * 3
    assert {await within(call.code()) for call in (first, second)} == {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.OK,
    }


async def test_requests_that_wait_for_the_last_worker_are_unavailable_when_it_is_dropped(
    start_instance: StartInstance,
) -> None:
    instance = await start_instance(heartbeat_timeout=0.2)
    worker = await instance.worker("m", max_concurrency=1)
    calls = [instance.client.start(request("m")) for _ in range(2)]
    await worker.exchange()
    await eventually(lambda: instance.waiting == 1, "a request in the queue")
    await instance.management.heartbeat(worker.worker_id)
    assert [(await failure(call)).code for call in calls] == [Code.UNAVAILABLE] * 2


async def test_a_worker_without_heartbeats_is_dropped_when_its_socket_refuses(
    instance: Instance, client: Client, management: Management
) -> None:
    worker = await instance.worker("m")
    await worker.refuse()
    assert (await client.refused(request("m"))).code is Code.UNAVAILABLE
    assert await management.workers() == {}
    assert (await client.refused(request("m"))).code is Code.NOT_FOUND


async def test_a_worker_with_heartbeats_is_given_time_when_its_socket_refuses(
    instance: Instance, client: Client, management: Management
) -> None:
    worker = await instance.worker("m", answer=lambda _: reply(request_id="back"))
    await management.heartbeat(worker.worker_id)
    await worker.refuse()
    for _ in range(2):
        assert (await client.refused(request("m"))).code is Code.UNAVAILABLE
    worker.listen()
    assert (await client.infer(request("m"))).id == "back"


async def test_a_worker_that_is_dropped_while_it_is_connected_to_gets_no_request(start_instance: StartInstance) -> None:
    instance = await start_instance(heartbeat_timeout=0.2, connect_timeout=60.0)
    worker = instance.new_worker("full", accept=False, backlog=0)
    worker.fill_backlog()
    await instance.management.register(worker, "m")
    call = instance.client.start(request("m"))
    assert await instance.management.heartbeat("full")
    await instance.management.until_workers(set())
    worker.start_accepting()  # now there is room
    assert (await failure(call)).code is Code.UNAVAILABLE
    assert worker.requests == []


async def test_a_full_backlog_is_no_refusal_and_another_worker_is_tried(start_instance: StartInstance) -> None:
    instance = await start_instance(connect_timeout=0.1)
    full = instance.new_worker("full", accept=False, backlog=0)
    full.fill_backlog()
    await instance.management.register(full, "m", priority=1)
    assert (await instance.client.refused(request("m"))).code is Code.UNAVAILABLE
    assert set(await instance.management.workers()) == {"full"}
    await instance.worker("m", answer=lambda _: reply(request_id="other"))
    assert (await instance.client.infer(request("m"))).id == "other"


async def test_room_in_the_backlog_is_waited_for(start_instance: StartInstance) -> None:
    instance = await start_instance(connect_timeout=10)
    full = instance.new_worker("full", accept=False, backlog=0, answer=lambda _: reply(request_id="at last"))
    full.fill_backlog()
    await instance.management.register(full, "m")
    call = instance.client.background(request("m"))
    await eventually(lambda: instance.agent.snapshot()["workers"]["full"]["in_flight"] == 1, "the exchange")
    full.start_accepting()
    assert (await call).id == "at last"


SERVER_OF_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.chmod(sys.argv[1], 0o777)
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    print(len(connection.recv(100)), flush=True)
"""


@pytest.fixture
async def socket_of_nobody() -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A socket that a process of another uid listens on; it prints how much it got."""
    if os.getuid() != 0:
        pytest.skip("only root can start a process of another uid")
    directory = tempfile.mkdtemp(prefix="any")
    os.chmod(directory, 0o777)
    path = f"{directory}/s"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER_OF_NOBODY, path, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await within(process.stdout.readline()) == b"listening\n"
    yield path, process
    process.kill()
    await process.wait()
    os.unlink(path)
    os.rmdir(directory)


async def test_a_socket_of_another_user_gets_no_request(
    instance: Instance, client: Client, socket_of_nobody: tuple[str, asyncio.subprocess.Process]
) -> None:
    path, process = socket_of_nobody
    impostor = ScriptedWorker(path, worker_id="impostor")
    await instance.management.register(impostor, "m")
    error = await client.refused(request("m"))
    assert error.code is Code.UNAVAILABLE
    assert "uid" not in error.message
    assert process.stdout is not None
    assert await within(process.stdout.readline()) == b"0\n"


TOKEN = "s3cret"

EVERY_RPC: dict[str, Callable[[Management], Awaitable[Any]]] = {
    "RegisterModel": lambda m: m.RegisterModel(
        pb.RegisterModelRequest(model_name="m", worker_id="w", worker_address="unix:///x"), metadata=m.metadata
    ),
    "UnregisterModel": lambda m: m.UnregisterModel(
        pb.UnregisterModelRequest(worker_id="w", model_name="m"), metadata=m.metadata
    ),
    "Heartbeat": lambda m: m.Heartbeat(pb.HeartbeatRequest(worker_id="w"), metadata=m.metadata),
    "UnregisterWorker": lambda m: m.UnregisterWorker(pb.UnregisterWorkerRequest(worker_id="w"), metadata=m.metadata),
    "ListWorkers": lambda m: m.ListWorkers(pb.ListWorkersRequest(), metadata=m.metadata),
    "WatchEvents": lambda m: m.watch(include_existing=True).read(),
}


@pytest.mark.parametrize("rpc", EVERY_RPC)
@pytest.mark.parametrize("token", [None, "", "s3cre", "S3CRET", "s3crets"])
async def test_without_the_token_every_management_call_is_unauthenticated(
    start_instance: StartInstance, rpc: str, token: str | None
) -> None:
    instance = await start_instance(management_token=TOKEN)
    await instance.worker("m", worker_id="there")
    other = instance.new_management(token)
    error = await failure(EVERY_RPC[rpc](other))
    assert error.code is Code.UNAUTHENTICATED
    assert "Bearer" in error.message
    assert TOKEN not in error.message
    assert set(await instance.management.workers()) == {"there"}


@pytest.mark.parametrize("rpc", [rpc for rpc in EVERY_RPC if rpc != "WatchEvents"])
async def test_the_token_is_looked_at_before_the_request(start_instance: StartInstance, rpc: str) -> None:
    instance = await start_instance(management_token=TOKEN)
    call = instance.management.channel.unary_unary(f"/anyserve.WorkerManagement/{rpc}")
    assert (await failure(call(b"\x0a\x05no"))).code is Code.UNAUTHENTICATED


@pytest.mark.parametrize("rpc", EVERY_RPC)
async def test_with_the_token_every_management_call_is_served(start_instance: StartInstance, rpc: str) -> None:
    instance = await start_instance(management_token=TOKEN)
    await instance.worker("m", worker_id="w")
    await within(EVERY_RPC[rpc](instance.management))


@pytest.mark.parametrize("value", ["s3cret", "Basic s3cret", "bearer:s3cret", "Bearer"])
async def test_the_token_needs_the_bearer_scheme(start_instance: StartInstance, value: str) -> None:
    instance = await start_instance(management_token=TOKEN)
    call = instance.management.ListWorkers(pb.ListWorkersRequest(), metadata=(("authorization", value),))
    assert (await failure(call)).code is Code.UNAUTHENTICATED


async def test_the_client_port_needs_no_management_token(start_instance: StartInstance) -> None:
    instance = await start_instance(management_token=TOKEN)
    await instance.worker("m", answer=lambda _: b"")
    await instance.client.infer(request("m"))
