"""Connections to a worker: one exchange at a time on each, reused, as many as there are places and no more."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import hold, let_wait, serve_once
from anyserve_conformance.client import Call
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import Exchange, ScriptedWorker

LOOK_AT = "when a connection to a worker is idle, and how many may be open"


def finish(exchanges: list[Exchange], calls: list[Call]) -> None:
    """Answers what is under way and expects the calls to end well."""
    for exchange in exchanges:
        exchange.answer()
    for call in calls:
        call.answer().expect_ok()


def names_of(exchanges: list[Exchange]) -> Counter[str]:
    """How many exchanges there are of each model."""
    return Counter(str(exchange.request.model_name) for exchange in exchanges)


# One exchange


@requirement("frame.connections.one-exchange")
def test_next_request_waits_for_the_reply(agent: Agent) -> None:
    """On a worker with one place nothing is sent on its connection until the reply has come, not even half of it."""
    name = agent.name("one")
    worker = agent.worker(name, max_concurrency=1, raw=True)
    first = agent.start_infer(wire.request(name, request_id="first"))
    connection = worker.connection()
    connection.read_frame()
    second = let_wait(agent, wire.request(name, request_id="second"))
    assert connection.silent(), "the agent sent more before the reply to the first request"
    connection.send(wire.frame(wire.reply(name))[:-1])
    assert connection.silent(), "the agent sent more before the reply to the first request was complete"
    connection.send(wire.frame(wire.reply(name))[-1:])
    first.answer().expect_ok()
    assert b"second" in connection.read_frame(), "the second request is not what came next"
    connection.send_frame(wire.reply(name))
    second.answer().expect_ok()


@requirement("frame.connections.one-exchange")
def test_requests_at_once_have_connections_of_their_own(agent: Agent) -> None:
    """Requests at the same time go over different connections, and any of them may be answered first."""
    name = agent.name("three")
    worker = agent.worker(name, max_concurrency=3)
    calls, exchanges = zip(*(hold(agent, worker, wire.request(name, request_id=str(n))) for n in range(3)), strict=True)
    assert len({id(exchange.connection) for exchange in exchanges}) == 3, "two requests share a connection"
    for number in (2, 0, 1):
        exchanges[number].answer(wire.reply(request_id=f"answer {number}"))
        got = calls[number].answer().message.id
        assert got == f"answer {number}", f"the answer to request {number} came as {got}"


@requirement("frame.connections.one-exchange")
def test_a_stream_is_one_exchange_until_its_end(agent: Agent) -> None:
    """A connection carries no other request between the replies of a streaming worker."""
    name = agent.name("stream")
    worker = agent.worker(name, stream=True, max_concurrency=1, raw=True)
    stream = agent.stream().send(wire.request(name, request_id="first"))
    connection = worker.connection()
    connection.read_frame()
    connection.send_frame(wire.stream_reply(request_id="reply"))
    stream.receive()
    stream.send(wire.request(name, request_id="second"))
    assert connection.silent(), "the agent sent more before the empty frame"
    connection.send_frame(b"")
    assert b"second" in connection.read_frame(), "the second request is not what came next"
    connection.send_frame(b"")
    stream.end().answer().expect_ok()


@requirement("frame.connections.one-exchange", "frame.cancel.client")
def test_an_exchange_that_was_given_up_ends_its_connection(agent: Agent) -> None:
    """After a cancelled exchange the next request comes on another connection."""
    name = agent.name("cancelled")
    worker = agent.worker(name, max_concurrency=1)
    call, exchange = hold(agent, worker, name)
    call.cancel()
    exchange.cancelled()
    serve_once(agent, worker, name)
    assert len(worker.connections) == 2, "the agent did not make one further connection"


# Reuse


@requirement("frame.connections.reuse")
def test_one_after_the_other(agent: Agent) -> None:
    """Exchanges one after the other all go over one connection."""
    name = agent.name("reuse")
    worker = agent.worker(name)
    for number in range(5):
        serve_once(agent, worker, name)
        assert len(worker.connections) == 1, f"exchange {number + 1} had a connection of its own"


@requirement("frame.connections.reuse")
def test_several_idle_ones(agent: Agent) -> None:
    """Three connections that are idle serve the next three exchanges at once."""
    name = agent.name("reuse")
    worker = agent.worker(name)
    for _ in range(3):
        calls, exchanges = map(list, zip(*(hold(agent, worker, name) for _ in range(3)), strict=True))
        finish(exchanges, calls)
    assert len(worker.connections) == 3, f"{len(worker.connections)} connections were made for 3 exchanges at once"


@requirement("frame.connections.reuse")
def test_an_idle_one_beside_a_busy_one(agent: Agent) -> None:
    """An idle connection is used while another is busy."""
    name = agent.name("reuse")
    worker = agent.worker(name)
    busy, busy_exchange = hold(agent, worker, name)
    for _ in range(3):
        serve_once(agent, worker, name)
    assert len(worker.connections) == 2, f"{len(worker.connections)} connections were made for 2 exchanges at once"
    finish([busy_exchange], [busy])


@requirement("frame.connections.reuse")
def test_by_all_registrations_of_a_worker(agent: Agent) -> None:
    """A connection serves exchanges of each registration of its worker, also failed ones."""
    one, two = agent.name("one"), agent.name("two")
    worker = agent.worker(one)
    agent.management.register(worker, two, capability={"type": two})
    serve_once(agent, worker, one)
    call, exchange = hold(agent, worker, two)
    exchange.answer(wire.reply(anyserve_error_code=5))
    call.answer().expect(StatusCode.NOT_FOUND)
    serve_once(agent, worker, one)
    assert len(worker.connections) == 1, f"{len(worker.connections)} connections were made for one exchange at a time"


@requirement("frame.connections.reuse")
def test_by_streams_and_unary_exchanges(agent: Agent) -> None:
    """A connection serves the next exchange after a stream's empty frame, and a stream after a unary reply."""
    unary, streaming = agent.name("unary"), agent.name("streaming")
    worker = agent.worker(unary)
    agent.management.register(worker, streaming, stream=True)
    for _ in range(2):
        serve_once(agent, worker, unary)
        stream = agent.stream().send(wire.request(streaming)).end()
        exchange = worker.exchange()
        exchange.send(wire.stream_reply())
        exchange.end()
        stream.answer().expect_ok()
    assert len(worker.connections) == 1, f"{len(worker.connections)} connections were made for one exchange at a time"


