"""A unary worker's reply on its way to the client: its bytes as they are, and the few fields that are filled in."""

from __future__ import annotations

import hypothesis
import pytest
from grpc import StatusCode

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving import messages
from anyserve_conformance.cases.agent_serving.steps import hold, is_listed, serve_once
from anyserve_conformance.requirement import requirement

LOOK_AT = "what the agent sends in place of the worker's bytes: it must not parse and serialize a reply"

UNKNOWN = wire.field(1000, b"field of tomorrow") + wire.key(1001, 0) + b"\x07"


@requirement("frame.reply.verbatim")
def test_unknown_fields_and_order_are_kept(agent: Agent) -> None:
    """A reply that has name, version and id reaches the client byte for byte, whatever else is in it."""
    name = agent.name("echo")
    worker = agent.worker(name, "1")
    reply = UNKNOWN + wire.field(6, b"raw") + wire.field(3, "7") + wire.field(2, "1") + wire.field(1, name) + UNKNOWN
    answer = serve_once(agent, worker, name, reply)
    assert answer.payload == reply, "the client got other bytes than the worker sent"


@requirement("frame.reply.verbatim")
def test_encoding_is_kept(agent: Agent) -> None:
    """Numbers and lengths that are written longer than needed, and repeated fields, stay as they are."""
    name = agent.name("echo")
    worker = agent.worker(name)
    long_length = wire.key(3, 2) + b"\x81\x80\x00" + b"7"
    long_number = wire.field(4, wire.field(1, "k") + wire.field(2, wire.key(2, 0) + b"\x85\x80\x80\x00"))
    reply = wire.field(1, "before") + long_length + long_number + wire.field(2, "") + wire.field(1, name)
    answer = serve_once(agent, worker, name, reply)
    assert answer.payload == reply, "the client got other bytes than the worker sent"


@requirement("frame.reply.verbatim", "frame.reply.fill-order")
@hypothesis.given(reply=messages.replies)
def test_any_reply(agent: Agent, reply: bytes) -> None:
    """Of any reply the client gets the bytes as they are, and behind them what was empty in it."""
    name = agent.name("echo")
    worker = agent.workers[0] if agent.workers else agent.worker(name, "3")
    call, exchange = hold(agent, worker, wire.request(name, request_id="asked"))
    exchange.answer(reply)
    read = proto.ModelInferResponse.FromString(reply)
    filled = b"" if read.model_name else wire.field(1, name)
    filled += b"" if read.model_version else wire.field(2, "3")
    filled += b"" if read.id else wire.field(3, "asked")
    assert call.answer().expect_ok().payload == reply + filled, "the client got other bytes"


