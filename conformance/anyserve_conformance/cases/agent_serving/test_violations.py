"""Workers that break the framing: the exchange fails, the connection ends, and the third time in a row the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import (
    TOO_LONG,
    hold,
    is_listed,
    large_request,
    let_wait,
    serve_once,
    violate,
)
from anyserve_conformance.client import Call
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import Exchange, ScriptedWorker

LOOK_AT = "what counts as a violation of the framing, and what is done about it"

SMALL = {"max-message-bytes": 65_536}
REPLY = wire.field(3, "fine") + wire.field(6, bytes(20))
FRAME = wire.frame(REPLY)


def broken_by(agent: Agent, worker: ScriptedWorker, name: str, data: bytes, *, close: bool) -> None:
    """A request that a worker answers with these bytes: it has to be INTERNAL, and the connection to end."""
    call, exchange = hold(agent, worker, name)
    exchange.connection.send(data)
    if close:
        exchange.close()
    else:
        exchange.cancelled()
        exchange.over.set()
    call.answer().expect(StatusCode.INTERNAL)


@requirement("frame.violation.length", "frame.violation.status", "frame.violation.close", needs=SMALL)
@pytest.mark.parametrize("length", [65_537, 0xFFFF_FFFF])
def test_length_counts(agent: Agent, length: int) -> None:
    """A length above the limit is a violation: INTERNAL, the end of the connection, and counted."""
    name = agent.name("long")
    worker = agent.worker(name)
    for _ in range(3):
        assert is_listed(agent, worker), "the worker was dropped before its third violation"
        broken_by(agent, worker, name, length.to_bytes(4, "big"), close=False)
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")


@requirement("frame.violation.truncated", "frame.violation.status")
@pytest.mark.parametrize("size", [1, 3, 4, 5, len(FRAME) - 1])
def test_truncated_counts(agent: Agent, size: int) -> None:
    """An end of the connection within a length or a payload is a violation: INTERNAL, and counted."""
    name = agent.name("cut")
    worker = agent.worker(name)
    for _ in range(3):
        assert is_listed(agent, worker), "the worker was dropped before its third violation"
        broken_by(agent, worker, name, FRAME[:size], close=True)
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")


@requirement("frame.violation.truncated")
def test_half_close_within_a_frame(agent: Agent) -> None:
    """A half-closed connection within a frame is an end of it as well."""
    name = agent.name("cut")
    worker = agent.worker(name)
    call, exchange = hold(agent, worker, name)
    exchange.connection.send(FRAME[:-1])
    exchange.connection.half_close()
    call.answer().expect(StatusCode.INTERNAL)
    exchange.cancelled()


@requirement("frame.violation.truncated")
def test_truncated_stream(agent: Agent) -> None:
    """An end within a reply frame of a streaming worker is a violation: the request fails with INTERNAL."""
    name = agent.name("cut")
    worker = agent.worker(name, stream=True)
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    exchange.send(wire.stream_reply(request_id="whole"))
    assert stream.receive().response.id == "whole", "another response came than the worker's first reply"
    exchange.connection.send(wire.frame(wire.stream_reply(raw=bytes(100)))[:-1])
    exchange.close()
    code = wire.parameters_of(stream.receive().response).get("anyserve_error_code")
    assert code == StatusCode.INTERNAL.value[0], f"the request failed with the code {code}"


@requirement("frame.violation.early", "frame.violation.status", "frame.violation.close")
@pytest.mark.parametrize("early", [FRAME, b"\x00"], ids=["reply", "byte"])
def test_early_bytes_count(agent: Agent, early: bytes) -> None:
    """Bytes that come before the whole request is written are a violation: INTERNAL, the end, and counted."""
    name = agent.name("early")
    worker = agent.worker(name, raw=True)
    message = large_request(agent, name)
    for _ in range(3):
        assert is_listed(agent, worker), "the worker was dropped before its third violation"
        call = agent.start_infer(message)
        connection = worker.connection()
        connection.read_exactly(10)
        connection.send(early, "bytes before the request was read")
        call.answer().expect(StatusCode.INTERNAL)
        while connection.read():
            pass  # what was on its way
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")


@requirement("frame.violation.trailing", "frame.violation.status", "frame.violation.close")
@pytest.mark.parametrize(
    ("data", "close"),
    [
        pytest.param(FRAME + FRAME, False, id="two-replies"),
        pytest.param(FRAME + FRAME, True, id="two-replies-and-the-end"),
        pytest.param(FRAME + wire.frame(), False, id="an-empty-frame-behind"),
        pytest.param(wire.frame() + wire.frame(), False, id="two-empty-frames"),
        pytest.param(FRAME + b"\x00\x00", False, id="half-a-length-behind"),
        pytest.param(FRAME + FRAME[:-1], True, id="half-a-frame-behind-and-the-end"),
        pytest.param(FRAME + b"\xff\xff\xff\xff", False, id="a-length-above-the-limit-behind"),
    ],
)
def test_trailing_bytes_count(agent: Agent, data: bytes, close: bool) -> None:
    """Bytes behind the one reply of a unary worker are a violation: INTERNAL, the end, and counted."""
    name = agent.name("trailing")
    worker = agent.worker(name)
    for _ in range(3):
        assert is_listed(agent, worker), "the worker was dropped before its third violation"
        broken_by(agent, worker, name, data, close=close)
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")


@requirement("frame.violation.trailing")
def test_trailing_bytes_of_a_stream(agent: Agent) -> None:
    """Bytes behind the empty frame of a stream are a violation: the connection ends, and the third one is the last."""
    name = agent.name("trailing")
    worker = agent.worker(name, stream=True)
    for _ in range(3):
        assert is_listed(agent, worker), "the worker was dropped before its third violation"
        stream = agent.stream().send(wire.request(name)).end()
        exchange = worker.exchange()
        exchange.connection.send(wire.frame(wire.stream_reply()) + wire.frame() + wire.frame(), "a frame too many")
        exchange.cancelled()
        exchange.over.set()
        codes = [wire.parameters_of(reply.response).get("anyserve_error_code") for reply in stream.replies()]
        assert codes[-1:] == [StatusCode.INTERNAL.value[0]], f"the replies had the codes {codes}"
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")


@requirement("frame.violation.trailing", "frame.violation.close")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(FRAME, id="reply"),
        pytest.param(wire.frame(), id="empty-frame"),
        pytest.param(b"\x00", id="byte"),
        pytest.param(TOO_LONG, id="length-above-the-limit"),
    ],
)
def test_bytes_on_an_idle_connection(agent: Agent, sent: bytes) -> None:
    """Bytes on an idle connection end it, and none of them is taken for the next reply."""
    name = agent.name("idle")
    worker = agent.worker(name, raw=True)
    connection = idle_connection(agent, worker, name)
    connection.send(sent, "bytes without a request")
    connection.expect_end()
    following = agent.start_infer(name)
    second = worker.connection()
    second.read_frame()
    second.send_frame(wire.field(3, "right"))
    assert following.answer().message.id == "right", "another reply came than the one to this request"
    assert is_listed(agent, worker), "the worker was dropped at its first violation"


def idle_connection(agent: Agent, worker: ScriptedWorker, name: str) -> Any:
    """The connection of a raw worker's exchange that has ended well."""
    call = agent.start_infer(name)
    connection = worker.connection()
    connection.read_frame()
    connection.send_frame(b"")
    call.answer().expect_ok()
    return connection


