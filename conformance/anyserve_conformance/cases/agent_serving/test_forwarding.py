"""What a worker gets of a request: the client's bytes as they are, and nothing else where it did not ask for more."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving import messages
from anyserve_conformance.requirement import requirement

LOOK_AT = "what the agent sends in place of the client's bytes: it must not parse and serialize a request"

EVERYTHING: dict[str, Any] = {"raw": bytes(range(256)), "flag": True, "n": -3, "s": "ü", "d": 0.5}
UNKNOWN = wire.field(1000, b"field of tomorrow") + wire.key(1000, 0) + b"\x07"


@requirement("frame.request.verbatim")
def test_unknown_fields_and_order_are_kept(agent: Agent) -> None:
    """A request's bytes reach the worker as they are, with unknown fields and in an order that no serializer writes."""
    name = agent.name("echo")
    worker = agent.worker(name, capability={"type": name})
    sent = wire.field(900, b"unknown") + wire.field(3, "an id") + wire.field(1, name) + wire.key(901, 0) + b"\x07"
    call = agent.start_infer(sent)
    exchange = worker.exchange()
    assert exchange.payload[: len(sent)] == sent, "the worker got other bytes than the client sent"
    exchange.answer()
    call.answer().expect_ok()


@requirement("frame.request.verbatim")
@pytest.mark.parametrize("capability", [False, True], ids=["plain", "with-capability"])
def test_encoding_is_kept(agent: Agent, capability: bool) -> None:
    """Numbers and lengths that are written longer than needed, repeated fields and empty ones stay as they are."""
    name = agent.name("echo")
    worker = agent.worker(name, capability={"type": name} if capability else None, answer=lambda _: b"")
    long_length = wire.key(3, 2) + b"\x81\x80\x00" + b"7"
    long_tag = b"\x9a\x80\x00" + b"\x01" + b"8"
    long_number = wire.field(4, wire.field(1, "k") + wire.field(2, wire.key(2, 0) + b"\x85\x80\x80\x00"))
    sent = wire.field(1, "before") + long_length + long_tag + long_number + wire.field(2, "") + wire.field(1, name)
    agent.infer(sent).expect_ok()
    assert worker.requests[0].startswith(sent), "the worker got other bytes than the client sent"


@requirement("frame.request.verbatim")
@pytest.mark.parametrize("capability", [False, True], ids=["plain", "with-capability"])
@hypothesis.given(sent=messages.requests)
def test_any_request(agent: Agent, capability: bool, sent: bytes) -> None:
    """Any valid request reaches the worker byte for byte."""
    query = {"type": agent.name()}
    if not agent.workers:
        # Routed by query in either case, so that the request may name any model or none.
        agent.worker(query["type"], capability=query if capability else None, answer=lambda _: b"")
    worker = agent.workers[0]
    worker.requests.clear()
    agent.infer(sent, query=query).expect_ok()
    (got,) = worker.requests
    assert got.startswith(sent) if capability else got == sent, "the worker got other bytes than the client sent"


@requirement("frame.request.verbatim", "frame.length.format")
def test_large_request(agent: Agent) -> None:
    """A request of several megabytes reaches the worker whole and in its order."""
    name = agent.name("large")
    worker = agent.worker(name, answer=lambda _: b"")
    size = min(agent.option("max-message-bytes") // 2, 5 << 20)
    sent = wire.request(name, raw=bytes(range(251)) * (size // 251)).SerializeToString()
    agent.infer(sent).expect_ok()
    assert worker.requests == [sent], "the worker got other bytes than the client sent"


@requirement("frame.length.format")
@pytest.mark.parametrize("length", [127, 128, 255, 256, 258, 65_535, 65_536, 65_793])
def test_length_of_a_request(agent: Agent, length: int) -> None:
    """The agent writes the length of a request in four bytes, big-endian, and then exactly that many bytes."""
    name = agent.name("length")
    worker = agent.worker(name, raw=True)
    sent = messages.of_size(wire.field(1, name), length)
    call = agent.start_infer(sent)
    connection = worker.connection()
    got = connection.read_exactly(4 + length)
    assert got[:4] == length.to_bytes(4, "big"), f"a request of {length} bytes came with the length {got[:4].hex(' ')}"
    assert got[4:] == sent, "the worker got other bytes than the client sent"
    assert connection.silent(), "more bytes came than the length says"
    connection.send_frame(b"")
    call.answer().expect_ok()


@requirement("frame.request.plain")
def test_nothing_is_added_for_a_registration_without_capability(agent: Agent) -> None:
    """A worker that registered without a capability gets exactly the client's bytes, also with deadline and trace."""
    name = agent.name("plain")
    worker = agent.worker(name, "1", answer=lambda _: wire.reply())
    sent = wire.request(name, "1", request_id="1", **EVERYTHING).SerializeToString() + UNKNOWN
    agent.infer(sent, timeout=60, metadata=[("traceparent", "00-1-2-01")]).expect_ok()
    assert worker.requests == [sent], "the worker got other bytes than the client sent"


@requirement("frame.request.plain")
def test_nothing_is_added_for_a_request_by_query(agent: Agent) -> None:
    """A registration without a capability that is found by the one it stands for gets exactly the client's bytes."""
    name = agent.name("plain")
    worker = agent.worker(name, answer=lambda _: b"")
    agent.infer(b"", query={"type": name}, timeout=60).expect_ok()
    assert worker.requests == [b""], "the worker got other bytes than the client sent"


@requirement("frame.request.plain", "frame.request.annotations")
def test_each_registration_of_a_worker_by_itself(agent: Agent) -> None:
    """Whether anything is added is a matter of the chosen registration, not of its worker."""
    plain, other = agent.name("plain"), agent.name("other")
    worker = agent.worker(plain, answer=lambda _: b"")
    agent.management.register(worker, other, capability={"type": other})
    agent.infer(plain).expect_ok()
    agent.infer(other).expect_ok()
    assert worker.requests[0] == wire.request(plain).SerializeToString(), "bytes were added for the plain one"
    added = wire.parameters_of(proto.ModelInferRequest.FromString(worker.requests[1]))
    assert added == {"anyserve_capability": f"type={other}"}, f"the one with a capability got the parameters {added}"


@requirement("frame.request.verbatim", "frame.request.annotations")
@hypothesis.given(sent=messages.requests, timeout=st.sampled_from([None, 60.0]))
def test_only_parameters_are_added(agent: Agent, sent: bytes, timeout: float | None) -> None:
    """What a worker reads is the client's message and the agent's parameters, nothing else."""
    query = {"type": agent.name()}
    if not agent.workers:
        agent.worker("", capability=query, answer=lambda _: b"")
    worker = agent.workers[0]
    worker.requests.clear()
    agent.infer(sent, query=query, timeout=timeout).expect_ok()
    got = proto.ModelInferRequest.FromString(worker.requests[0])
    added = {"anyserve_capability"} if timeout is None else {"anyserve_capability", "anyserve_timeout_ms"}
    assert {name for name in got.parameters if name.startswith("anyserve_")} == added, "other parameters were added"
    for name in added:
        del got.parameters[name]
    wanted = proto.ModelInferRequest.FromString(sent)
    assert got.SerializeToString(deterministic=True) == wanted.SerializeToString(deterministic=True), (
        "the worker reads another message than the client sent"
    )
