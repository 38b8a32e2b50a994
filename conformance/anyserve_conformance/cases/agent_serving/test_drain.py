"""How an agent stops."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from grpc import StatusCode

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.raw_http2 import Http2Connection
from anyserve_conformance.requirement import requirement

LOOK_AT = "what the agent does at SIGTERM, and in which order"
LaunchAgent = Callable[..., Agent]
NOT_SERVING = 2


class Draining:
    """An agent that drains, with one call under way that holds it."""

    def __init__(self, launch_agent: LaunchAgent, **options: Any) -> None:
        self.agent = launch_agent(**{"grace": 20, **options})
        self.name = self.agent.name()
        self.worker = self.agent.worker(self.name)
        self.events = self.agent.watch()
        self.call = self.agent.start_infer(self.name)
        self.exchange = self.worker.exchange()
        self.agent.program.terminate()
        event = self.events.next()
        assert event is not None, "WatchEvents ended without SERVER_DRAINING"
        assert event.type == proto.Event.SERVER_DRAINING, f"{event} came instead of SERVER_DRAINING"

    def finish(self) -> None:
        """Lets the call end, and the agent."""
        self.exchange.answer()
        self.call.answer().expect_ok()
        assert self.agent.program.wait() == 0, "the exit status is not 0"


@requirement("lifecycle.drain.finish", "lifecycle.drain.management-last")
def test_calls_under_way_end_as_usual(launch_agent: LaunchAgent) -> None:
    """A call that was taken before the drain is served to its end, and its worker can take its leave meanwhile."""
    drain = Draining(launch_agent)
    assert not drain.call.done
    assert drain.agent.management.heartbeat(drain.worker.worker_id), "the management port does not know the worker"
    drain.finish()


@requirement("serving.infer.draining", "lifecycle.drain.goaway")
def test_new_calls_are_refused(launch_agent: LaunchAgent) -> None:
    """A call that comes during the drain is UNAVAILABLE, on an old connection and on a new one."""
    drain = Draining(launch_agent)
    drain.agent.infer(drain.name).expect(StatusCode.UNAVAILABLE)
    drain.agent.new_client().infer(wire.request(drain.name)).expect(StatusCode.UNAVAILABLE)
    assert len(drain.worker.requests) == 1, "a new request reached the worker"
    drain.finish()


@requirement("serving.ready.draining", "lifecycle.drain.not-ready")
def test_not_ready(launch_agent: LaunchAgent) -> None:
    """An agent that drains does not say that it is ready: it says no, or refuses the call."""
    drain = Draining(launch_agent)
    answer = drain.agent.client.call("ServerReady")
    if answer.code is StatusCode.OK:
        assert not answer.message.ready, "ready while draining"
    else:
        answer.expect(StatusCode.UNAVAILABLE)
    drain.finish()


@requirement("lifecycle.drain.not-ready")
def test_told_before_the_first_refusal(launch_agent: LaunchAgent) -> None:
    """SERVER_DRAINING and NOT_SERVING are told before the first call is refused."""
    agent = launch_agent(grace=20)
    name = agent.name()
    worker = agent.worker(name)
    events = agent.watch()
    health = agent.new_client(service=proto.HEALTH).stream("Watch", proto.HealthCheckRequest())
    health.receive()
    held = agent.start_infer(name)
    exchange = worker.exchange()
    agent.program.terminate()
    agent.patience.until(
        lambda: agent.infer(agent.name("nobody")).code is StatusCode.UNAVAILABLE, "the first refused call"
    )
    event = events.next(within=1)
    assert event is not None, "WatchEvents ended without SERVER_DRAINING"
    assert event.type == proto.Event.SERVER_DRAINING, f"{event} came instead of SERVER_DRAINING"
    assert health.receive(within=1).message.status == NOT_SERVING
    exchange.answer()
    held.answer().expect_ok()
    assert agent.program.wait() == 0


@requirement("lifecycle.drain.goaway")
def test_goaway(launch_agent: LaunchAgent) -> None:
    """An idle connection and one with a call are told by GOAWAY with NO_ERROR before the agent ends."""
    agent = launch_agent(grace=20)
    host, _, port = agent.place.target.rpartition(":")
    options: dict[str, Any] = {"patience": agent.patience, "transcript": agent.transcript}
    idle = Http2Connection.connect(host, int(port), who="idle connection", **options)
    name = agent.name()
    worker = agent.worker(name)
    busy = Http2Connection.connect(host, int(port), who="busy connection", **options)
    call = busy.start("/inference.GRPCInferenceService/ModelInfer", wire.request(name).SerializeToString())
    busy.round_trip()
    exchange = worker.exchange()
    agent.program.terminate()
    exchange.answer()
    for connection in (busy, idle):
        connection.wait_closed()
        assert connection.goaway == 0, f"GOAWAY said {connection.goaway}, then: {connection.closed}"
    assert busy.answer(call).status == 0, "the call under way was not answered with OK"
    assert agent.program.wait() == 0


@requirement("lifecycle.drain.grace")
def test_after_the_grace(launch_agent: LaunchAgent) -> None:
    """Calls that have not ended when the grace has passed are ended, and their exchanges cancelled."""
    drain = Draining(launch_agent, grace=0.5)
    started = time.monotonic()
    answer = drain.call.answer()
    assert answer.code is not StatusCode.OK
    assert time.monotonic() - started < drain.agent.patience(10), "the call was held far beyond the grace"
    drain.exchange.cancelled()
    assert drain.agent.program.wait() == 0, "the exit status is not 0"


@requirement("lifecycle.drain.grace")
def test_not_before_the_grace(launch_agent: LaunchAgent) -> None:
    """Within the grace a call goes on although nothing happens on it."""
    drain = Draining(launch_agent, grace=3)
    drain.agent.patience.while_nothing(lambda: drain.call.done, "the call was ended before the grace", for_=1.0)
    drain.finish()


@requirement("lifecycle.drain.signal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_both_signals(launch_agent: LaunchAgent, number: signal.Signals) -> None:
    """SIGTERM and SIGINT drain: a call under way is served, and the exit status is 0."""
    agent = launch_agent(grace=20)
    name = agent.name()
    worker = agent.worker(name)
    call = agent.start_infer(name)
    exchange = worker.exchange()
    agent.program.signal(number)
    agent.patience.until(
        lambda: agent.infer(agent.name("nobody")).code is StatusCode.UNAVAILABLE, "the beginning of the drain"
    )
    exchange.answer()
    call.answer().expect_ok()
    assert agent.program.wait() == 0, "the exit status is not 0"


@requirement("lifecycle.drain.hurry")
def test_a_further_sigint(launch_agent: LaunchAgent) -> None:
    """A further SIGINT ends the calls under way long before the grace has passed."""
    drain = Draining(launch_agent, grace=600)
    drain.agent.program.signal(signal.SIGINT)
    assert drain.call.answer().code is not StatusCode.OK
    drain.exchange.cancelled()
    drain.agent.program.wait()


@requirement("lifecycle.drain.hurry")
def test_a_further_sigterm(launch_agent: LaunchAgent) -> None:
    """A further SIGTERM changes nothing: the call under way goes on."""
    drain = Draining(launch_agent)
    drain.agent.program.signal(signal.SIGTERM)
    drain.agent.patience.while_nothing(lambda: drain.call.done, "a second SIGTERM ended the call", for_=0.5)
    drain.finish()