# How many


def fill(agent: Agent, worker: ScriptedWorker, names: list[str], places: int) -> tuple[list[Exchange], list[Call]]:
    """Starts a request for each name, and expects that so many of them reach the worker."""
    calls = [agent.start_infer(name) for name in names]
    exchanges = [worker.exchange() for _ in range(places)]
    agent.client.live()
    worker.no_exchange(0.1)
    assert len(worker.connections) <= places, f"{len(worker.connections)} connections for {places} places"
    return exchanges, calls


@requirement("frame.connections.limit", "frame.connections.open")
@pytest.mark.parametrize("places", [1, 3, 12])
def test_places_of_a_registration(agent: Agent, places: int) -> None:
    """A registration with `max_concurrency` has exactly so many exchanges under way, however many requests wait."""
    name = agent.name("places")
    worker = agent.worker(name, max_concurrency=places)
    exchanges, calls = fill(agent, worker, [name] * (3 * places), places)
    for _ in range(2 * places):
        exchanges.pop(0).answer()
        exchanges.append(worker.exchange())
    finish(exchanges, calls)
    assert len(worker.connections) == places, f"{len(worker.connections)} connections for {places} places"


@requirement("frame.connections.limit")
def test_default_places(agent: Agent) -> None:
    """A registration without `max_concurrency` has `--default-max-concurrency` places."""
    places = agent.option("default-max-concurrency")
    name = agent.name("default")
    worker = agent.worker(name)
    exchanges, calls = fill(agent, worker, [name] * (places + 2), places)
    for exchange in exchanges[:2]:
        exchange.answer()
    exchanges[:2] = [worker.exchange(), worker.exchange()]
    finish(exchanges, calls)


@requirement("frame.connections.limit", needs={"default-max-concurrency": 2})
def test_default_places_are_shared(agent: Agent) -> None:
    """All registrations of a worker without `max_concurrency` share `--default-max-concurrency` places."""
    names = [agent.name(base) for base in "abc"]
    worker = agent.worker(names[0])
    for name in names[1:]:
        agent.management.register(worker, name)
    exchanges, calls = fill(agent, worker, names * 2, 2)
    for _ in range(4):
        exchanges.pop(0).answer()
        exchanges.append(worker.exchange())
    finish(exchanges, calls)


@requirement("frame.connections.limit", needs={"default-max-concurrency": 2})
def test_default_places_are_of_each_worker(agent: Agent) -> None:
    """Each worker has `--default-max-concurrency` places of its own."""
    name = agent.name("default")
    one, two = agent.worker(name), agent.worker(name)
    calls = [agent.start_infer(name) for _ in range(5)]
    exchanges = [worker.exchange() for worker in (one, two, one, two)]
    agent.client.live()
    one.no_exchange(0.1)
    two.no_exchange(0.01)
    exchanges.pop(0).answer()
    exchanges.append(one.exchange())
    finish(exchanges, calls)


