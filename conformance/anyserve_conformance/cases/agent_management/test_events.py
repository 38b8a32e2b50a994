"""WatchEvents: what is told, in which order, with which number and time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
import pytest

from anyserve_conformance import proto
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import (
    LEFT,
    LOST,
    READY,
    REGISTERED,
    UNREGISTERED,
    Facts,
    facts,
    listed,
)
from anyserve_conformance.management import Watcher
from anyserve_conformance.requirement import requirement

LOOK_AT = "where events are numbered and handed to watchers: at the change itself, in one step with it"

SMALL_WINDOW = 65_535
CLOCK = 20
"""Milliseconds by which a coarse clock may be behind."""


def told(watcher: Watcher, *expected: Facts) -> list[Any]:
    """The next events, which must be these."""
    events = watcher.take(len(expected))
    found = [facts(event) for event in events]
    assert found == list(expected), f"told was {found}, expected {list(expected)}"
    return events


def watch_all(agent: Agent, *, include_existing: bool = False) -> Watcher:
    """A watcher that passes over nothing, to look at numbers."""
    watcher = agent.management.watch(lambda _: True, include_existing=include_existing)
    watcher.started()
    return watcher


# What is told


@requirement("manage.event.types")
def test_registering_and_leaving(agent: Agent) -> None:
    """Registrations, their removal and a worker's leave are told in the order in which they happened."""
    a, b, c = agent.name("a"), agent.name("b"), agent.name("c")
    watcher = agent.watch()
    worker = agent.worker(a, "1", capability={"type": "x"}, priority=3, stream=True, max_concurrency=2, platform="p")
    w = worker.worker_id
    before = listed(agent, w).registrations[0]
    agent.management.register(worker, b)
    agent.management.register(worker, c)
    assert agent.management.unregister_model(w, a, "1"), "UnregisterModel was answered with success = false"
    assert agent.management.unregister(w), "UnregisterWorker was answered with success = false"
    events = told(watcher, (REGISTERED, w, a), (REGISTERED, w, b), (REGISTERED, w, c), (UNREGISTERED, w, a))
    assert events[0].registration == before, f"MODEL_REGISTERED has {events[0].registration}, listed was {before}"
    assert events[3].registration == before, f"MODEL_UNREGISTERED has {events[3].registration}, listed was {before}"
    rest = [facts(event) for event in watcher.take(3)]
    assert sorted(rest[:2]) == [(UNREGISTERED, w, b), (UNREGISTERED, w, c)], f"before the leave was told {rest}"
    assert rest[2] == (LEFT, w, ""), f"the last event of a worker that leaves is {rest[2]}"


@requirement("manage.event.types")
def test_replacing(agent: Agent) -> None:
    """A registration that is replaced is told as MODEL_REGISTERED alone, with what holds now."""
    name = agent.name("m")
    watcher = agent.watch()
    worker = agent.worker(name, priority=1)
    agent.management.register(worker, name, priority=2)
    agent.worker(agent.name("marker"), worker_id="marker")
    marker = agent.workers[1]
    w = worker.worker_id
    expected = ((REGISTERED, w, name), (REGISTERED, w, name), (REGISTERED, marker.worker_id, agent.name("marker")))
    priorities = [event.registration.priority for event in told(watcher, *expected)[:2]]
    assert priorities == [1, 2], f"told are the priorities {priorities}"


@requirement("manage.event.types")
def test_loss(agent: Agent) -> None:
    """WORKER_LOST comes with its reason before the MODEL_UNREGISTERED of each registration."""
    a, b = agent.name("a"), agent.name("b")
    worker = agent.worker(a)
    agent.management.register(worker, b, "2")
    watcher = agent.watch()
    worker.refuse()
    agent.infer(a).expect(grpc.StatusCode.UNAVAILABLE)
    w = worker.worker_id
    (lost,) = told(watcher, (LOST, w, ""))
    assert lost.message, "WORKER_LOST gives no reason"
    removed = sorted(facts(event) for event in watcher.take(2))
    assert removed == [(UNREGISTERED, w, a), (UNREGISTERED, w, b)], f"behind WORKER_LOST was told {removed}"


