"""What the agent appends to a request for a registration with a capability: capability, timeout, traceparent."""

from __future__ import annotations

import time
from typing import Any

import pytest

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import entry, let_wait
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import ScriptedWorker

LOOK_AT = "what is appended to a request's bytes when the chosen registration has a capability"

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ROUNDING_MS = 150
"""gRPC rounds a deadline of some seconds up to tenths."""


def text(key: str, value: str) -> bytes:
    """One entry of `parameters` with a text."""
    return entry(key, wire.field(3, value))


def number(key: str, value: int) -> bytes:
    """One entry of `parameters` with an int64."""
    return entry(key, wire.key(2, 0) + wire.varint(value))


def appended(worker: ScriptedWorker, sent: bytes) -> bytes:
    """What stands behind the client's bytes in the last request that a worker got."""
    got = worker.requests[-1]
    assert got.startswith(sent), "the worker got other bytes than the client sent"
    return got[len(sent) :]


def milliseconds_left(payload: bytes) -> int:
    """`anyserve_timeout_ms` of a request."""
    parameters = proto.ModelInferRequest.FromString(payload).parameters
    assert "anyserve_timeout_ms" in parameters, "the request has no anyserve_timeout_ms"
    value = parameters["anyserve_timeout_ms"]
    choice = value.WhichOneof("parameter_choice")
    assert choice == "int64_param", f"anyserve_timeout_ms is given as {choice}"
    return int(value.int64_param)


def annotated(agent: Agent, **fields: Any) -> tuple[ScriptedWorker, bytes, str]:
    """A worker with a capability that answers, a request for it, and the capability as text."""
    name = agent.name("echo")
    worker = agent.worker(name, capability={"type": name}, answer=lambda _: b"", **fields)
    return worker, wire.request(name, request_id="1", raw=b"x", k="v").SerializeToString(), f"type={name}"


@requirement("frame.request.annotations", "frame.request.encoding")
def test_capability_alone(agent: Agent) -> None:
    """Without deadline and traceparent the capability is all that is appended, as one entry of field 4."""
    worker, sent, capability = annotated(agent)
    agent.infer(sent).expect_ok()
    assert appended(worker, sent) == text("anyserve_capability", capability), "other bytes were appended"


@requirement("frame.request.annotations")
def test_the_chosen_registration_is_named(agent: Agent) -> None:
    """A worker with several capabilities is told the one that the request was routed to."""
    one, two = agent.name("one"), agent.name("two")
    worker = agent.worker(one, capability={"type": one}, answer=lambda _: b"")
    agent.management.register(worker, two, capability={"type": two, "size": "2"})
    for name, query, capability in ((two, {}, f"size=2,type={two}"), ("", {"type": one}, f"type={one}")):
        sent = wire.request(name).SerializeToString()
        agent.infer(sent, query=query).expect_ok()
        assert appended(worker, sent) == text("anyserve_capability", capability), "another capability is named"


@requirement("frame.request.annotations")
def test_the_whole_capability_is_named(agent: Agent) -> None:
    """All keys of the registration's capability are told, not those of the query alone."""
    name = agent.name("chat")
    worker = agent.worker("", capability={"type": name, "model": "m", "lang": "größe, x"}, answer=lambda _: b"")
    sent = wire.request(request_id="1").SerializeToString()
    agent.infer(sent, query={"type": name}).expect_ok()
    capability = f"lang=gr%C3%B6%C3%9Fe%2C%20x,model=m,type={name}"
    assert appended(worker, sent) == text("anyserve_capability", capability), "another capability is named"


@requirement("frame.request.annotations")
def test_an_equal_default_counts_as_given(agent: Agent) -> None:
    """A capability that says what an empty one would mean is one all the same, and is told."""
    name = agent.name("echo")
    worker = agent.worker(name, capability={"type": name}, answer=lambda _: b"")
    sent = wire.request(name).SerializeToString()
    agent.infer(sent).expect_ok()
    assert appended(worker, sent) == text("anyserve_capability", f"type={name}"), "the capability is not told"


@requirement("frame.request.encoding")
@pytest.mark.parametrize("length", [1, 80, 81, 82, 100, 256])
def test_lengths_of_one_and_two_bytes(agent: Agent, length: int) -> None:
    """Lengths are written as short as they can be, around the step from one byte to two."""
    name = agent.name("echo")
    capability = {"type": name, "z": "z" * length}
    worker = agent.worker(name, capability=capability, answer=lambda _: b"")
    sent = wire.request(name).SerializeToString()
    agent.infer(sent).expect_ok()
    wanted = text("anyserve_capability", wire.capability_text(capability))
    assert appended(worker, sent) == wanted, "the parameter is not encoded as the specification has it"


@requirement("frame.request.encoding")
def test_lengths_of_three_bytes(agent: Agent) -> None:
    """The longest capability takes lengths of three bytes."""
    name = agent.name("echo")
    capability = {"type": name} | {f"{'k' * 60}.{number:02}": "ö" * 256 for number in range(31)}
    worker = agent.worker(name, capability=capability, answer=lambda _: b"")
    sent = wire.request(name).SerializeToString()
    agent.infer(sent).expect_ok()
    wanted = text("anyserve_capability", wire.capability_text(capability))
    assert appended(worker, sent) == wanted, "the parameter is not encoded as the specification has it"


