"""Waiting for a place, and who gets one that becomes free; more in `test_queue_vectors.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis
import pytest
from grpc import StatusCode
from hypothesis import strategies as st

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import TOO_LONG, hold, in_flight, let_wait
from anyserve_conformance.client import Call
from anyserve_conformance.requirement import requirement, skipped
from anyserve_conformance.scripted_worker import Exchange, ScriptedWorker

LOOK_AT = "who gets a place that is free, and what a queue holds"


def named(name: str, request_id: str) -> bytes:
    """A request for a model with an id, by which a worker's requests can be told apart."""
    return bytes(wire.request(name, request_id=request_id).SerializeToString())


# Waiting


@requirement("queue.wait.busy")
def test_waits_for_the_only_place(agent: Agent) -> None:
    """A request whose only match is busy is neither refused nor sent, and is served when the place is free."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    first, exchange = hold(agent, worker, named(name, "first"))
    second = let_wait(agent, named(name, "second"))
    worker.no_exchange()
    assert not second.done, "the request ended instead of waiting"
    assert in_flight(agent, worker) == 1, "a request that waits counts as under way"
    exchange.answer()
    first.answer().expect_ok()
    exchange = worker.exchange()
    assert exchange.request.id == "second", f"request {exchange.request.id} came"
    exchange.answer()
    second.answer().expect_ok()


@requirement("queue.wait.busy")
def test_waits_for_the_best_match(agent: Agent) -> None:
    """A request whose best matches are all busy waits, also while a match of lower rank is free."""
    name = agent.name("m")
    best = [agent.worker(name, priority=1, max_concurrency=1) for _ in range(2)]
    lower = agent.worker(name, worker_id="lower", answer=lambda _: b"")
    calls = [agent.start_infer(name) for _ in best]
    exchanges = [worker.exchange() for worker in best]
    calls.append(let_wait(agent, name))
    assert not lower.connections, "the request was sent to a match of lower rank"
    exchanges[1].answer()
    best[1].exchange().answer()
    exchanges[0].answer()
    for call in calls:
        call.answer().expect_ok()


@requirement("queue.wait.free-place")
def test_all_places_are_used(agent: Agent) -> None:
    """Requests for three workers with two places each wait only when all six are taken."""
    name = agent.name("m")
    workers = [agent.worker(name, max_concurrency=2) for _ in range(3)]
    calls = [agent.start_infer(name) for _ in range(6)]
    exchanges = [worker.exchange() for worker in workers for _ in range(2)]
    calls.append(let_wait(agent, name))
    exchanges.pop(3).answer()
    exchanges.append(workers[1].exchange())
    for exchange in exchanges:
        exchange.answer()
    for call in calls:
        call.answer().expect_ok()


@requirement("queue.wait.free-place")
def test_many_requests_few_places(agent: Agent) -> None:
    """Of a hundred requests at once for two places each is served once, and no place is left empty or taken twice."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=2)
    calls = [agent.start_infer(named(name, str(number))) for number in range(100)]
    exchanges = [worker.exchange(), worker.exchange()]
    for _ in range(98):
        exchanges.pop(0).answer()
        exchanges.append(worker.exchange())
    for exchange in exchanges:
        exchange.answer()
    for call in calls:
        call.answer().expect_ok()
    assert len(set(worker.requests)) == len(worker.requests) == 100, f"{len(worker.requests)} requests came"


# A place that becomes free


def reply(_: Call, exchange: Exchange) -> None:
    """A reply."""
    exchange.answer()


def failure(_: Call, exchange: Exchange) -> None:
    """A failure reply."""
    exchange.answer(wire.reply(anyserve_error_code=5))


def malformed(_: Call, exchange: Exchange) -> None:
    """A reply that is no message."""
    exchange.answer(b"\xff")


def violation(_: Call, exchange: Exchange) -> None:
    """A violation of the framing."""
    exchange.connection.send(TOO_LONG, "a length above any limit")
    exchange.cancelled()
    exchange.over.set()


def end(_: Call, exchange: Exchange) -> None:
    """The end of the connection without a reply."""
    exchange.close()


def cut_off(_: Call, exchange: Exchange) -> None:
    """The end of the connection within a reply."""
    exchange.connection.send(b"\x00\x00")
    exchange.close()