@requirement("manage.event.types", needs={"heartbeat-timeout": 0.6, "connect-timeout": 0.2})
def test_loss_by_heartbeats(agent: Agent) -> None:
    """The loss of a worker whose heartbeats have stopped is told by itself, without a call that notices it."""
    worker = agent.worker(agent.name("m"))
    watcher = agent.watch()
    agent.management.heartbeat(worker.worker_id)
    (lost, _) = told(watcher, (LOST, worker.worker_id, ""), (UNREGISTERED, worker.worker_id, agent.name("m")))
    assert lost.message, "WORKER_LOST gives no reason"


@requirement("manage.event.types")
def test_nothing_for_what_changes_nothing(agent: Agent) -> None:
    """Heartbeats, refused registrations and leaves of strangers are no events."""
    name = agent.name("m")
    worker = agent.worker(name)
    watcher = agent.watch()
    agent.management.heartbeat(worker.worker_id)
    agent.management.refused(agent.management.registration(worker, name, platform="\n"))
    assert not agent.management.unregister_model(worker.worker_id, name, "2"), "an unknown version was unregistered"
    stranger = agent.listener("stranger")
    assert not agent.management.unregister(stranger.worker_id), "a stranger was unregistered"
    assert not agent.management.heartbeat(stranger.worker_id), "a stranger is healthy"
    agent.management.register(worker, name)
    told(watcher, (REGISTERED, worker.worker_id, name))


@requirement("manage.event.types")
def test_every_watcher(agent: Agent) -> None:
    """Three watchers are told the same events, with the same numbers and times."""
    watchers = [agent.watch() for _ in range(3)]
    name = agent.name("m")
    worker = agent.worker(name)
    agent.management.unregister(worker.worker_id)
    w = worker.worker_id
    expected = ((REGISTERED, w, name), (UNREGISTERED, w, name), (LEFT, w, ""))
    first, *others = [told(watcher, *expected) for watcher in watchers]
    assert others == [first, first], f"the watchers were told {first} and {others}"


# Numbers and times


@requirement("manage.event.sequence")
def test_rises_by_one(agent: Agent) -> None:
    """The numbers of events rise by one, whatever the events are."""
    watcher = watch_all(agent)
    worker = agent.worker(agent.name("a"))
    agent.management.register(worker, agent.name("b"))
    agent.management.register(worker, agent.name("b"), priority=1)
    agent.management.heartbeat(worker.worker_id)
    agent.management.unregister(worker.worker_id)
    numbers = [event.sequence for event in watcher.take(6)]
    assert numbers == list(range(numbers[0], numbers[0] + 6)), f"the events have the numbers {numbers}"


@requirement("manage.event.sequence")
def test_goes_on_without_watchers(agent: Agent) -> None:
    """Events that nobody watches are counted."""
    watcher = watch_all(agent)
    worker = agent.worker(agent.name("m"))
    first = next(e.sequence for e in watcher if e.worker_id == worker.worker_id)
    watcher.stream.cancel()
    for _ in range(3):
        agent.management.register(worker, agent.name("m"))
    later = agent.watch(include_existing=True).take(1)[0].sequence
    assert later >= first + 3, f"three events after number {first} the last one is said to be {later}"


@requirement("manage.event.sequence")
def test_begins_with_1(launch_agent: Callable[..., Agent]) -> None:
    """The first event of an instance, SERVER_READY of a bare agent, is number 1, and the next is 2."""
    agent = launch_agent()
    ready = proto.ServerReadyRequest()
    agent.patience.until(lambda: agent.client.call("ServerReady", ready).message.ready, "ServerReady")
    watcher = watch_all(agent)
    agent.worker(agent.name("m"))
    event = watcher.next()
    if event is not None and facts(event)[0] == READY:  # it may come a moment after the answer of ServerReady
        assert event.sequence == 1, f"SERVER_READY of a bare agent is number {event.sequence}"
        event = watcher.next()
    assert event is not None, "WatchEvents ended"
    assert event.sequence == 2, f"behind SERVER_READY the first registration is number {event.sequence}"


