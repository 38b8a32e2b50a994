"""Watchers that do not read, that are too many, and their end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import grpc
import pytest

from anyserve_conformance import proto
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import LEFT, REGISTERED, UNREGISTERED, answers, facts, goes_to
from anyserve_conformance.management import Watcher
from anyserve_conformance.requirement import requirement

LOOK_AT = "the buffer of each watcher: the agent puts events there and goes on, whoever reads or does not"

SMALL_WINDOW = 65_535
LIMIT = 1_024
ON_THE_WAY = 600
"""More events, of some 550 bytes, than fit into the window and the buffers between agent and watcher."""
PADDING = {"k": "x" * 250, "l": "x" * 250}
DRAINING = "SERVER_DRAINING"


def idle_watcher(agent: Agent) -> Watcher:
    """A watcher that takes little before it is read, and is not."""
    watcher = agent.new_management(window=SMALL_WINDOW).watch(lambda _: True)
    watcher.started()
    return watcher


def flood(agent: Agent, events: int) -> int:
    """Makes at most so many events: a worker registers models, some at a time, and leaves. Returns their number."""
    worker = agent.listener("flood")
    count = (events - 1) // 2
    for start in range(0, count, 50):
        calls = []
        for number in range(start, min(start + 50, count)):
            registration = agent.management.registration(worker, agent.name(f"m{number}"), capability=PADDING)
            calls.append(agent.management.start("RegisterModel", registration))
        for call in calls:
            assert call.answer().message.success, "a registration was answered with success = false"
    assert agent.management.unregister(worker.worker_id), "UnregisterWorker was answered with success = false"
    return 2 * count + 1


def has_no_gap(events: list[Any]) -> None:
    """Their numbers rise by one."""
    numbers = [event.sequence for event in events]
    gaps = [number for last, number in pairwise(numbers) if number != last + 1]
    assert not gaps, f"there are gaps before the events {gaps[:10]}"


@requirement("manage.event.slow")
def test_ended_when_too_many_wait(agent: Agent) -> None:
    """A watcher that does not read is ended with RESOURCE_EXHAUSTED once 1,024 events wait for it."""
    watcher = idle_watcher(agent)
    flood(agent, LIMIT + ON_THE_WAY)
    watcher.stream.answer().expect(grpc.StatusCode.RESOURCE_EXHAUSTED)


@requirement("manage.event.slow", "manage.event.no-gap", "manage.event.time")
def test_kept_while_fewer_wait(agent: Agent) -> None:
    """A watcher that reads late is told all of up to 1,024 events, with the times when they happened."""
    watcher = idle_watcher(agent)
    count = flood(agent, LIMIT - 1)
    after = time.time_ns() // 1_000_000
    agent.patience.until(lambda: time.time_ns() // 1_000_000 > after + 100, "the clock to go on")
    told = watcher.take(count)
    has_no_gap(told)
    late = [event.time_unix_ms - after for event in told if event.time_unix_ms > after]
    assert not late, f"{len(late)} events have a time up to {max(late)} ms after they happened"
    marker = agent.worker(agent.name("marker"), worker_id="marker")
    told += watcher.take(1)
    assert told[-1].worker_id == marker.worker_id, "a watcher that has read late is not told what comes then"
    has_no_gap(told)


@requirement("manage.event.no-hold")
def test_others_go_on(agent: Agent) -> None:
    """While a watcher does not read, another one is told everything, and registrations and requests go on."""
    idle_watcher(agent)
    watcher = agent.watch()
    has_no_gap(watcher.take(flood(agent, ON_THE_WAY)))
    worker = agent.worker(agent.name("m"), answer=answers("it"))
    told = facts(watcher.take(1)[0])
    assert told == (REGISTERED, worker.worker_id, agent.name("m")), f"behind all that a watcher was told {told}"
    goes_to(agent, agent.name("m"), "it")
    assert agent.management.heartbeat(worker.worker_id), "a registered worker is not healthy"


LIMITS = {"max-watchers": 2}


@requirement("manage.event.max-watchers", needs=LIMITS)
@pytest.mark.parametrize("include_existing", [False, True], ids=["new-alone", "existing"])
def test_one_too_many(agent: Agent, include_existing: bool) -> None:
    """With --max-watchers under way a further call is told nothing and ended with RESOURCE_EXHAUSTED."""
    agent.worker(agent.name("m"))
    watchers = [agent.watch() for _ in range(agent.option("max-watchers"))]
    extra = agent.management.watch(lambda _: True, include_existing=include_existing)
    event = extra.next()
    assert event is None, f"a watcher too many was told {event and facts(event)}"
    extra.stream.answer().expect(grpc.StatusCode.RESOURCE_EXHAUSTED)
    worker = agent.worker(agent.name("n"), worker_id="other")
    for watcher in watchers:
        told = facts(watcher.take(1)[0])
        assert told == (REGISTERED, worker.worker_id, agent.name("n")), f"a watcher that was there was told {told}"


@requirement("manage.event.max-watchers", needs=LIMITS)
def test_place_of_one_that_ends(agent: Agent) -> None:
    """When a watcher cancels its call, another one is let in."""
    watchers = [agent.watch() for _ in range(agent.option("max-watchers"))]
    watchers[0].stream.cancel()
    worker = agent.worker(agent.name("m"))

    def let_in() -> bool:
        return agent.management.watch(lambda _: True, include_existing=True).next() is not None

    agent.patience.until(let_in, "a place for another watcher")
    assert agent.management.heartbeat(worker.worker_id), "a registered worker is not healthy"


# The end


@requirement("manage.event.end", "manage.event.types")
def test_after_the_workers_leave(launch_agent: Callable[..., Agent]) -> None:
    """A watcher is told SERVER_DRAINING and then the leave of workers, and ends with OK when the agent stops."""
    agent = launch_agent()
    name = agent.name("m")
    worker = agent.worker(name)
    call = agent.start_infer(name)
    exchange = worker.exchange()
    watcher = agent.watch()
    agent.program.terminate()
    draining = watcher.next()
    assert draining is not None, "WatchEvents ended without SERVER_DRAINING"
    assert facts(draining)[0] == DRAINING, f"the first event behind SIGTERM is {facts(draining)}"
    request = proto.UnregisterWorkerRequest(worker_id=worker.worker_id)
    answer = agent.management.call("UnregisterWorker", request).message
    assert answer.success, f"UnregisterWorker during the drain was answered with success = false: {answer.message}"
    told = [facts(event) for event in watcher.take(2)]
    expected = [(UNREGISTERED, worker.worker_id, name), (LEFT, worker.worker_id, "")]
    assert told == expected, f"of a worker that leaves during the drain was told {told}"
    exchange.answer()
    call.answer().expect_ok()
    rest = [facts(event) for event in watcher]
    assert not rest, f"at the end was told {rest}"
    watcher.stream.answer().expect_ok()
    assert agent.program.wait() == 0, "the agent did not exit with status 0"


@requirement("manage.event.end")
def test_watchers_do_not_hold_up_the_stop(launch_agent: Callable[..., Agent]) -> None:
    """An agent with watchers, one of which does not read, stops at once, and ends the others with OK."""
    agent = launch_agent(grace=60)
    idle_watcher(agent)
    flood(agent, ON_THE_WAY)
    watchers = [agent.watch() for _ in range(2)]
    agent.program.signal(signal.SIGINT)
    for watcher in watchers:
        told = [facts(event)[0] for event in watcher]
        assert told == [DRAINING], f"behind SIGINT a watcher was told {told}"
        watcher.stream.answer().expect_ok()
    assert agent.program.wait() == 0, "the agent did not exit with status 0"


@requirement("manage.event.end", "manage.event.no-gap")
def test_watcher_behind_is_told_the_rest(launch_agent: Callable[..., Agent]) -> None:
    """A watcher that is behind when the agent stops, and reads on, is told all up to SERVER_DRAINING before the OK."""
    agent = launch_agent()
    watcher = idle_watcher(agent)
    count = flood(agent, 301)
    agent.program.terminate()
    told = list(watcher)
    watcher.stream.answer().expect_ok()
    found = len(told)
    assert found == count + 1, f"a watcher was told {found} of {count + 1} events, and its call ended with OK"
    has_no_gap(told)
    assert facts(told[-1])[0] == DRAINING, f"the last event is {facts(told[-1])}"
    assert agent.program.wait() == 0, "the agent did not exit with status 0"