@requirement("frame.connections.limit", needs={"default-max-concurrency": 2})
def test_places_are_of_each_registration(agent: Agent) -> None:
    """Registrations that state their places have those for themselves, and the others of the worker share theirs."""
    one, two, free, open_ = (agent.name(base) for base in ("one", "two", "free", "open"))
    worker = agent.worker(one, max_concurrency=1)
    agent.management.register(worker, two, max_concurrency=2)
    agent.management.register(worker, free)
    agent.management.register(worker, open_)
    names = [one] * 3 + [two] * 3 + [free] * 3 + [open_] * 3
    exchanges, calls = fill(agent, worker, names, 5)
    under_way = names_of(exchanges)
    assert under_way[one] == 1, f"{under_way[one]} exchanges of a registration with max_concurrency = 1"
    assert under_way[two] == 2, f"{under_way[two]} exchanges of a registration with max_concurrency = 2"
    for pool, waiting in (([one], 2), ([two], 1), ([free, open_], 4)):
        for _ in range(waiting):
            ended = next(exchange for exchange in exchanges if exchange.request.model_name in pool)
            exchanges.remove(ended)
            ended.answer()
            following = worker.exchange()
            exchanges.append(following)
            taken_by = following.request.model_name
            assert taken_by in pool, f"a place of {ended.request.model_name} was given to a request for {taken_by}"
    finish(exchanges, calls)
    assert len(worker.connections) <= 5, f"{len(worker.connections)} connections for 5 places"


@requirement("frame.connections.limit", look_at="whether a replaced registration keeps what it had under way in mind")
def test_fewer_places_than_before(agent: Agent) -> None:
    """A registration that is replaced by one with fewer places gets no more before it has fewer exchanges than that."""
    name = agent.name("fewer")
    worker = agent.worker(name, max_concurrency=3)
    calls, exchanges = map(list, zip(*(hold(agent, worker, name) for _ in range(3)), strict=True))
    agent.management.register(worker, name, max_concurrency=1)
    calls.append(let_wait(agent, name))
    for _ in range(2):
        exchanges.pop(0).answer()
        worker.no_exchange(0.1)
    exchanges.pop(0).answer()
    finish([worker.exchange()], calls)


@requirement("frame.connections.open", "frame.connections.limit")
def test_cancelled_exchanges_make_room_first(agent: Agent) -> None:
    """A connection that is given up is closed before another is opened in its place."""
    name = agent.name("cancelled")
    worker = agent.worker(name, max_concurrency=1, raw=True)
    calls = [agent.start_infer(name)]
    connection = worker.connection()
    connection.read_frame()
    for _ in range(5):
        calls.append(let_wait(agent, name))
        calls.pop(0).cancel()
        following = worker.connection()
        assert connection.hung_up, "a connection was opened while the one before, of a worker with one place, was open"
        connection = following
        connection.read_frame()
    connection.send_frame(b"")
    calls[0].answer().expect_ok()


@requirement("frame.connections.open")
def test_violations_make_room_first(agent: Agent) -> None:
    """A connection that is closed for a violation is closed before another is opened in its place."""
    name = agent.name("violation")
    worker = agent.worker(name, max_concurrency=1, raw=True)
    first = agent.start_infer(name)
    connection = worker.connection()
    connection.read_frame()
    second = let_wait(agent, name)
    connection.send(b"\xff\xff\xff\xff", "a length above any limit")
    following = worker.connection()
    assert connection.hung_up, "a connection was opened while the one before, of a worker with one place, was open"
    following.read_frame()
    following.send_frame(b"")
    first.answer().expect(StatusCode.INTERNAL)
    second.answer().expect_ok()


# Connecting


@requirement("frame.connections.timeout", needs={"connect-timeout": 0.3}, look_at="connect(2) with a full backlog")
def test_gives_up_a_full_backlog(agent: Agent) -> None:
    """A worker whose backlog stays full is given up after `--connect-timeout`, and another match is tried."""
    name = agent.name("full")
    full = agent.listener("full", accept=False, backlog=0)
    full.fill_backlog()
    agent.management.register(full, name, priority=1)
    other = agent.worker(name, worker_id="other", answer=lambda _: wire.reply(request_id="other"))
    started = time.monotonic()
    answer = agent.infer(name)
    took = time.monotonic() - started
    assert answer.message.id == "other", "the request was not answered by the other match"
    assert took >= 0.25, f"the attempt was given up after {took:.2f} s of 0.3 s"
    assert len(other.requests) == 1


@requirement("frame.connections.timeout", "frame.retry.exhausted", needs={"connect-timeout": 0.3})
def test_gives_up_the_only_match(agent: Agent) -> None:
    """A request whose only match has a backlog that stays full is answered UNAVAILABLE."""
    name = agent.name("full")
    full = agent.listener("full", accept=False, backlog=0)
    full.fill_backlog()
    agent.management.register(full, name)
    agent.infer(name).expect(StatusCode.UNAVAILABLE)


@requirement("frame.connections.timeout", needs={"connect-timeout": 30})
def test_waits_for_room_in_a_backlog(agent: Agent) -> None:
    """A worker whose backlog has room again before `--connect-timeout` gets the request."""
    name = agent.name("full")
    worker = agent.listener("full", accept=False, backlog=0)
    worker.fill_backlog()
    agent.management.register(worker, name)
    call = let_wait(agent, name)
    worker.start_accepting()  # the connections that fill the backlog stay silent
    worker.exchange().answer()
    call.answer().expect_ok()