@requirement("manage.event.time")
def test_time_of_the_event(agent: Agent) -> None:
    """An event's time lies between the call that causes it and its answer."""
    watcher = agent.watch()
    worker = agent.listener()
    for number in range(3):
        before = time.time_ns() // 1_000_000 - CLOCK
        agent.management.register(worker, agent.name(f"m{number}"))
        after = time.time_ns() // 1_000_000
        at = watcher.take(1)[0].time_unix_ms
        assert before <= at <= after, f"an event between {before} and {after} has the time {at}"


# Who is told


@requirement("manage.event.subscribed")
def test_nothing_is_missed_after_the_metadata(agent: Agent) -> None:
    """The initial metadata comes without an event, and whatever happens right after it is told."""
    worker = agent.listener()
    for number in range(20):
        watcher = agent.watch()
        name = agent.name(f"m{number}")
        agent.management.register(worker, name)
        told(watcher, (REGISTERED, worker.worker_id, name))
        watcher.stream.cancel()


@requirement("manage.event.existing")
def test_existing_come_first(agent: Agent) -> None:
    """With include_existing each registration is told first, as it is listed, with the number of the last event."""
    a, b = agent.name("a"), agent.name("b")
    one = agent.worker(a, "1", capability={"type": "x"}, priority=3, platform="p", max_concurrency=2)
    agent.management.register(one, b, stream=True)
    two = agent.worker(a, worker_id="two")
    numbers = watch_all(agent)
    marker = agent.worker(agent.name("marker"), worker_id="marker")
    last = numbers.take(1)[0].sequence
    now = time.time_ns() // 1_000_000 - CLOCK
    watcher = agent.watch(include_existing=True)
    existing = watcher.take(4)
    late = agent.worker(agent.name("late"), worker_id="late")
    expected = [
        (REGISTERED, one.worker_id, a),
        (REGISTERED, one.worker_id, b),
        (REGISTERED, two.worker_id, a),
        (REGISTERED, marker.worker_id, agent.name("marker")),
    ]
    found = sorted(facts(event) for event in existing)
    assert found == sorted(expected), f"told as existing was {found}"
    for event in existing:
        assert event.registration in listed(agent, event.worker_id).registrations, f"{event.registration} is not listed"
        assert event.time_unix_ms >= now, "an existing registration is told with a time before the call"
    sequences = {event.sequence for event in existing}
    assert len(sequences) == 1, f"the existing registrations have the numbers {sequences}"
    (event,) = told(watcher, (REGISTERED, late.worker_id, agent.name("late")))
    first = existing[0].sequence
    assert first >= last, f"the existing registrations have the number {first}, and the event before it was {last}"
    assert event.sequence > first, f"the first event has number {event.sequence}, the existing registrations {first}"


@requirement("manage.event.existing")
def test_number_of_the_last_event(agent: Agent) -> None:
    """The event behind the existing registrations has the next number."""
    agent.worker(agent.name("m"))
    watcher = watch_all(agent, include_existing=True)
    worker = agent.worker(agent.name("late"), worker_id="late")
    events = []
    for event in watcher:
        events.append(event)
        if event.worker_id == worker.worker_id:
            break
    existing = events[0].sequence
    later = [event.sequence for event in events if event.sequence > existing]
    assert later == list(range(existing + 1, existing + 1 + len(later))), (
        f"behind existing registrations with the number {existing} come {later}"
    )
    assert later, f"the registration behind the existing ones has number {events[-1].sequence}, they have {existing}"


@requirement("manage.event.existing")
def test_removed_are_not_told(agent: Agent) -> None:
    """What was removed or replaced before is not told as existing."""
    worker = agent.worker(agent.name("m"), priority=1)
    agent.management.register(worker, agent.name("m"), priority=2)
    agent.management.register(worker, agent.name("n"))
    agent.management.unregister_model(worker.worker_id, agent.name("n"))
    left = agent.worker(agent.name("o"), worker_id="left")
    agent.management.unregister(left.worker_id)
    watcher = agent.watch(include_existing=True)
    (event,) = told(watcher, (REGISTERED, worker.worker_id, agent.name("m")))
    assert event.registration.priority == 2, "what is told as existing was replaced before"
    agent.management.register(worker, agent.name("late"))
    told(watcher, (REGISTERED, worker.worker_id, agent.name("late")))


