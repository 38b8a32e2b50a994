"""The mark of the last response, for clients that ask for it."""

from __future__ import annotations

import pytest

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_streaming.steps import (
    ASK_FINAL,
    ask_final,
    error_code,
    final,
    streaming,
)
from anyserve_conformance.requirement import requirement

LOOK_AT = "triton_final_response: who gets it, and when it is known which response is the last"


@requirement("stream.final.last", "stream.final.extra", "stream.final.others")
def test_one_more_response(agent: Agent) -> None:
    """Replies are marked `false`, and behind them comes one more with `true`, name, version and id, and no outputs."""
    name = agent.name()
    worker = streaming(agent, name, version="2")
    stream = agent.stream().send(ask_final(name, request_id="7"))
    exchange = worker.exchange()
    for i in range(2):
        exchange.send(wire.stream_reply(raw=b"x", i=i))
        assert final(stream.receive()) is False, "an earlier response is not marked false"
    exchange.end()
    last = stream.receive()
    assert final(last) is True
    response = last.response
    assert (response.model_name, response.model_version, response.id) == (name, "2", "7")
    assert not last.error
    assert not response.outputs
    assert not response.raw_output_contents
    stream.end().answer().expect_ok()


@requirement("stream.final.extra")
def test_no_replies(agent: Agent) -> None:
    """A request that asks and has no replies gets the one marked response."""
    name = agent.name()
    worker = streaming(agent, name)
    stream = agent.stream().send(ask_final(name, request_id="7"))
    worker.exchange().end()
    last = stream.receive()
    assert (final(last), last.response.id) == (True, "7")
    stream.end().answer().expect_ok()


@requirement("stream.final.extra")
def test_the_workers_own_mark(agent: Agent) -> None:
    """Where the worker's last reply has the mark, no further response comes."""
    name = agent.name()
    worker = streaming(agent, name)
    stream = agent.stream().send(ask_final(name)).end()
    exchange = worker.exchange()
    exchange.send(wire.stream_reply(i=0))
    exchange.send(wire.stream_reply(i=1, triton_final_response=True))
    exchange.end()
    assert [final(reply) for reply in stream.replies()] == [False, True]
    stream.answer().expect_ok()


@requirement("stream.final.others")
def test_what_the_worker_has_set_stays(agent: Agent) -> None:
    """A mark that the worker has set in an earlier reply is left as it is."""
    name = agent.name()
    worker = streaming(agent, name)
    stream = agent.stream().send(ask_final(name)).end()
    exchange = worker.exchange()
    exchange.send(wire.stream_reply(triton_final_response=True))
    exchange.send(wire.stream_reply(triton_final_response="odd"))
    exchange.end()
    assert [final(reply) for reply in stream.replies()] == [True, "odd", True]
    stream.answer().expect_ok()


@requirement("stream.final.unary")
def test_unary(agent: Agent) -> None:
    """The only response of a unary registration is marked, without a further one."""
    name = agent.name()
    agent.worker(name, answer=lambda _: wire.reply(raw=b"x"))
    stream = agent.stream().send(ask_final(name)).end()
    replies = list(stream.replies())
    assert [final(reply) for reply in replies] == [True]
    assert list(replies[0].response.raw_output_contents) == [b"x"]
    stream.answer().expect_ok()


@requirement("stream.final.error")
def test_failures(agent: Agent) -> None:
    """The response by which the agent tells a failure is marked."""
    name = agent.name()
    worker = streaming(agent, name)
    stream = agent.stream().send(ask_final(agent.name("unknown")))
    reply = stream.receive()
    assert (error_code(reply), final(reply)) == (5, True)
    stream.send(ask_final(name))
    worker.exchange().close()
    reply = stream.receive()
    assert (error_code(reply), final(reply)) == (14, True)
    stream.end().answer().expect_ok()


@requirement("stream.final.unasked", "stream.final.asked")
@pytest.mark.parametrize("asked", [None, False, "true", 1], ids=["absent", "false", "text", "number"])
def test_only_for_those_who_ask(agent: Agent, asked: object) -> None:
    """Only `bool_param = true` asks for the mark; others never see it."""
    name, unary = agent.name("streaming"), agent.name("unary")
    worker = streaming(agent, name)
    agent.worker(unary, worker_id="unary", answer=lambda _: b"")
    parameters = {} if asked is None else {ASK_FINAL: asked}
    stream = agent.stream().send(wire.request(name, **parameters))  # type: ignore[arg-type]
    exchange = worker.exchange()
    exchange.send(wire.stream_reply(i=0))
    exchange.end()
    stream.send(wire.request(unary, **parameters))  # type: ignore[arg-type]
    stream.send(wire.request(agent.name("unknown"), **parameters)).end()  # type: ignore[arg-type]
    replies = list(stream.replies())
    assert len(replies) == 3, f"{len(replies)} responses came, not 3"
    assert [final(reply) for reply in replies] == [None] * 3
    stream.answer().expect_ok()