def cancelled(call: Call, exchange: Exchange) -> None:
    """The client gives up."""
    call.cancel()
    exchange.cancelled()


@requirement("queue.order.arrival")
@pytest.mark.parametrize("ending", [reply, failure, malformed, violation, end, cut_off, cancelled])
def test_however_it_becomes_free(agent: Agent, ending: Callable[[Call, Exchange], None]) -> None:
    """A place goes to the request that came first, however the exchange before has ended."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    call, exchange = hold(agent, worker, named(name, "running"))
    waiting = {number: let_wait(agent, named(name, number)) for number in ("1", "2", "3")}
    ending(call, exchange)
    for number, waiter in waiting.items():
        exchange = worker.exchange()
        assert exchange.request.id == number, f"request {exchange.request.id} came instead of request {number}"
        exchange.answer()
        waiter.answer().expect_ok()


@requirement("queue.order.arrival")
def test_deadline_in_a_worker_frees_its_place(agent: Agent) -> None:
    """A place goes to the request that waits when the deadline of the one before passes at the worker."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    call = agent.start_infer(name, timeout=agent.patience(0.4))
    worker.exchange()
    waiting = agent.start_infer(named(name, "waiting"))
    call.answer().expect(StatusCode.DEADLINE_EXCEEDED)
    exchange = worker.exchange()
    assert exchange.request.id == "waiting", "another request came"
    exchange.answer()
    waiting.answer().expect_ok()


@requirement("queue.order.arrival", needs={"default-max-concurrency": 1})
def test_over_many_queues(agent: Agent) -> None:
    """One place that five models share is given in the order of arrival, though each has a queue of its own."""
    names = [agent.name(base) for base in "abcde"]
    worker = agent.worker(names[0])
    for name in names[1:]:
        agent.management.register(worker, name)
    call, exchange = hold(agent, worker, names[2])
    order = [f"{number}-{name}" for number, name in enumerate(names * 2)]
    calls = [let_wait(agent, named(request_id.partition("-")[2], request_id)) for request_id in order]
    got = []
    for waiting in calls:
        exchange.answer()
        exchange = worker.exchange()
        got.append(exchange.request.id)
        assert not waiting.done, "a request ended before its reply"
    exchange.answer()
    for waiting in [call, *calls]:
        waiting.answer().expect_ok()
    assert got == order, f"the requests came in the order {got}"


@requirement("queue.order.arrival")
def test_who_cannot_use_a_place_does_not_hold_it_up(agent: Agent) -> None:
    """A place goes past requests that came before and cannot use it, to the first that can."""
    scope, a, b = agent.name("scope"), agent.name("a"), agent.name("b")
    first = agent.worker(a, capability={"type": scope, "model": a}, max_concurrency=1)
    second = agent.worker(b, capability={"type": scope, "model": b}, max_concurrency=1)
    running = [hold(agent, first, a), hold(agent, second, b)]
    only_a = let_wait(agent, named(a, "only a"))
    either = let_wait(agent, named("", "either"), query={"type": scope})
    only_b = let_wait(agent, named(b, "only b"))
    running[1][1].answer()
    exchange = second.exchange()
    assert exchange.request.id == "either", f"the place of b went to the request for {exchange.request.id}"
    exchange.answer()
    exchange = second.exchange()
    assert exchange.request.id == "only b", f"the place of b went to the request for {exchange.request.id}"
    exchange.answer()
    running[0][1].answer()
    exchange = first.exchange()
    assert exchange.request.id == "only a", f"the place of a went to the request for {exchange.request.id}"
    exchange.answer()
    for call in (only_a, either, only_b, *(call for call, _ in running)):
        call.answer().expect_ok()


