"""Requests that fail at a worker, for lack of one, or of time: status, message, what the worker sees."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest

from anyserve.errors import Code
from support.client import Client, failure
from support.instances import Instance, StartInstance
from support.waiting import eventually, within
from support.wire import Parameter, reply, request
from support.worker import ScriptedWorker


async def test_a_full_queue_is_resource_exhausted(start_instance: StartInstance) -> None:
    instance = await start_instance(queue_size=1)
    worker = await instance.worker("echo", max_concurrency=1)
    first = instance.client.background(request("echo"))
    running = await worker.exchange()
    second = instance.client.background(request("echo"))
    await eventually(lambda: instance.waiting == 1)
    error = await instance.client.refused(request("echo"))
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert "echo" in error.message
    assert "1 requests" in error.message
    await running.answer()
    await (await worker.exchange()).answer()
    await first
    await second
    assert len(worker.requests) == 2


async def test_without_a_queue_a_busy_worker_is_resource_exhausted(start_instance: StartInstance) -> None:
    instance = await start_instance(queue_size=0)
    worker = await instance.worker("echo", max_concurrency=1)
    first = instance.client.background(request("echo"))
    running = await worker.exchange()
    assert (await instance.client.refused(request("echo"))).code is Code.RESOURCE_EXHAUSTED
    await running.answer()
    await first


async def test_a_full_queue_of_one_model_does_not_refuse_another(start_instance: StartInstance) -> None:
    instance = await start_instance(queue_size=0)
    worker = await instance.worker("busy", max_concurrency=1)
    await instance.worker("free", answer=lambda _: b"")
    first = instance.client.background(request("busy"))
    running = await worker.exchange()
    assert (await instance.client.infer(request("free"))).model_name == "free"
    await running.answer()
    await first


async def test_more_calls_than_max_concurrent_rpcs_are_resource_exhausted(start_instance: StartInstance) -> None:
    instance = await start_instance(max_concurrent_rpcs=2)
    worker = await instance.worker("echo")
    calls = [instance.client.background(request("echo")) for _ in range(2)]
    exchanges = [await worker.exchange() for _ in calls]
    assert (await instance.client.refused(request("echo"))).code is Code.RESOURCE_EXHAUSTED
    for exchange in exchanges:
        await exchange.answer()
    await asyncio.gather(*calls)
    # A client has its reply a moment before gRPC counts the call as ended.
    await instance.worker("free", answer=lambda _: reply())
    await eventually(lambda: served(instance.client), "a place for another call")


async def served(client: Client) -> bool:
    """Whether a call is let in and answered."""
    try:
        await client.infer(request("free"))
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_deadline_that_passes_in_the_worker_cancels_the_exchange(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo")
    call = client.start(request("echo"), timeout=0.3)
    exchange = await worker.exchange()
    assert (await failure(call)).code is Code.DEADLINE_EXCEEDED
    await exchange.cancelled()


async def test_a_deadline_that_passes_in_the_queue_never_reaches_a_worker(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo", max_concurrency=1)
    first = client.background(request("echo", request_id="first"))
    running = await worker.exchange()
    error = await client.refused(request("echo"), timeout=0.2)
    assert error.code is Code.DEADLINE_EXCEEDED
    await eventually(lambda: instance.waiting == 0, "an empty queue")
    await running.answer()
    await first
    await served_after(worker, client)
    assert len(worker.requests) == 2


async def served_after(worker: ScriptedWorker, client: Client) -> None:
    """One more request is answered: the worker is free."""
    call = client.background(request("echo", request_id="after"))
    await (await worker.exchange()).answer()
    assert (await call).id == "after"


async def test_a_deadline_in_a_stream_reaches_the_worker(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo", stream=True)
    stream = client.stream(timeout=0.3)
    await stream.send(request("echo"))
    exchange = await worker.exchange()
    assert (await stream.failed()).code is Code.DEADLINE_EXCEEDED
    await exchange.cancelled()


async def test_the_client_cancels_and_the_worker_sees_the_end(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo")
    call = client.start(request("echo"))
    exchange = await worker.exchange()
    call.cancel()
    await exchange.cancelled()
    await served_after(worker, client)


async def test_the_client_cancels_in_the_queue_and_the_worker_never_hears_of_it(
    instance: Instance, client: Client
) -> None:
    worker = await instance.worker("echo", max_concurrency=1)
    first = client.background(request("echo"))
    running = await worker.exchange()
    call = client.start(request("echo"))
    await eventually(lambda: instance.waiting == 1)
    call.cancel()
    await eventually(lambda: instance.waiting == 0)
    await running.answer()
    await first
    await served_after(worker, client)
    assert len(worker.requests) == 2


async def test_the_client_cancels_while_the_agent_waits_for_a_connection(instance: Instance, client: Client) -> None:
    full = instance.new_worker("full", accept=False, backlog=0)
    full.fill_backlog()
    await instance.management.register(full, "echo", max_concurrency=1)
    call = client.start(request("echo"))
    await eventually(lambda: in_flight(instance, "full") == 1, "the exchange")
    call.cancel()
    await eventually(lambda: in_flight(instance, "full") == 0, "the end of it")


def in_flight(instance: Instance, worker_id: str) -> int:
    return int(instance.agent.snapshot()["workers"][worker_id]["in_flight"])


async def test_no_worker_that_can_be_reached_is_unavailable(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo")
    await worker.refuse()
    error = await client.refused(request("echo"))
    assert error.code is Code.UNAVAILABLE
    assert "echo" in error.message


async def test_a_socket_that_is_not_there_is_unavailable(instance: Instance, client: Client) -> None:
    worker = instance.new_worker()
    worker.path = instance.new_path()
    await instance.management.register(worker, "echo")
    assert (await client.refused(request("echo"))).code is Code.UNAVAILABLE


async def test_a_worker_that_dies_before_its_reply_is_unavailable(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo")
    call = client.start(request("echo"))
    await (await worker.exchange()).close()
    error = await failure(call)
    assert error.code is Code.UNAVAILABLE
    assert "closed" in error.message


async def test_a_worker_that_half_closes_before_its_reply_is_unavailable(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo")
    call = client.start(request("echo"))
    exchange = await worker.exchange()
    exchange.connection.half_close()
    assert (await failure(call)).code is Code.UNAVAILABLE
    await exchange.cancelled()


async def test_a_worker_that_is_lost_fails_what_it_was_doing(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo")
    calls = [client.start(request("echo")) for _ in range(3)]
    exchanges = [await worker.exchange() for _ in calls]
    await asyncio.gather(*(exchange.close() for exchange in exchanges))
    assert {(await failure(call)).code for call in calls} == {Code.UNAVAILABLE}


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
async def test_the_code_and_message_of_a_handler_reach_the_client(
    instance: Instance, client: Client, code: Code
) -> None:
    message = "tensor 'a': größe ≠ 3\n100% of it"
    await instance.worker("echo", answer=lambda _: reply(anyserve_error_code=int(code), anyserve_error_message=message))
    error = await client.refused(request("echo"))
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize("code", [0, 17, -1, 1 << 40, True, "3", "NOT_FOUND", 3.0])
async def test_a_code_that_is_none_is_internal(instance: Instance, client: Client, code: Parameter) -> None:
    await instance.worker("echo", answer=lambda _: reply(anyserve_error_code=code, anyserve_error_message="boom"))
    error = await client.refused(request("echo"))
    assert error.code is Code.INTERNAL
    assert "boom" in error.message


async def test_an_error_without_a_message_keeps_its_code(instance: Instance, client: Client) -> None:
    await instance.worker("echo", answer=lambda _: reply(anyserve_error_code=9))
    assert (await client.refused(request("echo"))).code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("size", [7_000, 20_000, 1_000_000])
async def test_an_error_with_a_long_message_keeps_its_code(instance: Instance, client: Client, size: int) -> None:
    answer = reply(anyserve_error_code=9, anyserve_error_message="début " + "é" * size)
    await instance.worker("echo", answer=lambda _: answer)
    error = await client.refused(request("echo"))
    assert error.code is Code.FAILED_PRECONDITION
    assert error.message.startswith("début")


async def test_a_worker_that_failed_a_request_serves_the_next(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo")
    for answer in (reply(anyserve_error_code=3, anyserve_error_message="no"), reply()):
        call = client.start(request("echo"))
        await (await worker.exchange()).answer(answer)
        await within(call.code())
    assert len(worker.connections) == 1
    assert len(worker.requests) == 2
