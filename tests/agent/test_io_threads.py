"""Several I/O threads of the native agent serve as one: places, queues and limits are those of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve.agent import AgentConfig
from anyserve.agent.config import UnknownLimit
from anyserve.control import agents
from anyserve.errors import Code
from support.client import Client, failure
from support.instances import IMPLEMENTATIONS, AgentUnderTest, Instance, StartInstance
from support.waiting import eventually, within
from support.wire import request

THREADS = 3
CLIENTS = 6

pytestmark = pytest.mark.skipif("native" not in IMPLEMENTATIONS, reason="the native agent is not in this installation")


@pytest.fixture
def make_agent() -> Callable[..., AgentUnderTest]:
    return lambda **settings: IMPLEMENTATIONS["native"](io_threads=THREADS, **settings)


@pytest.fixture
def clients(instance: Instance) -> list[Client]:
    """Each has a connection of its own: they are dealt out among the threads."""
    return [instance.new_client() for _ in range(CLIENTS)]


async def test_a_place_is_one_place_for_all_threads(instance: Instance, clients: list[Client]) -> None:
    worker = await instance.worker("m", max_concurrency=1)
    calls = [client.background(request("m", request_id=str(number))) for number, client in enumerate(clients * 3)]
    for _ in calls:
        exchange = await worker.exchange()
        assert worker.open_connections == 1
        await exchange.answer()
    assert [(await within(call)).id for call in calls] == [str(number) for number in range(len(calls))]
    assert len(worker.connections) == 1, "the one connection goes from thread to thread"


async def test_who_came_first_is_served_first(instance: Instance, clients: list[Client]) -> None:
    worker = await instance.worker("m", max_concurrency=1)
    calls = []
    for number, client in enumerate(clients):
        calls.append(client.background(request("m", request_id=str(number))))
        await eventually(lambda wanted=number: instance.waiting == wanted)
        if number == 0:
            await worker.requested(1)
    for number, call in enumerate(calls):
        exchange = await worker.exchange()
        assert kserve.ModelInferRequest.FromString(exchange.payload).id == str(number)
        await exchange.answer()
        await within(call)


async def test_a_lost_worker_fails_what_all_threads_have_sent_it(instance: Instance, clients: list[Client]) -> None:
    worker = await instance.worker("m", max_concurrency=CLIENTS // 2)
    calls = [client.start(request("m")) for client in clients]
    for _ in range(CLIENTS // 2):
        await worker.exchange()
    await eventually(lambda: instance.waiting == CLIENTS // 2)
    instance.agent.worker_ended(worker.worker_id, "crashed")
    await worker.close()
    for call in calls:
        assert (await failure(call)).code is Code.UNAVAILABLE


async def test_the_limit_of_calls_is_that_of_all_threads(start_instance: StartInstance) -> None:
    instance = await start_instance(max_concurrent_rpcs=2)
    worker = await instance.worker("m")
    calls = []
    for _ in range(2):
        calls.append(instance.new_client().background(request("m")))
        exchange = await worker.exchange()
    for _ in range(THREADS):
        assert (await instance.new_client().refused(request("m"))).code is Code.RESOURCE_EXHAUSTED
    await exchange.answer()
    await within(calls[1])
    calls[1] = instance.new_client().background(request("m"))  # there is room again
    exchange = await worker.exchange()
    for call in calls:
        call.cancel()


async def test_a_drain_waits_for_the_calls_of_all_threads(instance: Instance, clients: list[Client]) -> None:
    worker = await instance.worker("m", max_concurrency=CLIENTS)
    calls = [client.background(request("m")) for client in clients]
    exchanges = [await worker.exchange() for _ in calls]
    stopping = asyncio.ensure_future(instance.stop(grace=20))
    await eventually(lambda: not instance.agent.snapshot()["ready"])
    assert not any(call.done() for call in calls)
    for exchange in exchanges:
        await exchange.answer()
    for call in calls:
        await within(call)
    await within(stopping)


def test_the_reference_agent_has_one_thread() -> None:
    with pytest.raises(UnknownLimit, match="--io-threads"):
        agents.make_agent("reference", AgentConfig(io_threads=2))


@pytest.mark.parametrize("count", [0, 65])
def test_the_number_of_threads_has_bounds(count: int) -> None:
    with pytest.raises(ValueError, match="io_threads"):
        AgentConfig(io_threads=count)