@requirement("manage.event.existing")
def test_only_if_asked(agent: Agent) -> None:
    """Without include_existing nothing that was registered before is told."""
    worker = agent.worker(agent.name("old"))
    watcher = agent.watch()
    agent.management.register(worker, agent.name("new"))
    told(watcher, (REGISTERED, worker.worker_id, agent.name("new")))


class Registering:
    """Registers one model after the other in the background, `m0`, `m1`, …, all of one worker."""

    def __init__(self, agent: Agent) -> None:
        self.done = 0
        self._agent = agent
        self._worker = agent.listener()
        self._client = agent.new_management()
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def reached(self, count: int) -> None:
        """Waits until so many are registered."""
        self._agent.patience.until(lambda: self.done >= count, f"registration {count}")

    def end(self) -> None:
        """Stops it."""
        self._over = True
        self._thread.join(self._agent.patience())

    def _run(self) -> None:
        with suppress(AssertionError, grpc.RpcError):  # the case sees that `done` stands still
            while not self._over:
                self._client.register(self._worker, self._agent.name(f"m{self.done}"))
                self.done += 1


@requirement("manage.event.no-gap")
@pytest.mark.parametrize("include_existing", [True, False], ids=["existing", "new-alone"])
def test_while_registrations_come(agent: Agent, include_existing: bool) -> None:
    """A watcher that starts while registrations come is told each event behind its beginning, once and in order."""
    marker = agent.listener("marker")
    registering = Registering(agent)
    try:
        for number in range(8):
            registering.reached(registering.done + 5)
            watcher = watch_all(agent, include_existing=include_existing)
            registering.reached(registering.done + 3)
            known = registering.done
            agent.management.register(marker, agent.name(f"marker{number}"))
            events = told_up_to(watcher, agent.name(f"marker{number}"))
            if include_existing:
                names = {event.registration.model_name for event in events}
                left_out = [n for n in range(known) if agent.name(f"m{n}") not in names]
                assert not left_out, f"of {known} registrations these were not told: {left_out[:20]}"
    finally:
        registering.end()


def told_up_to(watcher: Watcher, name: str) -> list[Any]:
    """All that is told up to the registration of this model; then the watcher ends. Numbers must have no gap."""
    events = []
    for event in watcher:
        events.append(event)
        if event.registration.model_name == name:
            break
    else:
        raise AssertionError(f"WatchEvents ended before the registration of {name}")
    watcher.stream.cancel()
    first = events[0].sequence
    existing = sum(event.sequence == first for event in events)  # or the first event itself
    sequences = [first, *(event.sequence for event in events[existing:])]
    assert sequences == list(range(first, first + len(sequences))), f"a watcher was told the numbers {sequences}"
    ids = [(event.worker_id, event.registration.model_name) for event in events]
    assert len(ids) == len(set(ids)), "a registration was told twice"
    return events


@requirement("manage.event.no-gap")
def test_while_existing_ones_wait(agent: Agent) -> None:
    """What happens while existing registrations are still being told to a slow watcher is told behind them."""
    worker = agent.listener()
    count, padding = 120, {"k": "x" * 256, "l": "x" * 256, "m": "x" * 256, "n": "x" * 256}
    for number in range(count):  # more than fits on the way to a watcher that takes little ahead
        agent.management.register(worker, agent.name(f"m{number}"), capability=padding)
    watch = agent.new_management(window=SMALL_WINDOW).watch(lambda _: True, include_existing=True)
    watch.started()
    agent.management.register(worker, agent.name("late"))
    agent.management.unregister_model(worker.worker_id, agent.name("m0"))
    events = told_up_to(watch, agent.name("late"))
    names = {event.registration.model_name for event in events if event.sequence == events[0].sequence}
    left_out = [n for n in range(count) if agent.name(f"m{n}") not in names]
    assert not left_out, f"of {count} existing registrations these were not told: {left_out[:20]}"
