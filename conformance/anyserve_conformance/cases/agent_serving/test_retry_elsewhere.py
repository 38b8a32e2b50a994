"""Requests that a worker did not take: once more on a new connection where it was a kept one, and places elsewhere."""

from __future__ import annotations

import select

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import hold, in_flight, large_request, reset, serve_once
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import Connection, ScriptedWorker

LOOK_AT = "what becomes of a request after a worker has not taken it"

GOOD = wire.reply(request_id="good")


# Kept connections


def keep(agent: Agent, name: str, worker: ScriptedWorker) -> Connection:
    """An idle connection, of a good exchange."""
    serve_once(agent, worker, name)
    return worker.connections[-1]


@requirement("frame.retry.kept")
@pytest.mark.parametrize("how", ["closed", "half-closed", "takes-no-bytes"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_ended_while_idle(agent: Agent, how: str, size: str) -> None:
    """A kept connection that the worker has ended meanwhile is replaced by a new one to the same worker."""
    name = agent.name("m")
    worker = agent.worker(name)
    request = large_request(agent, name) if size == "large" else wire.request(name)
    connection = keep(agent, name, worker)
    if how == "closed":
        connection.close()
    elif how == "half-closed":
        connection.half_close()
    else:
        connection.refuse_bytes()  # the agent learns of it by EPIPE alone
    call, exchange = hold(agent, worker, request)
    exchange.answer(GOOD)
    assert call.answer().message.id == "good", "another reply came"
    assert len(worker.connections) == 2, f"{len(worker.connections)} connections were made"


@requirement("frame.retry.kept")
def test_closed_without_reading(agent: Agent) -> None:
    """A request that the worker did not read on a kept connection comes once more on a new one."""
    name = agent.name("m")
    worker = agent.worker(name, raw=True)
    connection = kept_raw(agent, name, worker)
    call = agent.start_infer(name)
    reset(connection)
    following = worker.connection()
    following.read_frame()
    following.send_frame(GOOD)
    assert call.answer().message.id == "good", "another reply came"


def kept_raw(agent: Agent, name: str, worker: ScriptedWorker) -> Connection:
    """An idle connection of a raw worker, of a good exchange."""
    call = agent.start_infer(name)
    connection = worker.connection()
    connection.read_frame()
    connection.send_frame(b"")
    call.answer().expect_ok()
    return connection


@requirement("frame.retry.kept", "frame.retry.once")
def test_once_more_and_no_more(agent: Agent) -> None:
    """When the new connection does not take the request either it goes to another match."""
    name = agent.name("m")
    first = agent.worker(name, worker_id="first", priority=1, raw=True)
    good = agent.worker(name, worker_id="good", answer=lambda _: GOOD)
    connection = kept_raw(agent, name, first)
    call = agent.start_infer(name)
    reset(connection)
    reset(first.connection())
    assert call.answer().message.id == "good", "the request was not answered by the other match"
    assert len(first.connections) == 2, f"{len(first.connections)} connections were made to the first worker"
    assert len(good.requests) == 1


@requirement("frame.retry.kept", "frame.retry.once")
def test_not_on_another_kept_connection(agent: Agent) -> None:
    """A request that was not taken on a kept connection comes on a new one, and not on another that was kept."""
    name = agent.name("m")
    worker = agent.worker(name, raw=True)
    calls = [agent.start_infer(name) for _ in range(2)]
    kept = [worker.connection() for _ in calls]
    for connection in kept:
        connection.read_frame()
    for connection in kept:
        connection.send_frame(b"")
    for call in calls:
        call.answer().expect_ok()
    call = agent.start_infer(name)
    agent.patience.until(lambda: any(map(has_bytes, kept)), "the request to come on a kept connection")
    first, other = kept if has_bytes(kept[0]) else reversed(kept)
    reset(first)
    following = worker.connection()
    following.read_frame()
    assert not has_bytes(other), "the request came on another kept connection"
    following.send_frame(GOOD)
    assert call.answer().message.id == "good", "another reply came"


def has_bytes(connection: Connection) -> bool:
    """Whether something can be read."""
    return bool(select.select([connection.socket], [], [], 0)[0])


@requirement("frame.retry.kept")
def test_on_a_new_connection(agent: Agent) -> None:
    """After one kept connection that takes no bytes comes a new one, not another kept one that may be alike."""
    name = agent.name("m")
    worker = agent.worker(name)
    calls, exchanges = zip(*(hold(agent, worker, name) for _ in range(3)), strict=True)
    for call, exchange in zip(calls, exchanges, strict=True):
        exchange.answer()
        call.answer().expect_ok()
    for connection in worker.connections:
        connection.refuse_bytes()
    call, exchange = hold(agent, worker, name)
    exchange.answer(GOOD)
    assert call.answer().message.id == "good", "another reply came"


# A place elsewhere


@requirement("frame.retry.place")
def test_waits_at_the_other_match(agent: Agent) -> None:
    """A request that is tried elsewhere waits for a place there like any other."""
    name, busy = agent.name("m"), agent.name("busy")
    first = agent.worker(name, priority=1, raw=True)
    second = agent.worker(name, max_concurrency=1, capability={"type": busy})
    blocker = agent.start_infer(b"", query={"type": busy})
    exchange = second.exchange()
    call = agent.start_infer(name)
    reset(first.connection())
    second.no_exchange()
    assert not call.done, "the request ended instead of waiting"
    exchange.answer()
    second.exchange().answer(GOOD)
    assert call.answer().message.id == "good", "another reply came"
    blocker.answer().expect_ok()


@requirement("frame.retry.place", needs={"queue-size": 0})
def test_finds_no_room_to_wait(agent: Agent) -> None:
    """A request that is tried elsewhere is refused with RESOURCE_EXHAUSTED when it would have to wait and may not."""
    name, busy = agent.name("m"), agent.name("busy")
    first = agent.worker(name, priority=1, raw=True)
    second = agent.worker(name, max_concurrency=1, capability={"type": busy})
    blocker = agent.start_infer(b"", query={"type": busy})
    exchange = second.exchange()
    call = agent.start_infer(name)
    reset(first.connection())
    call.answer().expect(StatusCode.RESOURCE_EXHAUSTED)
    exchange.answer()
    blocker.answer().expect_ok()


@requirement("frame.retry.place")
def test_place_at_the_first_is_free_again(agent: Agent) -> None:
    """A request that goes on to another match leaves its place at the first."""
    name = agent.name("m")
    first = agent.worker(name, priority=1, max_concurrency=1, raw=True)
    second = agent.worker(name, worker_id="second")
    moved = agent.start_infer(name)
    reset(first.connection())
    exchange = second.exchange()
    assert in_flight(agent, first) == 0, "the first worker still has an exchange under way"
    following = agent.start_infer(name)
    connection = first.connection()
    connection.read_frame()
    connection.send_frame(b"")
    following.answer().expect_ok()
    exchange.answer()
    moved.answer().expect_ok()


@requirement("queue.wait.free-place", "frame.retry.place")
def test_does_not_hold_up_others(agent: Agent) -> None:
    """A request that waits for its last match does not keep others from a match that it has tried already."""
    name = agent.name("m")
    first = agent.worker(name, max_concurrency=1, raw=True)
    second = agent.worker(name, worker_id="second", max_concurrency=1)
    blocker = agent.start_infer(name)
    blocking = first.connection()
    blocking.read_frame()
    other = agent.start_infer(name)
    exchange = second.exchange()
    blocking.send_frame(b"")
    blocker.answer().expect_ok()
    moved = agent.start_infer(name)  # to the first worker's kept connection, then to a new one
    reset(blocking)
    reset(first.connection())
    agent.patience.until(lambda: not in_flight(agent, first), "the first worker to have no exchange under way")
    assert not moved.done, "the request ended instead of waiting for the second worker"
    following = agent.start_infer(name)
    connection = first.connection()
    connection.read_frame()
    connection.send_frame(b"")
    following.answer().expect_ok()
    exchange.answer()
    other.answer().expect_ok()
    second.exchange().answer(GOOD)
    assert moved.answer().message.id == "good", "another reply came"