@requirement("frame.request.timeout")
def test_timeout_is_what_is_left(agent: Agent) -> None:
    """A call with a deadline of 20 s reaches the worker with at most that and hardly less."""
    worker, sent, _ = annotated(agent)
    started = time.monotonic()
    agent.infer(sent, timeout=20).expect_ok()
    took = (time.monotonic() - started) * 1000
    left = milliseconds_left(worker.requests[0])
    assert 20_000 - took - ROUNDING_MS <= left <= 20_000 + ROUNDING_MS, (
        f"{left} ms were told of 20 s, {took:.0f} ms after the call began"
    )


@requirement("frame.request.timeout")
def test_time_spent_waiting_is_subtracted(agent: Agent) -> None:
    """A request that waited for a place is told the time that is left then, not when it came."""
    name = agent.name("busy")
    worker = agent.worker(name, capability={"type": name}, max_concurrency=1)
    first = agent.start_infer(name)
    exchange = worker.exchange()
    second = let_wait(agent, name, timeout=20)
    waiting = time.monotonic()
    time.sleep(0.4)  # the quantity that is measured, nothing that is waited for
    waited = (time.monotonic() - waiting) * 1000
    exchange.answer()
    exchange = worker.exchange()
    left = milliseconds_left(exchange.payload)
    assert left <= 20_000 - waited + ROUNDING_MS, f"{left} ms were told of 20 s after {waited:.0f} ms in the queue"
    exchange.answer()
    first.answer().expect_ok()
    second.answer().expect_ok()


@requirement("frame.request.timeout")
def test_no_timeout_without_deadline(agent: Agent) -> None:
    """A call without a deadline reaches the worker without `anyserve_timeout_ms`."""
    worker, sent, _ = annotated(agent)
    agent.infer(sent, metadata=[("traceparent", TRACE)]).expect_ok()
    assert b"anyserve_timeout_ms" not in worker.requests[0], "anyserve_timeout_ms was appended"


@requirement("frame.request.traceparent")
@pytest.mark.parametrize("value", [TRACE, "whatever it is"], ids=["w3c", "other"])
def test_traceparent_is_passed_on(agent: Agent, value: str) -> None:
    """The metadata `traceparent` comes as the parameter of that name, whatever its value."""
    worker, sent, capability = annotated(agent)
    agent.infer(sent, metadata=[("traceparent", value)]).expect_ok()
    wanted = text("anyserve_capability", capability) + text("traceparent", value)
    assert appended(worker, sent) == wanted, "other bytes were appended"


@requirement("frame.request.traceparent")
def test_last_of_several_counts(agent: Agent) -> None:
    """Of several `traceparent` metadata the last one counts."""
    worker, sent, capability = annotated(agent)
    agent.infer(sent, metadata=[("traceparent", "first"), ("other", "x"), ("traceparent", "last")]).expect_ok()
    wanted = text("anyserve_capability", capability) + text("traceparent", "last")
    assert appended(worker, sent) == wanted, "other bytes were appended"


@requirement("frame.request.traceparent")
def test_a_parameter_of_the_client_is_overruled(agent: Agent) -> None:
    """A parameter `traceparent` that the client sent stays in its bytes, and the metadata's stands behind it."""
    worker, _, _ = annotated(agent)
    sent = wire.request(agent.name("echo"), traceparent="the client's").SerializeToString()
    agent.infer(sent, metadata=[("traceparent", TRACE)]).expect_ok()
    assert appended(worker, sent).endswith(text("traceparent", TRACE)), "the metadata's traceparent is not the last"


@requirement("frame.request.traceparent")
def test_a_parameter_of_the_client_is_left_alone(agent: Agent) -> None:
    """Without metadata nothing is appended for a parameter `traceparent` that the client sent."""
    worker, _, capability = annotated(agent)
    sent = wire.request(agent.name("echo"), traceparent="the client's").SerializeToString()
    agent.infer(sent).expect_ok()
    assert appended(worker, sent) == text("anyserve_capability", capability), "other bytes were appended"


@requirement("frame.request.order", "frame.request.encoding")
def test_all_three_in_order(agent: Agent) -> None:
    """Capability, timeout and traceparent are appended in this order, each once, to the byte."""
    worker, sent, capability = annotated(agent)
    agent.infer(sent, timeout=60, metadata=[("traceparent", TRACE)]).expect_ok()
    left = milliseconds_left(worker.requests[0])
    wanted = text("anyserve_capability", capability) + number("anyserve_timeout_ms", left) + text("traceparent", TRACE)
    assert appended(worker, sent) == wanted, "they stand in another order or encoding"


@requirement("frame.request.order")
def test_again_for_the_next_match(agent: Agent) -> None:
    """A request that is tried elsewhere carries the annotations once, those of the match that it goes to."""
    name = agent.name("echo")
    first = agent.worker(name, worker_id="first", capability={"type": name, "x": "1"}, priority=1, raw=True)
    second = agent.worker(name, worker_id="second", capability={"type": name, "x": "2"}, answer=lambda _: b"")
    sent = wire.request(name).SerializeToString()
    call = agent.start_infer(sent, metadata=[("traceparent", TRACE)])
    connection = first.connection()
    connection.read_exactly(1)
    connection.close()  # the rest is left unread: the request was not taken
    call.answer().expect_ok()
    wanted = text("anyserve_capability", f"type={name},x=2") + text("traceparent", TRACE)
    assert appended(second, sent) == wanted, "the second worker got other bytes"