@requirement("frame.reply.verbatim")
def test_large_reply(agent: Agent) -> None:
    """A reply of two megabytes reaches the client whole and in its order."""
    name = agent.name("large")
    worker = agent.worker(name)
    size = min(agent.option("max-message-bytes") // 2, 2 << 20)
    reply = wire.field(1, name) + wire.field(6, bytes(range(251)) * (size // 251))
    answer = serve_once(agent, worker, name, reply)
    assert answer.payload == reply, "the client got other bytes than the worker sent"


@requirement("frame.reply.fill-name")
def test_name_of_the_request(agent: Agent) -> None:
    """An empty model name is filled in with the request's."""
    name = agent.name("asked")
    worker = agent.worker(name)
    answer = serve_once(agent, worker, name, wire.field(6, b"raw"))
    assert answer.payload == wire.field(6, b"raw") + wire.field(1, name), "the client got other bytes"


@requirement("frame.reply.fill-name")
def test_name_that_was_asked_for_by_query(agent: Agent) -> None:
    """With a query the request's own model name is filled in, whichever model was found."""
    name = agent.name("listed")
    agent.worker(name, capability={"type": name}, answer=lambda _: b"")
    answer = agent.infer("some other name", query={"type": name})
    assert answer.message.model_name == "some other name", f"{answer.message.model_name!r} was filled in"


@requirement("frame.reply.fill-name")
@pytest.mark.parametrize("by_key", [False, True], ids=["model-name", "capability-key"])
def test_listed_name_without_one_in_the_request(agent: Agent, by_key: bool) -> None:
    """A request without a model name gets the listed name: the registration's, or its capability key `model`."""
    name = agent.name("listed")
    capability = {"type": name, "model": name if by_key else "another"}
    agent.worker("" if by_key else name, capability=capability, answer=lambda _: b"")
    answer = agent.infer(b"", query={"type": name})
    assert answer.message.model_name == name, f"{answer.message.model_name!r} was filled in"


@requirement("frame.reply.fill-name")
def test_no_name_at_all(agent: Agent) -> None:
    """Where neither request nor registration has a model name none is filled in."""
    kind = agent.name("nameless")
    agent.worker("", capability={"type": kind}, answer=lambda _: b"")
    answer = agent.infer(b"", query={"type": kind}).expect_ok()
    assert answer.payload == b"", "something was filled in"


@requirement("frame.reply.fill-version")
@pytest.mark.parametrize("by_key", [False, True], ids=["model-version", "capability-key"])
def test_listed_version(agent: Agent, by_key: bool) -> None:
    """An empty version is filled in with the registration's, or with its capability key `version`."""
    name = agent.name("versioned")
    capability = {"type": name, "version": "7" if by_key else "another"}
    agent.worker(name, "" if by_key else "7", capability=capability, answer=lambda _: b"")
    answer = agent.infer(name)
    assert answer.message.model_version == "7", f"{answer.message.model_version!r} was filled in"


@requirement("frame.reply.fill-version")
def test_version_of_the_registration_and_not_of_the_request(agent: Agent) -> None:
    """A request by query that names another version gets the version of the registration that served it."""
    name = agent.name("versioned")
    agent.worker(name, "7", capability={"type": name}, answer=lambda _: b"")
    answer = agent.infer(wire.request(name, "9"), query={"type": name})
    assert answer.message.model_version == "7", f"{answer.message.model_version!r} was filled in"


@requirement("frame.reply.fill-version")
def test_no_version(agent: Agent) -> None:
    """A registration without a version leaves the reply without one, also if the request gives one."""
    name = agent.name("versionless")
    agent.worker(name, capability={"type": name}, answer=lambda _: b"")
    answer = agent.infer(wire.request(name, "9"), query={"type": name}).expect_ok()
    assert answer.payload == wire.field(1, name), "something else than the name was filled in"


@requirement("frame.reply.fill-id")
@pytest.mark.parametrize("request_id", ["7", "größe 🙂", "x" * 5_000], ids=["short", "beyond-ascii", "long"])
def test_id_of_the_request(agent: Agent, request_id: str) -> None:
    """An empty id is filled in with the request's."""
    name = agent.name("echo")
    agent.worker(name, answer=lambda _: b"")
    answer = agent.infer(wire.request(name, request_id=request_id)).expect_ok()
    assert answer.payload == wire.field(1, name) + wire.field(3, request_id), "the client got other bytes"


@requirement("frame.reply.fill-id")
def test_no_id(agent: Agent) -> None:
    """A reply to a request without an id is left without one."""
    name = agent.name("echo")
    agent.worker(name, answer=lambda _: b"")
    answer = agent.infer(name).expect_ok()
    assert answer.payload == wire.field(1, name), "something else than the name was filled in"


@requirement("frame.reply.fill-order")
@pytest.mark.parametrize("own", ["", "n", "v", "i", "nv", "ni", "vi", "nvi"])
def test_what_the_worker_has_set_stays(agent: Agent, own: str) -> None:
    """Name, version and id are appended in this order, without those that the worker has set."""
    name = agent.name("echo")
    worker = agent.worker(name, "2")
    reply = b"".join(wire.field("nvi".index(letter) + 1, f"worker's {letter}") for letter in own)
    call, exchange = hold(agent, worker, wire.request(name, request_id="asked"))
    exchange.answer(reply)
    ours = {"n": (1, name), "v": (2, "2"), "i": (3, "asked")}
    wanted = reply + b"".join(wire.field(*ours[letter]) for letter in "nvi" if letter not in own)
    assert call.answer().expect_ok().payload == wanted, "the client got other bytes"


@requirement("frame.reply.fill-order", "frame.scan.last")
def test_a_field_that_was_emptied_is_filled_in(agent: Agent) -> None:
    """A name, version or id that stands in the reply and empty behind that is an empty one."""
    name = agent.name("echo")
    worker = agent.worker(name, "2")
    reply = b"".join(wire.field(number, "x") + wire.field(number, "") for number in (3, 1, 2))
    call, exchange = hold(agent, worker, wire.request(name, request_id="asked"))
    exchange.answer(reply)
    wanted = reply + wire.field(1, name) + wire.field(2, "2") + wire.field(3, "asked")
    assert call.answer().expect_ok().payload == wanted, "the client got other bytes"


@requirement("frame.reply.malformed", look_at="whether a reply is looked at before it is passed on")
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"hello, world", id="text"),
        pytest.param(b"\xff" * 20, id="ones"),
        pytest.param(wire.field(6, bytes(100))[:-1], id="cut-off"),
        pytest.param(wire.field(1, b"\xff"), id="name-not-utf-8"),
        pytest.param(wire.key(3, 0) + b"\x01", id="id-as-varint"),
        pytest.param(wire.field(4, b"\xff"), id="broken-parameter"),
    ],
)
def test_a_malformed_reply_fails_the_request(agent: Agent, reply: bytes) -> None:
    """A reply that is no ModelInferResponse is INTERNAL to the client; the connection carries the next exchange."""
    name = agent.name("broken")
    worker = agent.worker(name)
    call, exchange = hold(agent, worker, name)
    exchange.answer(reply)
    call.answer().expect(StatusCode.INTERNAL)
    serve_once(agent, worker, name)
    assert not worker.connections[0].hung_up, "the connection was closed"
    assert len(worker.connections) == 1, "the connection was not used again"


@requirement("frame.reply.malformed", "frame.violation.row")
def test_malformed_replies_are_no_violations(agent: Agent) -> None:
    """A worker is not dropped for malformed replies, however many there are."""
    name = agent.name("broken")
    worker = agent.worker(name)
    for _ in range(4):
        call, exchange = hold(agent, worker, name)
        exchange.answer(b"\xff")
        call.answer().expect(StatusCode.INTERNAL)
    assert is_listed(agent, worker), "the worker was dropped"
    serve_once(agent, worker, name)


@requirement("frame.reply.malformed", "frame.retry.never-twice")
def test_a_malformed_reply_is_not_tried_elsewhere(agent: Agent) -> None:
    """A request that was answered with a malformed reply goes to no other match."""
    name = agent.name("broken")
    worker = agent.worker(name, worker_id="first", priority=1, answer=lambda _: b"\xff")
    spare = agent.worker(name, worker_id="spare", answer=lambda _: b"")
    agent.infer(name).expect(StatusCode.INTERNAL)
    assert len(worker.requests) == 1, f"the worker got the request {len(worker.requests)} times"
    assert not spare.connections, "the request was tried elsewhere"
