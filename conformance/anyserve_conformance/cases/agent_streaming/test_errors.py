"""Failures within a stream."""

from __future__ import annotations

import pytest

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_streaming.steps import error_code, streaming, under_way
from anyserve_conformance.requirement import requirement

LOOK_AT = "the response by which the failure of one request is told"


@requirement("stream.error.in-band", "stream.error.id", "stream.error.code")
def test_told_in_the_stream(agent: Agent) -> None:
    """A request that fails is told as a response with message, id and code, and the call goes on."""
    name = agent.name()
    agent.worker(name, answer=lambda _: b"")
    stream = agent.stream().send(wire.request(agent.name("unknown"), request_id="7"))
    reply = stream.receive()
    assert reply.error, "error_message is empty"
    assert (error_code(reply), reply.response.id) == (5, "7")
    stream.send(wire.request(name, request_id="8"))
    assert stream.receive().response.id == "8"
    stream.end().answer().expect_ok()


@requirement("stream.error.id")
def test_an_id_that_could_not_be_read(agent: Agent) -> None:
    """Bytes that are no request are told without an id, and the call goes on."""
    name = agent.name()
    agent.worker(name, answer=lambda _: b"")
    stream = agent.stream().send(b"\xff\xff")
    reply = stream.receive()
    assert (error_code(reply), reply.response.id) == (3, "")
    stream.send(wire.request(name))
    assert not stream.receive().error
    stream.end().answer().expect_ok()


@requirement("stream.error.code")
@pytest.mark.parametrize("code", [1, 2, 8, 16])
def test_codes_of_handlers(agent: Agent, code: int) -> None:
    """The code that a handler chose is told as `int64_param`."""
    name = agent.name()
    agent.worker(name, answer=lambda _: wire.reply(anyserve_error_code=code, anyserve_error_message="no"))
    stream = agent.stream().send(wire.request(name)).end()
    reply = stream.receive()
    parameter = reply.response.parameters["anyserve_error_code"]
    assert parameter.WhichOneof("parameter_choice") == "int64_param"
    assert parameter.int64_param == code
    stream.answer().expect_ok()


@requirement("stream.error.text")
def test_never_an_empty_message(agent: Agent) -> None:
    """A failure without a message is told with the name of its code."""
    name = agent.name()
    agent.worker(name, answer=lambda _: wire.reply(anyserve_error_code=9))
    stream = agent.stream().send(wire.request(name)).end()
    reply = stream.receive()
    assert "FAILED_PRECONDITION" in reply.error, f"error_message is {reply.error!r}"
    stream.answer().expect_ok()


@requirement("stream.error.worker", "stream.error.not-the-end")
def test_a_workers_own_error(agent: Agent) -> None:
    """A reply with `error_message` is passed on like any other, without a code, and more replies may follow."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name, request_id="7")
    exchange.send(wire.stream_reply(error="the third word was odd"))
    reply = stream.receive()
    assert (reply.error, error_code(reply)) == ("the third word was odd", None)
    exchange.send(wire.stream_reply(i=4))
    assert wire.parameters_of(stream.receive().response)["i"] == 4
    exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.error.worker")
def test_a_workers_own_code(agent: Agent) -> None:
    """The code that a worker gave in its reply is passed on."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    exchange.send(wire.stream_reply(error="no", anyserve_error_code=11))
    reply = stream.receive()
    assert (reply.error, error_code(reply)) == ("no", 11)
    exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.error.partial")
def test_not_again_after_a_response(agent: Agent) -> None:
    """A request of which a response was sent is not repeated elsewhere: its failure is told behind them."""
    name = agent.name()
    worker = streaming(agent, name, worker_id="dies", priority=1)
    other = streaming(agent, name, worker_id="other")
    stream, exchange = under_way(agent, worker, name)
    exchange.send(wire.stream_reply(i=0))
    stream.receive()
    exchange.close()
    assert error_code(stream.receive()) == 14
    stream.end().answer().expect_ok()
    assert not other.requests, "the request was sent again"
