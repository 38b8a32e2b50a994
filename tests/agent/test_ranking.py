"""Among matches: exact keys, priority, fewest further keys, least in flight, round robin; rank before load."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.client import Client
from support.instances import Instance
from support.waiting import eventually
from support.wire import reply, request
from support.worker import ScriptedWorker

QUERY = {"type": "chat"}


async def echo(instance: Instance, worker_id: str, **fields: Any) -> ScriptedWorker:
    """A worker whose replies carry its own id."""
    fields.setdefault("capability", QUERY)
    return await instance.worker("m", worker_id=worker_id, answer=lambda _: reply(request_id=worker_id), **fields)


@pytest.mark.parametrize("best_first", [True, False])
@pytest.mark.parametrize(
    ("query", "best", "other"),
    [
        pytest.param(
            {"type": "chat", "model": "llama-70b|llama-*"},
            {"capability": {"type": "chat", "model": "llama-70b", "x": "1", "y": "1"}},
            {"capability": {"type": "chat", "model": "llama-8b"}, "priority": 100},
            id="exact-keys-before-priority",
        ),
        pytest.param(
            {"a": "1|?", "b": "1|?", "c": "1|?"},
            {"capability": {"a": "1", "b": "1", "c": "2"}},
            {"capability": {"a": "2", "b": "2", "c": "1"}},
            id="the-number-of-exact-keys",
        ),
        pytest.param(
            QUERY,
            {"capability": {"type": "chat", "x": "1"}, "priority": 1},
            {"capability": {"type": "chat"}},
            id="priority-before-further-keys",
        ),
        pytest.param(QUERY, {"priority": -1}, {"priority": -2}, id="negative-priority"),
        pytest.param(QUERY, {}, {"priority": -1}, id="no-priority-is-0"),
        pytest.param(
            QUERY,
            {"capability": {"type": "chat"}},
            {"capability": {"type": "chat", "x": "1"}},
            id="fewest-further-keys",
        ),
    ],
)
async def test_the_better_ranked_gets_every_request(
    instance: Instance,
    client: Client,
    *,
    query: dict[str, str],
    best: dict[str, Any],
    other: dict[str, Any],
    best_first: bool,
) -> None:
    pairs = [("best", best), ("other", other)]
    for worker_id, fields in pairs if best_first else reversed(pairs):
        await echo(instance, worker_id, **fields)
    assert [(await client.infer(request(), query=query)).id for _ in range(4)] == ["best"] * 4


@pytest.mark.parametrize("best_first", [True, False])
async def test_priority_ranks_requests_by_name_too(instance: Instance, client: Client, best_first: bool) -> None:
    for worker_id, priority in [("best", 1), ("other", 0)][:: 1 if best_first else -1]:
        await echo(instance, worker_id, priority=priority)
    assert [(await client.infer(request("m"))).id for _ in range(4)] == ["best"] * 4


async def test_equal_registrations_take_turns(instance: Instance, client: Client) -> None:
    workers = [await echo(instance, worker_id) for worker_id in "abc"]
    order = [(await client.infer(request("m"))).id for _ in range(9)]
    assert sorted(order[:3]) == ["a", "b", "c"]
    assert order == order[:3] * 3
    assert [len(worker.requests) for worker in workers] == [3, 3, 3]


async def test_the_worker_with_the_fewest_exchanges_in_flight_comes_first(instance: Instance, client: Client) -> None:
    busy = await instance.worker("m", worker_id="busy")
    held = [client.background(request("m")) for _ in range(2)]
    exchanges = [await busy.exchange() for _ in held]
    await echo(instance, "free")
    assert [(await client.infer(request("m"))).id for _ in range(5)] == ["free"] * 5
    for exchange in exchanges:
        await exchange.answer()
    await asyncio.gather(*held)


async def test_what_a_worker_does_for_other_registrations_counts_as_in_flight(
    instance: Instance, client: Client
) -> None:
    busy = await instance.worker("other", worker_id="busy")
    await instance.management.register(busy, "m")
    held = client.background(request("other"))
    exchange = await busy.exchange()
    await echo(instance, "free", capability={})
    assert [(await client.infer(request("m"))).id for _ in range(4)] == ["free"] * 4
    await exchange.answer()
    await held


async def test_a_better_ranked_worker_that_is_busy_is_waited_for(instance: Instance, client: Client) -> None:
    best = await instance.worker("m", worker_id="best", priority=1, max_concurrency=1)
    other = await echo(instance, "other", capability={})
    held = client.background(request("m"))
    running = await best.exchange()
    waiting = client.background(request("m"))
    await eventually(lambda: instance.waiting == 1, "a request in the queue")
    await running.answer()
    await (await best.exchange()).answer(reply(request_id="best"))
    assert (await waiting).id == "best"
    await held
    assert other.connections == []


async def test_a_better_ranked_worker_that_cannot_be_reached_is_passed_over(instance: Instance, client: Client) -> None:
    best = await instance.worker("m", worker_id="best", priority=1)
    await echo(instance, "other")
    await best.refuse()
    assert (await client.infer(request("m"))).id == "other"


async def test_a_request_that_waits_goes_to_what_is_left_when_its_worker_leaves(
    instance: Instance, client: Client
) -> None:
    best = await instance.worker("m", worker_id="best", priority=1, max_concurrency=1)
    await echo(instance, "other", capability={})
    held = client.background(request("m"))
    running = await best.exchange()
    waiting = client.background(request("m"))
    await eventually(lambda: instance.waiting == 1, "a request in the queue")
    await instance.unregister("best")
    assert (await waiting).id == "other"
    await running.answer()
    await held


async def test_a_request_that_waits_goes_to_a_worker_that_comes(instance: Instance, client: Client) -> None:
    first = await instance.worker("m", max_concurrency=1)
    held = client.background(request("m"))
    running = await first.exchange()
    waiting = client.background(request("m"))
    await eventually(lambda: instance.waiting == 1, "a request in the queue")
    await echo(instance, "newcomer", capability={})
    assert (await waiting).id == "newcomer"
    await running.answer()
    await held


async def test_a_free_match_is_not_held_up_by_requests_that_wait_for_another(
    instance: Instance, client: Client
) -> None:
    a = await instance.worker("m", worker_id="a", max_concurrency=1, capability={"type": "chat", "model": "a"})
    await echo(instance, "b", max_concurrency=1, capability={"type": "chat", "model": "b"})
    held = client.background(request(), query={"model": "a"})
    running = await a.exchange()
    waiting = client.background(request(), query={"model": "a"})
    await eventually(lambda: instance.waiting == 1, "a request in the queue")
    either = client.background(request(), query=QUERY, timeout=2)
    try:
        assert (await either).id == "b"
    finally:
        await running.answer()
        await (await a.exchange()).answer()
        await asyncio.gather(held, waiting)


async def test_requests_wait_in_order_of_arrival(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", max_concurrency=1)
    calls = [client.background(request("m", request_id="0"))]
    running = await worker.exchange()
    for number in range(1, 5):
        calls.append(client.background(request("m", request_id=str(number))))
        await eventually(lambda: instance.waiting == len(calls) - 1, "the request in the queue")
    for _ in range(4):
        await running.answer()
        running = await worker.exchange()
    await running.answer()
    await asyncio.gather(*calls)
    assert worker.requests == [request("m", request_id=str(number)).SerializeToString() for number in range(5)]