@requirement("queue.order.no-overtaking")
def test_newcomers_at_the_same_time(agent: Agent) -> None:
    """A request that waits gets the place, though others come at the moment when it becomes free."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    clients = [agent.new_client() for _ in range(3)]
    for client in clients:
        client.live()  # is connected
    for turn in range(5):
        call, exchange = hold(agent, worker, named(name, "running"))
        waiting = let_wait(agent, named(name, f"waiting {turn}"))
        release = threading.Thread(target=exchange.answer)
        release.start()
        newcomers = [client.start_infer(named(name, "newcomer")) for client in clients]
        exchange = worker.exchange()
        assert exchange.request.id == f"waiting {turn}", "a newcomer was let in before the request that waited"
        release.join(agent.patience())
        exchange.answer()
        for _ in newcomers:
            worker.exchange().answer()
        for ended in (call, waiting, *newcomers):
            ended.answer().expect_ok()


@requirement("queue.order.no-overtaking")
def test_newcomers_of_another_queue(agent: Agent) -> None:
    """A newcomer by query waits behind a request by name when both could use the place, and the other way round."""
    scope, name = agent.name("scope"), agent.name("m")
    worker = agent.worker(name, capability={"type": scope, "size": "1"}, max_concurrency=1)
    other = agent.worker(agent.name("other"), capability={"type": scope, "size": "2"}, max_concurrency=1)
    running = [agent.start_infer(b"", query={"type": scope}) for _ in range(2)]
    exchange, kept = worker.exchange(), other.exchange()
    calls = []
    order = ["by query 1", "by name 1", "by name 2", "by query 2", "by name 3"]
    for request_id in order:
        by_name = "name" in request_id
        query = None if by_name else {"type": scope}
        calls.append(let_wait(agent, named(name if by_name else "", request_id), query=query))
    got = []
    for _ in order:
        exchange.answer()
        exchange = worker.exchange()
        got.append(exchange.request.id)
    exchange.answer()
    kept.answer()
    for call in (*running, *calls):
        call.answer().expect_ok()
    assert got == order, f"the requests came in the order {got}"


# Bounds


@requirement("queue.bound.full", needs={"queue-size": 2})
def test_third_is_refused(agent: Agent) -> None:
    """With `--queue-size 2` the third request that would wait is refused at once; those that wait are served."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    running, exchange = hold(agent, worker, name)
    waiting = [let_wait(agent, name) for _ in range(2)]
    for _ in range(3):
        agent.infer(name).expect(StatusCode.RESOURCE_EXHAUSTED)
    exchange.answer()
    exchange = worker.exchange()
    waiting.append(let_wait(agent, name))
    agent.infer(name).expect(StatusCode.RESOURCE_EXHAUSTED)
    for _ in range(2):
        exchange.answer()
        exchange = worker.exchange()
    exchange.answer()
    for call in (running, *waiting):
        call.answer().expect_ok()
    assert len(worker.requests) == 4, f"{len(worker.requests)} requests came instead of the 4 that were not refused"


@requirement("queue.bound.full")
def test_default_size(agent: Agent) -> None:
    """At the default `--queue-size` exactly so many requests wait."""
    size = agent.option("queue-size")
    if size >= min(5_000, agent.option("max-concurrent-rpcs") - 2):
        skipped("needs an agent with a queue that a few thousand calls can fill")
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    running, exchange = hold(agent, worker, name)
    client = agent.new_client()
    message = wire.request(name).SerializeToString()
    calls = [client.start_infer(message) for _ in range(size + 1)]
    agent.patience.until(lambda: any(call.done for call in calls), f"one of {size + 1} requests to be refused")
    refused = [call for call in calls if call.done]
    for call in refused:
        call.answer().expect(StatusCode.RESOURCE_EXHAUSTED)
    client.live()
    assert sum(call.done for call in calls) == 1, f"more than one of {size + 1} requests was refused"
    client.close()
    exchange.answer()
    running.answer().expect_ok()


