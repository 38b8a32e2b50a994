"""Streams when the agent drains."""

from __future__ import annotations

from collections.abc import Callable

from grpc import StatusCode

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_streaming.steps import streaming, under_way
from anyserve_conformance.requirement import requirement

LOOK_AT = "what a ModelStreamInfer call does when the drain begins"
LaunchAgent = Callable[..., Agent]


def drain(agent: Agent) -> None:
    """SIGTERM, and waits until the drain has begun."""
    events = agent.watch()
    agent.program.terminate()
    event = events.next()
    assert event is not None, "WatchEvents ended without SERVER_DRAINING"
    assert event.type == proto.Event.SERVER_DRAINING


@requirement("stream.drain.finish", "stream.drain.status", "stream.drain.no-more")
def test_requests_that_were_taken_end(launch_agent: LaunchAgent) -> None:
    """Requests that were taken go on, further ones are not taken, and the call then ends with UNAVAILABLE."""
    agent = launch_agent(grace=20)
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    drain(agent)
    stream.send(wire.request(name, request_id="late"))
    exchange.send(wire.stream_reply(i=0))
    assert wire.parameters_of(stream.receive().response)["i"] == 0
    worker.no_exchange()
    exchange.send(wire.stream_reply(i=1))
    exchange.end()
    assert wire.parameters_of(stream.receive().response)["i"] == 1
    stream.answer().expect(StatusCode.UNAVAILABLE)
    assert agent.program.wait() == 0
    assert len(worker.requests) == 1, "a request that came during the drain reached the worker"


@requirement("stream.drain.status")
def test_a_client_that_had_ended_its_side(launch_agent: LaunchAgent) -> None:
    """A call whose client had ended its side before ends with OK."""
    agent = launch_agent(grace=20)
    name = agent.name()
    worker = streaming(agent, name)
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    drain(agent)
    exchange.send(wire.stream_reply(i=0))
    exchange.end()
    assert [wire.parameters_of(reply.response)["i"] for reply in stream.replies()] == [0]
    stream.answer().expect_ok()
    assert agent.program.wait() == 0


@requirement("stream.drain.status")
def test_an_idle_call(launch_agent: LaunchAgent) -> None:
    """A call without open requests ends with UNAVAILABLE when the drain begins."""
    agent = launch_agent(grace=20)
    name = agent.name()
    agent.worker(name, answer=lambda _: b"")
    stream = agent.stream().send(wire.request(name))
    stream.receive()
    agent.program.terminate()
    stream.answer().expect(StatusCode.UNAVAILABLE)
    assert agent.program.wait() == 0


@requirement("stream.drain.finish")
def test_after_the_grace(launch_agent: LaunchAgent) -> None:
    """Requests that are not answered when the grace has passed are cancelled, and the call ends."""
    agent = launch_agent(grace=0.5)
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    agent.program.terminate()
    answer = stream.answer()
    assert answer.code is not StatusCode.OK
    exchange.cancelled()
    assert agent.program.wait() == 0
