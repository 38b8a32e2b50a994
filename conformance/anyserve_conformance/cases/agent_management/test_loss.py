"""When a worker is lost, when it is not, and what becomes of its exchanges."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import LOST, answers, facts, goes_to, gone, listed, vanish
from anyserve_conformance.management import Watcher
from anyserve_conformance.requirement import requirement, skipped
from anyserve_conformance.scripted_worker import ScriptedWorker

LOOK_AT = "who is dropped: by missing heartbeats whoever has sent one, by a refused connection whoever has sent none"

TIMEOUT = 0.6
QUICK = {"heartbeat-timeout": TIMEOUT, "connect-timeout": 0.2}
LATE = 1.5 * TIMEOUT
UNAVAILABLE = 14
NOISE = 0.15
"""Seconds by which a busy machine may hold up an agent; a drop at twice the timeout is still told from one in time."""


def beating_worker(agent: Agent, name: str = "m", worker_id: str = "worker", **fields: Any) -> ScriptedWorker:
    """A worker that has registered and sent one heartbeat."""
    worker = agent.worker(agent.name(name), worker_id=worker_id, **fields)
    beat(agent, worker)
    return worker


def beat(agent: Agent, worker: ScriptedWorker) -> None:
    """One heartbeat of a worker that must be known."""
    assert agent.management.heartbeat(worker.worker_id), f"the agent does not know {worker.worker_id}"


def loss(watcher: Watcher, *worker_ids: str) -> Any:
    """The next WORKER_LOST, which must be of one of these workers; other events are passed over."""
    while (event := watcher.next()) is not None:
        if facts(event)[0] == LOST:
            assert event.worker_id in worker_ids, f"{event.worker_id} was dropped: {event.message}"
            return event
    raise AssertionError("WatchEvents ended without WORKER_LOST")


# By time


@dataclass
class Beat:
    """When a heartbeat was under way, in seconds of two clocks."""

    sent: float
    answered: float
    answered_unix: float


def timed_beat(agent: Agent, worker: ScriptedWorker) -> Beat:
    """One heartbeat of a worker that must be known, and when it was."""
    sent = time.monotonic()
    beat(agent, worker)
    return Beat(sent, time.monotonic(), time.time())


@requirement("manage.loss.timeout", "manage.loss.not-early", needs=QUICK)
def test_dropped_in_time(agent: Agent) -> None:
    """Of workers that stop sending heartbeats at different moments each is dropped after 1 to 1.5 times the timeout."""
    watcher = agent.watch()
    workers = {}
    count = min(8, agent.option("max-workers"))
    for number in range(count):  # so that no phase of whatever looks at them periodically hides what is late
        worker = agent.worker(agent.name("m"), worker_id=f"w{number}")
        workers[worker.worker_id] = timed_beat(agent, worker)
        time.sleep(TIMEOUT / count)
    for _ in range(count):
        event = loss(watcher, *workers)
        came = time.monotonic()
        last = workers.pop(event.worker_id)
        early = came - last.sent
        assert early >= TIMEOUT, f"dropped {early:.2f} s after its last heartbeat; the timeout is {TIMEOUT} s"
        late = event.time_unix_ms / 1_000 - last.answered_unix
        limit = LATE + agent.patience(NOISE)
        assert late < limit, (
            f"dropped {late:.2f} s after its last heartbeat, when one and a half times are {LATE:.2f} s"
        )


@requirement("manage.loss.timeout", needs=QUICK)
def test_gone_from_everywhere(agent: Agent) -> None:
    """A worker that is dropped is not listed, not healthy and gets no request; another match does."""
    beating_worker(agent, priority=1, worker_id="lost", answer=answers("lost"))
    agent.worker(agent.name("m"), answer=answers("left"))
    lost = agent.workers[0]
    gone(agent, lost.worker_id)
    assert not agent.management.heartbeat(lost.worker_id), "a worker that was dropped is healthy"
    assert not agent.management.unregister(lost.worker_id), "a worker that was dropped can be unregistered"
    goes_to(agent, agent.name("m"), "left")


@requirement("manage.loss.timeout", needs=QUICK)
def test_registering_is_no_heartbeat(agent: Agent) -> None:
    """A worker that goes on registering and sends no more heartbeats is dropped in time."""
    watcher = agent.watch()
    worker = agent.worker(agent.name("m"))
    last = timed_beat(agent, worker)
    lost: list[Any] = []

    def dropped() -> bool:
        agent.management.register(worker, agent.name("m"), priority=1)
        while watcher.stream.pending(0.02):
            event = watcher.next()
            if event is None or facts(event)[0] == LOST:
                lost.append(event)
                return True
        return False

    agent.patience.until(dropped, "the loss of a worker that sends no heartbeats and registers again and again")
    assert lost[0] is not None, "WatchEvents ended"
    late = lost[0].time_unix_ms / 1_000 - last.answered_unix
    limit = LATE + agent.patience(NOISE)
    assert late < limit, f"dropped {late:.2f} s after its last heartbeat, when one and a half times are {LATE:.2f} s"


@requirement("manage.loss.not-early", needs=QUICK)
def test_kept_while_heartbeats_come(agent: Agent) -> None:
    """A worker whose heartbeats come at two thirds of the timeout stays."""
    worker = beating_worker(agent, answer=answers("it"))
    keep_beating(agent, worker, during=lambda begin: time.monotonic() > begin + 3 * TIMEOUT)
    goes_to(agent, agent.name("m"), "it")


def keep_beating(agent: Agent, worker: ScriptedWorker, during: Callable[[float], bool]) -> None:
    """Sends heartbeats at two thirds of the timeout until `during` is true; the worker must stay known."""
    begin = last = time.monotonic()
    while not during(begin):
        time.sleep(max(0.0, last + TIMEOUT * 2 / 3 - time.monotonic()))
        sent = time.monotonic()
        known = agent.management.heartbeat(worker.worker_id)
        if not known and time.monotonic() - last >= TIMEOUT:
            skipped("the machine was too busy for heartbeats in time: run it again")
        assert known, "a worker was dropped that sends heartbeats at two thirds of the timeout"
        last = sent


@requirement("manage.loss.not-early", "manage.loss.timeout", needs=QUICK)
def test_each_worker_by_its_own(agent: Agent) -> None:
    """The heartbeats of one worker keep no other, at the same address either."""
    silent = beating_worker(agent, worker_id="silent")
    busy = agent.listener("busy", answer=answers("busy"))
    agent.management.register(busy, agent.name("n"), worker_address=silent.address)
    beat(agent, busy)
    keep_beating(agent, busy, during=lambda _: agent.management.listed(silent.worker_id) is None)


@requirement("manage.loss.without-heartbeats", needs=QUICK)
def test_never_sent_one(agent: Agent) -> None:
    """A worker that never sent a heartbeat stays while others are dropped, one after the other."""
    watcher = agent.watch()
    quiet = agent.worker(agent.name("m"), worker_id="quiet", answer=answers("quiet"))
    for number in range(2):
        other = beating_worker(agent, f"other{number}", worker_id=f"other{number}")
        loss(watcher, other.worker_id)
    age = listed(agent, quiet.worker_id).heartbeat_age_ms
    assert age == -1, f"a worker that never sent a heartbeat is listed with one of {age} ms ago"
    goes_to(agent, agent.name("m"), "quiet")


# By its socket


@requirement("manage.loss.refused")
@pytest.mark.parametrize("how", ["refuses", "does-not-exist"])
def test_without_heartbeats(agent: Agent, how: str) -> None:
    """A worker without heartbeats is dropped when its socket refuses a connection or does not exist."""
    watcher = agent.watch()
    worker = agent.worker(agent.name("m"))
    worker.refuse()
    if how == "does-not-exist":
        worker.path.unlink()
    agent.infer(agent.name("m")).expect(grpc.StatusCode.UNAVAILABLE)
    event = loss(watcher, worker.worker_id)
    assert event.message, "WORKER_LOST gives no reason"
    gone(agent, worker.worker_id)
    agent.infer(agent.name("m")).expect(grpc.StatusCode.NOT_FOUND)
    assert not agent.management.heartbeat(worker.worker_id), "a worker that was dropped is healthy"


@requirement("manage.loss.refused", "frame.retry.not-taken")
def test_request_goes_on(agent: Agent) -> None:
    """A request that finds a worker gone is served by another match, and the one that is gone is dropped."""
    name = agent.name("m")
    lost = agent.worker(name, priority=1, worker_id="lost")
    agent.worker(name, answer=answers("left"))
    vanish(lost)
    goes_to(agent, name, "left")
    gone(agent, lost.worker_id)


@requirement("manage.loss.refused")
def test_all_registrations_go(agent: Agent) -> None:
    """A worker that is dropped loses all its registrations, not only the one that was asked for."""
    worker = agent.worker(agent.name("m"))
    agent.management.register(worker, agent.name("n"), capability={"type": agent.name("n")})
    vanish(worker)
    agent.infer(agent.name("m")).expect(grpc.StatusCode.UNAVAILABLE)
    gone(agent, worker.worker_id)
    agent.infer(agent.name("n")).expect(grpc.StatusCode.NOT_FOUND)
    agent.infer("", query={"type": agent.name("n")}).expect(grpc.StatusCode.NOT_FOUND)


@requirement("manage.loss.patient")
@pytest.mark.parametrize("how", ["refuses", "does-not-exist"])
def test_with_heartbeats(agent: Agent, how: str) -> None:
    """A worker with heartbeats stays when its socket refuses, and is served from again when it listens."""
    name = agent.name("m")
    worker = beating_worker(agent, answer=answers("back"))
    goes_to(agent, name, "back")
    vanish(worker)
    if how == "does-not-exist":
        worker.path.unlink()
    for _ in range(3):
        agent.infer(name).expect(grpc.StatusCode.UNAVAILABLE)
    beat(agent, worker)
    assert len(listed(agent, worker.worker_id).registrations) == 1, "the worker has lost its registration"
    worker.listen()
    goes_to(agent, name, "back")


@requirement("manage.loss.patient")
def test_requests_go_to_others_meanwhile(agent: Agent) -> None:
    """While a worker with heartbeats refuses, other matches serve, and then it does again."""
    name = agent.name("m")
    worker = beating_worker(agent, priority=1, answer=answers("first"))
    agent.worker(name, answer=answers("second"))
    vanish(worker)
    for _ in range(2):
        goes_to(agent, name, "second")
    worker.listen()
    goes_to(agent, name, "first")


@requirement("manage.loss.patient")
def test_heartbeat_before_a_move_counts(agent: Agent) -> None:
    """A worker that has sent a heartbeat and registers anew or moves is one with heartbeats still."""
    name = agent.name("m")
    worker = beating_worker(agent)
    agent.management.register(worker, name, priority=1)
    moved = agent.listener()
    agent.management.register(moved, name, priority=1, worker_id=worker.worker_id)
    moved.refuse()
    agent.infer(name).expect(grpc.StatusCode.UNAVAILABLE)
    beat(agent, worker)


@requirement("manage.loss.backlog", needs=QUICK)
def test_full_backlog(agent: Agent) -> None:
    """A worker without heartbeats whose backlog stays full keeps its registration, and serves when it accepts."""
    name = agent.name("m")
    full = agent.listener("full", answer=answers("full"), accept=False, backlog=0)
    full.fill_backlog()
    agent.management.register(full, name, priority=1)
    agent.infer(name).expect(grpc.StatusCode.UNAVAILABLE)
    assert len(listed(agent, full.worker_id).registrations) == 1, "the worker has lost its registration"
    agent.worker(name, worker_id="other", answer=answers("other"))
    goes_to(agent, name, "other")
    full.start_accepting()
    agent.patience.until(lambda: agent.infer(name).message.id == "full", "a request at the worker that accepts now")


# What was under way


@requirement("manage.loss.exchanges", needs=QUICK)
def test_exchanges_of_a_silent_worker(agent: Agent) -> None:
    """Exchanges of a worker that is dropped for its heartbeats are UNAVAILABLE, and its connections closed."""
    worker = agent.worker(agent.name("m"))
    agent.management.register(worker, agent.name("s"), stream=True)
    calls = [agent.start_infer(agent.name("m")) for _ in range(3)]
    idle, *running = [worker.exchange() for _ in calls]
    idle.answer()
    stream = agent.stream().send(wire.request(agent.name("s"), request_id="7")).end()
    streaming = worker.exchange()
    streaming.send(wire.stream_reply(i=0))
    stream.receive()
    beat(agent, worker)
    codes = sorted(call.answer().code.name for call in calls)
    assert codes == ["OK", "UNAVAILABLE", "UNAVAILABLE"], f"the calls ended with {codes}"
    failure = stream.receive()
    found = wire.parameters_of(failure.response).get("anyserve_error_code")
    assert failure.error, "the streaming request was not told of a failure"
    assert found == UNAVAILABLE, f"the streaming request failed with the code {found}, not {UNAVAILABLE}"
    for exchange in (*running, streaming):
        exchange.cancelled()
    agent.patience.until(lambda: worker.open_connections == 0, "the end of all connections")


@requirement("manage.loss.exchanges")
def test_exchanges_of_one_that_refuses(agent: Agent) -> None:
    """Exchanges of a worker that is dropped because it refuses another connection fail with UNAVAILABLE."""
    name = agent.name("m")
    worker = agent.worker(name)
    first = agent.start_infer(name)
    exchange = worker.exchange()
    worker.refuse()
    agent.infer(name).expect(grpc.StatusCode.UNAVAILABLE)
    first.answer().expect(grpc.StatusCode.UNAVAILABLE)
    exchange.cancelled()
    gone(agent, worker.worker_id)


@requirement("manage.loss.exchanges", "queue.change.gone", needs=QUICK)
def test_waiting_requests(agent: Agent) -> None:
    """Requests that wait for a worker that is dropped are UNAVAILABLE when it was the last match."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    calls = [agent.start_infer(name) for _ in range(3)]
    worker.exchange()
    beat(agent, worker)
    for call in calls:
        call.answer().expect(grpc.StatusCode.UNAVAILABLE)
    assert len(worker.requests) == 1, "the worker got a request that should have waited"


