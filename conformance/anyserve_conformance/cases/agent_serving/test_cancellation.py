"""Exchanges that are given up: the worker learns of it by the end of its connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import hold, in_flight, is_listed, large_request, serve_once
from anyserve_conformance.raw_grpc import INFER
from anyserve_conformance.raw_http2 import Http2Connection
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import Exchange

LOOK_AT = "what becomes of an exchange when its call ends before the worker's reply"

RawHttp2 = Callable[..., Http2Connection]


def nothing_yet(_: Exchange) -> None:
    """The worker has sent nothing."""


def half_a_reply(exchange: Exchange) -> None:
    """The worker has sent half a reply, and the agent has read it."""
    exchange.connection.send(wire.frame(wire.reply(raw=bytes(100)))[:50])
    exchange.connection.taken()


@requirement("frame.cancel.client")
@pytest.mark.parametrize("so_far", [nothing_yet, half_a_reply])
def test_client_cancels(agent: Agent, so_far: Callable[[Exchange], None]) -> None:
    """When the client cancels, the connection of the exchange is closed, also in the middle of a reply."""
    name = agent.name("cancel")
    worker = agent.worker(name)
    call, exchange = hold(agent, worker, name)
    so_far(exchange)
    call.cancel()
    exchange.cancelled()


@requirement("frame.cancel.client", "frame.cancel.deadline")
@pytest.mark.parametrize("how", ["cancelled", "deadline"])
def test_between_the_replies_of_a_stream(agent: Agent, how: str) -> None:
    """The connection of a streaming exchange is closed when its call ends between two replies."""
    name = agent.name("stream")
    worker = agent.worker(name, stream=True)
    timeout = agent.patience(0.6) if how == "deadline" else None
    stream = agent.stream(timeout=timeout).send(wire.request(name))
    exchange = worker.exchange()
    exchange.send(wire.stream_reply(request_id="first"))
    assert stream.receive().response.id == "first", "another response came"
    if how == "cancelled":
        stream.cancel()
    exchange.cancelled()


@requirement("frame.cancel.client")
def test_client_closes_its_connection(agent: Agent) -> None:
    """When the client closes its channel, the connection of the exchange is closed."""
    name = agent.name("gone")
    worker = agent.worker(name)
    client = agent.new_client()
    call = client.start_infer(wire.request(name))
    exchange = worker.exchange()
    assert not call.done, "the call ended before its reply"
    client.close()
    exchange.cancelled()


@requirement("frame.cancel.client")
def test_client_vanishes(agent: Agent, raw_http2: RawHttp2) -> None:
    """When the client's connection ends without a word, the connections of all its exchanges are closed."""
    name = agent.name("gone")
    worker = agent.worker(name)
    connection = raw_http2()
    for _ in range(3):
        connection.start(INFER, wire.request(name).SerializeToString())
    exchanges = [worker.exchange() for _ in range(3)]
    connection.close()
    for exchange in exchanges:
        exchange.cancelled()


@requirement("frame.cancel.client")
def test_worker_that_reads_nothing(agent: Agent) -> None:
    """A request that the worker has not read yet is cancelled as well, and goes nowhere else."""
    name = agent.name("unread")
    worker = agent.worker(name, priority=1, raw=True)
    spare = agent.worker(name, answer=lambda _: b"")
    call = agent.start_infer(large_request(agent, name))
    connection = worker.connection()
    connection.read_exactly(4)
    call.cancel()
    while connection.read():
        pass  # what was on its way
    assert connection.hung_up, "the connection was not closed"
    agent.client.live()
    assert not spare.connections, "the cancelled request was sent to another worker"


@requirement("frame.cancel.client")
def test_place_is_free_again(agent: Agent) -> None:
    """A cancelled exchange gives its place back, and is no violation however often it happens."""
    name = agent.name("cancel")
    worker = agent.worker(name, max_concurrency=1)
    for _ in range(4):
        call, exchange = hold(agent, worker, name)
        call.cancel()
        exchange.cancelled()
    serve_once(agent, worker, name)
    assert is_listed(agent, worker), "the worker was dropped"
    agent.patience.until(lambda: not in_flight(agent, worker), "in_flight = 0 in ListWorkers")


@requirement("frame.cancel.client", look_at="which connections a cancelled call closes: its own and no other")
def test_others_go_on(agent: Agent) -> None:
    """Other exchanges of the same client on the same worker are not disturbed."""
    name = agent.name("cancel")
    worker = agent.worker(name)
    before, kept_before = hold(agent, worker, name)
    call, exchange = hold(agent, worker, name)
    after, kept_after = hold(agent, worker, name)
    call.cancel()
    exchange.cancelled()
    kept_before.answer()
    kept_after.answer()
    before.answer().expect_ok()
    after.answer().expect_ok()


@requirement("frame.cancel.deadline")
@pytest.mark.parametrize("so_far", [nothing_yet, half_a_reply])
def test_deadline_passes(agent: Agent, raw_http2: RawHttp2, so_far: Callable[[Exchange], None]) -> None:
    """When the deadline passes the agent closes the connection by itself, without being told by the client."""
    name = agent.name("late")
    worker = agent.worker(name)
    connection = raw_http2()
    stream = connection.start(INFER, wire.request(name).SerializeToString(), timeout=f"{agent.patience(500):.0f}m")
    exchange = worker.exchange()
    so_far(exchange)
    exchange.cancelled()
    answer = connection.answer(stream)
    wanted = StatusCode.DEADLINE_EXCEEDED.value[0]
    assert answer.status == wanted, f"the call went so: {answer!r}"


@requirement("frame.cancel.deadline")
def test_deadline_passes_before_the_request_is_read(agent: Agent) -> None:
    """A deadline that passes while the request is being written closes the connection; it goes nowhere else."""
    name = agent.name("late")
    worker = agent.worker(name, priority=1, raw=True)
    spare = agent.worker(name, answer=lambda _: b"")
    call = agent.start_infer(large_request(agent, name), timeout=agent.patience(0.5))
    connection = worker.connection()
    connection.read_exactly(4)
    call.answer().expect(StatusCode.DEADLINE_EXCEEDED)
    while connection.read():
        pass  # what was on its way
    assert connection.hung_up, "the connection was not closed"
    agent.client.live()
    assert not spare.connections, "the request was sent to another worker after its deadline"


@requirement("frame.cancel.deadline")
def test_place_is_free_after_a_deadline(agent: Agent) -> None:
    """An exchange whose deadline passed gives its place back, and is no violation."""
    name = agent.name("late")
    worker = agent.worker(name, max_concurrency=1)
    for _ in range(2):
        call = agent.start_infer(name, timeout=agent.patience(0.3))
        exchange = worker.exchange()
        call.answer().expect(StatusCode.DEADLINE_EXCEEDED)
        exchange.cancelled()
    serve_once(agent, worker, name)
    assert is_listed(agent, worker), "the worker was dropped"
