"""Failure replies: the status that a worker chooses by two parameters of its reply."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import entry, hold, serve_once
from anyserve_conformance.client import Answer
from anyserve_conformance.requirement import requirement

LOOK_AT = "the parameters anyserve_error_code and anyserve_error_message of a reply"

CODE = "anyserve_error_code"
MESSAGE = "anyserve_error_message"
STATUSES = {code.value[0]: code for code in StatusCode if code is not StatusCode.OK}


def int64(value: int) -> bytes:
    """An InferParameter with an int64."""
    return wire.key(2, 0) + wire.varint(value % (1 << 64))


def string(value: str) -> bytes:
    """An InferParameter with a text."""
    return wire.field(3, value)


def answered(agent: Agent, reply: bytes) -> Answer:
    """What a client gets of this reply."""
    name = agent.name("fail")
    worker = agent.worker(name)
    call, exchange = hold(agent, worker, name)
    exchange.answer(reply)
    return call.answer()


@requirement("frame.error.code")
@pytest.mark.parametrize("code", STATUSES, ids=lambda code: STATUSES[code].name.lower().replace("_", "-"))
def test_each_status(agent: Agent, code: int) -> None:
    """Each code from 1 to 16 reaches the client as the status of its call, with the worker's message."""
    message = "tensor 'a': größe ≠ 3\n100% of it"
    answer = answered(agent, entry(CODE, int64(code)) + entry(MESSAGE, string(message)))
    answer.expect(STATUSES[code])
    assert answer.details == message, f"the message came as {answer.details!r}"


@requirement("frame.error.code")
def test_message_before_the_code(agent: Agent) -> None:
    """The two parameters may stand in any order, among others."""
    message = entry(MESSAGE, string("no such thing"))
    reply = entry("a", int64(1)) + message + entry("b", string("x")) + entry(CODE, int64(5)) + entry("c", int64(2))
    answer = answered(agent, reply).expect(StatusCode.NOT_FOUND)
    assert answer.details == "no such thing", f"the message came as {answer.details!r}"


@requirement("frame.error.code")
def test_code_without_a_message(agent: Agent) -> None:
    """A failure without a message keeps its status."""
    answered(agent, entry(CODE, int64(9))).expect(StatusCode.FAILED_PRECONDITION)


@requirement("frame.error.code")
def test_rest_of_the_reply_is_ignored(agent: Agent) -> None:
    """Name, tensors and raw contents beside the code change nothing."""
    reply = wire.reply("other", "9", request_id="other", raw=bytes(100), **{CODE: 3, MESSAGE: "bad"})
    answer = answered(agent, reply.SerializeToString()).expect(StatusCode.INVALID_ARGUMENT)
    assert answer.details == "bad", f"the message came as {answer.details!r}"


@requirement("frame.error.code", "frame.connections.reuse")
def test_connection_is_kept(agent: Agent) -> None:
    """A failure reply ends its exchange well: the connection carries the next."""
    name = agent.name("fail")
    worker = agent.worker(name)
    call, exchange = hold(agent, worker, name)
    exchange.answer(entry(CODE, int64(14)))
    call.answer().expect(StatusCode.UNAVAILABLE)
    serve_once(agent, worker, name)
    assert len(worker.connections) == 1, "the connection was not kept"


@requirement("frame.error.code", "frame.retry.never-twice")
def test_a_failure_is_not_tried_elsewhere(agent: Agent) -> None:
    """A request that failed with UNAVAILABLE by the worker's own choice goes to no other match."""
    name = agent.name("fail")
    worker = agent.worker(name, priority=1, answer=lambda _: entry(CODE, int64(14)))
    spare = agent.worker(name, answer=lambda _: b"")
    agent.infer(name).expect(StatusCode.UNAVAILABLE)
    assert len(worker.requests) == 1, f"the worker got the request {len(worker.requests)} times"
    assert not spare.connections, "the request was tried elsewhere"


@requirement("frame.error.bad-code")
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(int64(0), id="zero"),
        pytest.param(int64(17), id="seventeen"),
        pytest.param(int64(-1), id="minus-one"),
        pytest.param(int64((1 << 32) + 5), id="five-in-the-low-32-bits"),
        pytest.param(int64((1 << 8) + 5), id="five-in-the-low-8-bits"),
        pytest.param(wire.key(1, 0) + b"\x01", id="bool"),
        pytest.param(string("5"), id="text-of-a-number"),
        pytest.param(string("NOT_FOUND"), id="text"),
        pytest.param(string(""), id="empty-text"),
        pytest.param(wire.key(4, 1) + b"\x00\x00\x00\x00\x00\x00\x14\x40", id="double"),
        pytest.param(b"", id="no-choice"),
    ],
)
def test_bad_code(agent: Agent, value: bytes) -> None:
    """A code that is no integer from 1 to 16 makes the failure INTERNAL."""
    answered(agent, entry(CODE, value) + entry(MESSAGE, string("boom"))).expect(StatusCode.INTERNAL)


@requirement("frame.error.bad-code")
def test_code_without_a_value(agent: Agent) -> None:
    """A code whose entry has no value makes the failure INTERNAL."""
    answered(agent, entry(CODE)).expect(StatusCode.INTERNAL)