@requirement("manage.loss.exchanges", needs=QUICK)
def test_others_are_left_alone(agent: Agent) -> None:
    """An exchange of another worker of the same model ends as usual when one is dropped."""
    name = agent.name("m")
    agent.worker(name, worker_id="lost", max_concurrency=1)
    agent.worker(name, worker_id="left", max_concurrency=1)
    lost, left = agent.workers
    calls = [agent.start_infer(name) for _ in range(2)]
    lost.exchange()
    exchange = left.exchange()
    beat(agent, lost)
    gone(agent, lost.worker_id)
    exchange.answer()
    codes = sorted(call.answer().code.name for call in calls)
    assert codes == ["OK", "UNAVAILABLE"], f"the calls ended with {codes}"


# Coming back


@requirement("manage.loss.return", needs=QUICK)
def test_back_after_silence(agent: Agent) -> None:
    """A worker that was dropped and registers again is served, and not dropped for what it missed before."""
    watcher = agent.watch()
    worker = beating_worker(agent, answer=answers("back"))
    loss(watcher, worker.worker_id)
    agent.management.register(worker, agent.name("m"))
    goes_to(agent, agent.name("m"), "back")
    other = beating_worker(agent, "other", worker_id="other")
    loss(watcher, other.worker_id)
    beat(agent, worker)
    loss(watcher, worker.worker_id)


@requirement("manage.loss.return")
def test_back_after_refusing(agent: Agent) -> None:
    """A worker that was dropped because it refused is served when it listens and registers again, each time."""
    name = agent.name("m")
    worker = agent.worker(name, answer=answers("back"))
    for _ in range(3):
        vanish(worker)
        agent.infer(name).expect(grpc.StatusCode.UNAVAILABLE)
        gone(agent, worker.worker_id)
        worker.listen()
        agent.management.register(worker, name)
        goes_to(agent, name, "back")