@requirement("queue.bound.full", needs={"queue-size": 0})
def test_queue_of_size_0(agent: Agent) -> None:
    """With `--queue-size 0` what finds no free place is refused, and what finds one is served."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=2)
    for _ in range(2):
        calls, exchanges = zip(*(hold(agent, worker, name) for _ in range(2)), strict=True)
        agent.infer(name).expect(StatusCode.RESOURCE_EXHAUSTED)
        for call, exchange in zip(calls, exchanges, strict=True):
            exchange.answer()
            call.answer().expect_ok()


@requirement("queue.bound.separate", needs={"queue-size": 2})
def test_capabilities_have_queues_of_their_own(agent: Agent) -> None:
    """Capabilities of one model name have queues of their own, and a query for both has a third."""
    name, scope = agent.name("m"), agent.name("scope")
    capabilities = [{"type": scope, "size": size} for size in ("1", "2")]
    worker = agent.worker(name, capability=capabilities[0], max_concurrency=1)
    agent.management.register(worker, name, capability=capabilities[1], max_concurrency=1)
    running = [agent.start_infer(b"", query=query) for query in capabilities]
    exchanges = [worker.exchange() for _ in running]
    calls = []
    for query in (*capabilities, {"type": scope}):
        calls += [let_wait(agent, b"", query=query) for _ in range(2)]
        agent.infer(b"", query=query).expect(StatusCode.RESOURCE_EXHAUSTED)
    for _ in calls:
        exchanges.pop(0).answer()
        exchanges.append(worker.exchange())
    for exchange in exchanges:
        exchange.answer()
    for call in (*running, *calls):
        call.answer().expect_ok()


# Against a model


@dataclass
class Desk:
    """What has to happen, in a few lines: places, and requests that wait in the order of arrival."""

    free: dict[str, int]
    waiting: list[tuple[str, frozenset[str]]] = field(default_factory=list)

    def arrives(self, request: str, matches: frozenset[str]) -> bool:
        """Whether it is sent at once."""
        if any(self.free[worker] for worker in matches):
            return True
        self.waiting.append((request, matches))
        return False

    def next_for(self, worker: str) -> str | None:
        """The request that gets a place of a worker that has become free."""
        for each in self.waiting:
            if worker in each[1]:
                self.waiting.remove(each)
                return each[0]
        self.free[worker] += 1
        return None


@requirement("queue.order.arrival", "queue.wait.busy", "queue.wait.free-place")
@hypothesis.given(data=st.data())
def test_any_order_of_events(agent: Agent, data: st.DataObject) -> None:
    """Requests for either of two models or for both come and end in any order: each place goes to whom it belongs."""
    scope, a, b = (f"{agent.name(base)}-{len(agent.workers)}" for base in ("scope", "a", "b"))
    models = {"left": a, "right": b, "both": ""}
    workers = {
        "left": agent.worker(a, capability={"type": scope, "model": a}, max_concurrency=1),
        "right": agent.worker(b, capability={"type": scope, "model": b}, max_concurrency=2),
    }
    desk = Desk({"left": 1, "right": 2})
    running: list[tuple[str, Exchange]] = []
    calls: list[Call] = []

    def sent_to(among: frozenset[str], request: str) -> None:
        agent.patience.until(
            lambda: any(any(request.encode() in got for got in workers[label].requests) for label in among),
            f"{request} to reach a worker",
        )
        label = next(label for label in among if any(request.encode() in got for got in workers[label].requests))
        exchange = workers[label].exchange()
        assert exchange.request.id == request, f"{exchange.request.id} was sent, and not {request}"
        running.append((label, exchange))

    for number in range(data.draw(st.integers(4, 14))):
        ends: bool = bool(running) and data.draw(st.booleans())
        if ends:
            label, exchange = running.pop(data.draw(st.integers(0, len(running) - 1)))
            exchange.answer()
            if (following := desk.next_for(label)) is not None:
                sent_to(frozenset([label]), following)
            continue
        model = data.draw(st.sampled_from(sorted(models)))
        matches = frozenset(workers) if model == "both" else frozenset([model])
        request = f"request {number:02}"
        query = {"type": scope} if model == "both" else None
        calls.append(agent.start_infer(named(models[model], request), query=query))
        if desk.arrives(request, matches):
            sent_to(frozenset(label for label in matches if desk.free[label]), request)
            desk.free[running[-1][0]] -= 1
        else:
            agent.client.live()  # comes behind it on the same connection: the next request arrives later
    finish(desk, workers, running)
    for call in calls:
        call.answer().expect_ok()
    for worker in workers.values():
        agent.management.unregister(worker.worker_id)
        worker.close()


def finish(desk: Desk, workers: dict[str, ScriptedWorker], running: list[tuple[str, Exchange]]) -> None:
    """Answers everything, in the order in which it has to come."""
    while running:
        label, exchange = running.pop(0)
        exchange.answer()
        if (following := desk.next_for(label)) is not None:
            exchange = workers[label].exchange()
            assert exchange.request.id == following, f"{exchange.request.id} was sent, and not {following}"
            running.append((label, exchange))