@requirement("frame.violation.trailing", "frame.violation.limit")
def test_violations_without_an_exchange_count(agent: Agent) -> None:
    """Bytes on three idle connections, one after the other, drop the worker."""
    name = agent.name("idle")
    worker = agent.worker(name, raw=True)
    calls = [agent.start_infer(name) for _ in range(3)]
    connections = [worker.connection() for _ in calls]
    for connection in connections:
        connection.read_frame()
    for connection in connections:
        connection.send_frame(b"")
    for call in calls:
        call.answer().expect_ok()
    for connection in connections:
        assert is_listed(agent, worker), "the worker was dropped before its third violation"
        connection.send(b"\x00", "a byte without a request")
        connection.expect_end()
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")


@requirement("frame.violation.status")
def test_only_the_exchange_under_way_fails(agent: Agent) -> None:
    """The exchange on the connection is INTERNAL, and nothing else: a request that waits is served on another one."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    call, exchange = hold(agent, worker, name)
    waiting = let_wait(agent, name)
    exchange.connection.send(TOO_LONG, "a length above any limit")
    exchange.over.set()
    worker.exchange().answer(wire.field(3, "served"))
    call.answer().expect(StatusCode.INTERNAL)
    assert waiting.answer().message.id == "served", "another reply came"


@requirement("frame.violation.status", "frame.retry.never-twice")
def test_failed_and_not_sent_elsewhere(agent: Agent) -> None:
    """A request that a worker answered with a violation is INTERNAL also when another match is there."""
    name = agent.name("m")
    worker = agent.worker(name, priority=1)
    spare = agent.worker(name, answer=lambda _: b"")
    violate(agent, worker, name).expect(StatusCode.INTERNAL)
    assert not spare.connections, "the request was sent to another worker"


@requirement("frame.violation.close")
def test_nothing_more_is_sent(agent: Agent) -> None:
    """After a violation nothing more comes on the connection but its end, and the next exchange has another."""
    name = agent.name("m")
    worker = agent.worker(name, raw=True)
    call = agent.start_infer(name)
    connection = worker.connection()
    connection.read_frame()
    connection.send(FRAME + FRAME, "two replies")
    call.answer().expect(StatusCode.INTERNAL)
    following = agent.start_infer(name)
    second = worker.connection()
    second.read_frame()
    connection.expect_end()
    second.send_frame(b"")
    following.answer().expect_ok()


@requirement("frame.violation.others")
def test_other_connections_go_on(agent: Agent) -> None:
    """At the first and second violation other exchanges of the worker go on, and idle connections stay."""
    name, other = agent.name("m"), agent.name("other")
    worker = agent.worker(name)
    neighbour = agent.worker(other)
    kept, kept_exchange = hold(agent, worker, name)
    elsewhere, other_exchange = hold(agent, neighbour, other)
    spare, spare_exchange = hold(agent, worker, name)
    for _ in range(2):
        violate(agent, worker, name).expect(StatusCode.INTERNAL)
    spare_exchange.answer()
    spare.answer().expect_ok()
    count = len(worker.connections)
    serve_once(agent, worker, name)
    assert len(worker.connections) == count, "an idle connection was not used any more"
    kept_exchange.answer(wire.field(3, "kept"))
    assert kept.answer().message.id == "kept", "another reply came"
    other_exchange.answer()
    elsewhere.answer().expect_ok()


@requirement("frame.violation.others")
def test_registrations_stay(agent: Agent) -> None:
    """At the first and second violation all registrations of the worker stay."""
    one, two = agent.name("one"), agent.name("two")
    worker = agent.worker(one)
    agent.management.register(worker, two)
    for _ in range(2):
        violate(agent, worker, one)
        listed = agent.management.listed(worker.worker_id)
        assert listed is not None, "the worker was dropped"
        names = {registration.model_name for registration in listed.registrations}
        assert names == {one, two}, f"its registrations are {names}"
    serve_once(agent, worker, two)


@requirement("frame.violation.limit")
def test_third_in_a_row(agent: Agent) -> None:
    """At its third violation in a row a worker is dropped with all that it has registered."""
    one, two = agent.name("one"), agent.name("two")
    worker = agent.worker(one)
    agent.management.register(worker, two)
    for name in (one, two, one):
        assert is_listed(agent, worker), "the worker was dropped before its third violation"
        violate(agent, worker, name).expect(StatusCode.INTERNAL)
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")
    for name in (one, two):
        agent.infer(name).expect(StatusCode.NOT_FOUND)
    assert not agent.management.heartbeat(worker.worker_id), "its heartbeat was answered with healthy = true"


@requirement("frame.violation.limit")
def test_of_different_kinds(agent: Agent) -> None:
    """Three violations of different kinds make a row."""
    name = agent.name("m")
    worker = agent.worker(name)
    for data, close in ((TOO_LONG, False), (FRAME[:-1], True), (FRAME + b"\x00", False)):
        assert is_listed(agent, worker), "the worker was dropped before its third violation"
        broken_by(agent, worker, name, data, close=close)
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")


@requirement("frame.violation.limit")
def test_each_worker_by_itself(agent: Agent) -> None:
    """Violations of one worker do not count for another, not even for one of the same model."""
    name = agent.name("m")
    first, second = agent.worker(name, priority=1), agent.worker(name)
    for _ in range(2):
        violate(agent, first, name)
    blocker, exchange = hold(agent, first, name)
    agent.management.register(first, name, priority=-1)
    violate(agent, second, name)
    assert is_listed(agent, second), "a worker was dropped at its first violation"
    assert is_listed(agent, first), "a worker was dropped for a violation of another"
    exchange.answer()
    blocker.answer().expect_ok()


@requirement("frame.violation.limit", "frame.violation.row")
def test_after_it_has_registered_again(agent: Agent) -> None:
    """A worker that was dropped and registers again begins anew."""
    name = agent.name("m")
    worker = agent.worker(name)
    for _ in range(3):
        violate(agent, worker, name)
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations")
    agent.management.register(worker, name)
    for _ in range(2):
        violate(agent, worker, name)
    assert is_listed(agent, worker), "the worker was dropped at its second violation after it had come back"
    serve_once(agent, worker, name)


# What begins a new row, and what does not


def good(call: Call, exchange: Exchange) -> None:
    """A reply."""
    exchange.answer()
    call.answer().expect_ok()


def failure(call: Call, exchange: Exchange) -> None:
    """A failure reply."""
    exchange.answer(wire.reply(anyserve_error_code=5))
    call.answer().expect(StatusCode.NOT_FOUND)


def malformed(call: Call, exchange: Exchange) -> None:
    """A reply that is no message: its frame is in order."""
    exchange.answer(b"\xff")
    call.answer().expect(StatusCode.INTERNAL)


def gone(call: Call, exchange: Exchange) -> None:
    """The connection ends without a reply."""
    exchange.close()
    call.answer().expect(StatusCode.UNAVAILABLE)


def cancelled(call: Call, exchange: Exchange) -> None:
    """The client gives up."""
    call.cancel()
    exchange.cancelled()
    exchange.over.set()


Ending = Callable[[Call, Exchange], None]


@requirement("frame.violation.row")
@pytest.mark.parametrize("ending", [good, failure, malformed])
def test_new_row(agent: Agent, ending: Ending) -> None:
    """An exchange that ends with its last reply frame begins a new row, whatever the reply says."""
    name = agent.name("m")
    worker = agent.worker(name)
    for _ in range(3):
        for _ in range(2):
            violate(agent, worker, name).expect(StatusCode.INTERNAL)
        ending(*hold(agent, worker, name))
    assert is_listed(agent, worker), "the worker was dropped for two violations in a row"


@requirement("frame.violation.row")
@pytest.mark.parametrize("ending", [gone, cancelled])
def test_same_row(agent: Agent, ending: Ending) -> None:
    """An exchange that ends without its last reply frame does not begin a new row."""
    name = agent.name("m")
    worker = agent.worker(name)
    for _ in range(2):
        violate(agent, worker, name).expect(StatusCode.INTERNAL)
    ending(*hold(agent, worker, name))
    assert is_listed(agent, worker), "the worker was dropped before its third violation"
    violate(agent, worker, name).expect(StatusCode.INTERNAL)
    agent.patience.until(lambda: not is_listed(agent, worker), "the worker to be dropped for three violations in a row")


@requirement("frame.violation.row")
def test_end_without_a_reply_is_no_violation(agent: Agent) -> None:
    """A worker that closes again and again before it replies is not dropped for it."""
    name = agent.name("m")
    worker = agent.worker(name)
    for _ in range(4):
        gone(*hold(agent, worker, name))
    assert is_listed(agent, worker), "the worker was dropped"
    serve_once(agent, worker, name)