@requirement("frame.error.message-alone")
def test_message_alone_is_no_failure(agent: Agent) -> None:
    """A reply with `anyserve_error_message` and without a code is passed on like any other."""
    name = agent.name("fail")
    worker = agent.worker(name)
    reply = wire.field(1, name) + entry(MESSAGE, string("all is well"))
    assert serve_once(agent, worker, name, reply).payload == reply, "the client got other bytes than the worker sent"


@requirement("frame.error.message-alone")
@pytest.mark.parametrize("key", ["Anyserve_error_code", "anyserve_error_codes", "error_code", "anyserve_error"])
def test_other_parameters_are_no_failure(agent: Agent, key: str) -> None:
    """Parameters of a similar name make no failure."""
    answered(agent, entry(key, int64(5)) + entry(MESSAGE, string("x"))).expect_ok()


# How the parameters of a reply are read


@requirement("frame.scan.map")
@pytest.mark.parametrize(
    ("reply", "code"),
    [
        pytest.param(entry(CODE, int64(5)) + entry(CODE, int64(9)), 9, id="last-entry-of-a-key"),
        pytest.param(
            entry(CODE, int64(5)) + entry("k", int64(1)) + wire.field(1, "m") + entry(CODE, int64(9)),
            9,
            id="last-entry-with-others-between",
        ),
        pytest.param(entry(CODE, int64(5)) + entry(CODE), 13, id="last-entry-without-a-value"),
        pytest.param(entry(CODE, string("x")) + entry(CODE, int64(9)), 9, id="last-entry-of-another-kind"),
        pytest.param(entry(CODE, int64(5), b""), 5, id="value-and-an-empty-one-are-merged"),
        pytest.param(entry(CODE, b"", int64(5)), 5, id="empty-value-and-another-are-merged"),
        pytest.param(entry(CODE, int64(5), int64(9)), 9, id="of-two-values-the-last-number"),
        pytest.param(entry(CODE, string("x"), int64(9)), 9, id="of-two-values-the-last-choice"),
        pytest.param(wire.field(4, wire.field(2, int64(5)) + wire.field(1, CODE)), 5, id="value-before-key"),
        pytest.param(
            wire.field(4, wire.field(1, "k") + wire.field(2, int64(5)) + wire.field(1, CODE)), 5, id="last-key"
        ),
        pytest.param(
            wire.field(4, wire.field(9, b"\xff") + wire.field(1, CODE) + wire.key(3, 0) + b"\x09")
            + entry(CODE, int64(5)),
            5,
            id="unknown-fields-in-an-entry",
        ),
    ],
)
def test_entries_of_a_map(agent: Agent, reply: bytes, code: int) -> None:
    """Of the entries of a key the last counts, and a value in several parts is merged, as protobuf has it."""
    answered(agent, reply).expect(STATUSES[code])


@requirement("frame.scan.map")
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(wire.field(4, wire.field(2, int64(5))), id="missing-key"),
        pytest.param(wire.field(4, wire.field(1, CODE) + wire.field(2, int64(5)) + wire.field(1, "k")), id="last-key"),
        pytest.param(wire.field(4, b""), id="empty-entry"),
    ],
)
def test_entries_of_other_keys(agent: Agent, reply: bytes) -> None:
    """An entry without a key has the empty text as its key, and of several keys the last counts: no failure here."""
    answered(agent, reply).expect_ok()


@requirement("frame.scan.choice")
@pytest.mark.parametrize(
    ("value", "code"),
    [
        pytest.param(int64(5) + int64(9), 9, id="same-choice-twice"),
        pytest.param(string("x") + int64(5), 5, id="number-behind-a-text"),
        pytest.param(int64(5) + string("x"), 13, id="text-behind-a-number"),
        pytest.param(int64(5) + wire.key(1, 0) + b"\x00", 13, id="false-behind-a-number"),
        pytest.param(int64(5) + wire.key(6, 0) + b"\x09" + wire.field(15, b"\xff"), 5, id="unknown-fields-behind"),
        pytest.param(wire.key(6, 0) + b"\x09" + wire.field(15, b"\xff") + int64(5), 5, id="unknown-fields-before"),
        pytest.param(wire.key(6, 0) + b"\x05", 13, id="unknown-fields-alone"),
    ],
)
def test_choices_of_a_parameter(agent: Agent, value: bytes, code: int) -> None:
    """Of several choices in an InferParameter the last counts, and its unknown fields are skipped."""
    answered(agent, entry(CODE, value)).expect(STATUSES[code])


@requirement("frame.scan.varint")
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"\x10\x85\x00", id="two-bytes"),
        pytest.param(b"\x10\x85\x80\x80\x80\x80\x80\x80\x80\x80\x00", id="ten-bytes"),
        pytest.param(b"\x90\x00\x05", id="tag-of-two-bytes"),
    ],
)
def test_numbers_longer_than_needed(agent: Agent, value: bytes) -> None:
    """A code that is written in more bytes than it needs is that code."""
    answered(agent, entry(CODE, value)).expect(StatusCode.NOT_FOUND)
