"""What the agent reads of the bytes of requests and replies, and which bytes are malformed.

Requests are routed by a query, so that they may name any model, and reach a worker
or are refused. What was read of name and id shows in the reply, where the agent
fills it in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import hypothesis
import pytest
from grpc import StatusCode
from hypothesis import strategies as st

from anyserve_conformance import vectors, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving import messages
from anyserve_conformance.cases.agent_serving.scanner import REPLY, REQUEST, is_message
from anyserve_conformance.cases.agent_serving.steps import entry
from anyserve_conformance.client import Answer
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import ScriptedWorker
from anyserve_conformance.vectors import Vector, as_bytes, as_text

LOOK_AT = "the reader of protobuf bytes: what it reads, what it skips and what it refuses"

ALL = vectors.load("scan")
REQUESTS = [vector for vector in ALL if vector.kind == "request"]
# What a request's first four fields may be, a reply's may be; field 7 is defined in a request alone.
REPLIES = [vector for vector in ALL if vector.kind != "stream-reply" and not vector.name.startswith("raw-contents-as")]


def params(chosen: Iterable[Vector], named: str = "") -> list[Any]:
    """One case for each vector, of the vector's requirement unless another is named."""
    return [
        pytest.param(
            vector,
            id=vector.name.replace("'", ""),
            marks=pytest.mark.requirement(named or vector.requirement, look_at="", needs={}),
        )
        for vector in chosen
    ]


def queried(agent: Agent, answer: bytes = b"") -> tuple[ScriptedWorker, Mapping[str, str], str]:
    """A worker, the query that finds it, and its listed name."""
    name = agent.name("scan")
    query = {"type": name}
    worker = agent.workers[0] if agent.workers else agent.worker(name, capability=query, answer=lambda _: answer)
    return worker, query, name


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A text that a vector says is read."""
    return as_text(fields.get(name, ""))


@pytest.mark.parametrize("vector", params(vector for vector in REQUESTS if "malformed" not in vector))
def test_request(agent: Agent, vector: Vector) -> None:
    """A request that is well-formed reaches the worker as it is, and its name and id are read."""
    sent = as_bytes(vector["bytes"])
    worker, query, listed = queried(agent)
    answer = agent.infer(sent, query=query).expect_ok()
    assert worker.requests[0].startswith(sent), "the worker got other bytes than the client sent"
    fields = vector["fields"]
    name, request_id = text_of(fields, "model_name") or listed, text_of(fields, "id")
    wanted = wire.field(1, name) + (wire.field(3, request_id) if request_id else b"")
    assert answer.payload == wanted, "another name or id was read of the request"


@pytest.mark.parametrize("vector", params(vector for vector in REQUESTS if "malformed" in vector))
def test_malformed_request(agent: Agent, vector: Vector) -> None:
    """A malformed request is answered INVALID_ARGUMENT and reaches no worker."""
    worker, query, _ = queried(agent)
    agent.infer(as_bytes(vector["bytes"]), query=query).expect(StatusCode.INVALID_ARGUMENT)
    assert not worker.connections, "the agent connected to the worker"


@pytest.mark.parametrize("vector", params((v for v in REQUESTS if v.get("whole_at")), "frame.scan.cut"))
def test_request_cut_anywhere(agent: Agent, vector: Vector) -> None:
    """A request is malformed when it is cut anywhere but behind a field."""
    sent = as_bytes(vector["bytes"])
    _, query, _ = queried(agent)
    for size in range(len(sent)):
        wanted = StatusCode.OK if size in vector["whole_at"] else StatusCode.INVALID_ARGUMENT
        answer = agent.infer(sent[:size], query=query)
        assert answer.code is wanted, f"the first {size} bytes were answered {answer.code.name}, not {wanted.name}"


def answered(agent: Agent, reply: bytes) -> tuple[Answer, str]:
    """How a request ends that is answered with these bytes, and the listed name of the worker."""
    _, query, name = queried(agent, reply)
    return agent.infer(wire.request(request_id="asked"), query=query), name


@pytest.mark.parametrize("vector", params(vector for vector in REPLIES if "malformed" not in vector))
def test_reply(agent: Agent, vector: Vector) -> None:
    """A reply that is well-formed reaches the client as it is, with what is empty in it filled in."""
    reply = as_bytes(vector["bytes"])
    answer, listed = answered(agent, reply)
    fields = vector["fields"]
    failure = fields.get("parameters", {}).get("anyserve_error_code")
    if failure is not None:
        assert str(answer.code.value[0]) == failure["int64_param"], f"the call ended with {answer.code.name}"
        return
    filled = b"" if text_of(fields, "model_name") else wire.field(1, listed)
    filled += b"" if text_of(fields, "id") else wire.field(3, "asked")
    assert answer.expect_ok().payload == reply + filled, "another name or id was read of the reply"


@pytest.mark.parametrize("vector", params(vector for vector in REPLIES if "malformed" in vector))
def test_malformed_reply(agent: Agent, vector: Vector) -> None:
    """A malformed reply is INTERNAL to the client."""
    answer, _ = answered(agent, as_bytes(vector["bytes"]))
    answer.expect(StatusCode.INTERNAL)


# Where a request goes


@requirement("frame.scan.last")
def test_last_name_is_the_one_that_is_routed_by(agent: Agent) -> None:
    """A request with two model names goes to the last one."""
    one, two = agent.name("one"), agent.name("two")
    first, second = agent.worker(one, answer=lambda _: b""), agent.worker(two, answer=lambda _: b"")
    agent.infer(wire.field(1, one) + wire.field(3, "x") + wire.field(1, two)).expect_ok()
    assert (len(first.requests), len(second.requests)) == (0, 1), "the request went to the first name"


@requirement("frame.scan.last")
def test_name_that_was_emptied(agent: Agent) -> None:
    """A request whose last model name is empty has none."""
    name = agent.name("one")
    agent.worker(name, answer=lambda _: b"")
    agent.infer(wire.field(1, name) + wire.field(1, "")).expect(StatusCode.INVALID_ARGUMENT)


@requirement("frame.scan.last")
@pytest.mark.parametrize(
    ("versions", "served_by"), [(("1", "2"), "2"), (("2", "1"), "1"), (("1", ""), "2")], ids=["2", "1", "empty"]
)
def test_last_version(agent: Agent, versions: tuple[str, ...], served_by: str) -> None:
    """The last version of a request counts, also an empty one, with which the newest is chosen."""
    name = agent.name("versions")
    for version in ("1", "2"):
        agent.worker(name, version, answer=lambda _: b"")
    answer = agent.infer(wire.field(1, name) + b"".join(wire.field(2, version) for version in versions))
    assert answer.message.model_version == served_by, f"version {answer.message.model_version} served it"


# Keys of a request's parameters, as far as it shows: those that are reserved are refused.


@requirement("frame.scan.map")
@pytest.mark.parametrize(
    ("parameter", "reserved"),
    [
        pytest.param(wire.field(4, wire.field(1, "k") + wire.field(1, "anyserve_x")), True, id="reserved-last"),
        pytest.param(wire.field(4, wire.field(1, "anyserve_x") + wire.field(1, "k")), False, id="reserved-first"),
        pytest.param(wire.field(4, wire.field(2, b"") + wire.field(1, "anyserve_x")), True, id="value-before-key"),
        pytest.param(wire.field(4, wire.field(3, "anyserve_x") + wire.field(1, "k")), False, id="in-an-unknown-field"),
        pytest.param(entry("k", wire.field(3, "anyserve_x")), False, id="as-a-value"),
    ],
)
def test_key_of_an_entry(agent: Agent, parameter: bytes, reserved: bool) -> None:
    """The last key of an entry is its key."""
    worker, query, _ = queried(agent)
    answer = agent.infer(parameter, query=query)
    answer.expect(StatusCode.INVALID_ARGUMENT if reserved else StatusCode.OK)
    assert len(worker.requests) == (not reserved)


@requirement("frame.scan.choice")
@pytest.mark.parametrize(
    ("value", "asked"),
    [
        pytest.param(b"\x08\x01", True, id="true"),
        pytest.param(b"\x08\x02", True, id="two-is-true"),
        pytest.param(b"\x08\x80\x80\x80\x80\x10", True, id="two-to-the-32-is-true"),
        pytest.param(b"\x08\x00", False, id="false"),
        pytest.param(b"\x10\x01", False, id="number"),
        pytest.param(b"\x10\x01\x08\x01", True, id="true-behind-a-number"),
        pytest.param(b"\x08\x01\x10\x01", False, id="number-behind-true"),
        pytest.param(b"\x08\x01\x08\x00", False, id="false-behind-true"),
        pytest.param(b"\x08\x01\x1a\x00", False, id="empty-text-behind-true"),
        pytest.param(b"\x08\x01\x30\x00", True, id="unknown-field-behind-true"),
        pytest.param(b"", False, id="none"),
    ],
)
def test_choice_of_a_request(agent: Agent, value: bytes, asked: bool) -> None:
    """The last choice of a request's parameter counts: `triton_enable_empty_final_response` shows which that is."""
    _, query, _ = queried(agent)
    stream = agent.stream(query=query).send(entry("triton_enable_empty_final_response", value)).end()
    parameters = wire.parameters_of(stream.receive().response)
    assert parameters == ({"triton_final_response": True} if asked else {}), f"the response has {parameters}"
    stream.answer().expect_ok()


# Any bytes, compared with the suite's own reader


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A message with some bytes replaced, left out, doubled or cut off."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del data[at : at + 1]
            case 2:
                data[at:at] = data[at : at + draw(st.integers(1, 8))]
            case _:
                del data[at:]
    return bytes(data)


def samples(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Some bytes that are messages, nearly messages, or anything."""
    each = st.one_of(st.binary(max_size=30), damaged(whole)).filter(lambda data: b"anyserve_" not in data)
    return st.lists(each, min_size=8, max_size=8)


@requirement("frame.scan.cut", "frame.scan.varint", "frame.scan.tag", "frame.scan.wire-type", "frame.scan.group")
@hypothesis.given(sent=samples(messages.requests))
def test_any_bytes_as_requests(agent: Agent, sent: list[bytes]) -> None:
    """Any bytes are served, or refused with INVALID_ARGUMENT, as the rules for what is malformed have it."""
    _, query, _ = queried(agent)
    for data in sent:
        wanted = StatusCode.OK if is_message(data, REQUEST) else StatusCode.INVALID_ARGUMENT
        answer = agent.infer(data, query=query)
        assert answer.code is wanted, f"{data.hex(' ')} was answered {answer.code.name}, not {wanted.name}"


@requirement("frame.scan.cut", "frame.scan.varint", "frame.scan.tag", "frame.scan.wire-type", "frame.scan.group")
@hypothesis.given(replies=samples(messages.replies))
def test_any_bytes_as_replies(agent: Agent, replies: list[bytes]) -> None:
    """Any bytes are passed on as a reply, or are INTERNAL, as the rules for what is malformed have it."""
    name = agent.name("any")
    worker = agent.workers[0] if agent.workers else agent.worker(name)
    for data in replies:
        worker.answer = lambda _, data=data: data
        wanted = StatusCode.OK if is_message(data, REPLY) else StatusCode.INTERNAL
        answer = agent.infer(name)
        assert answer.code is wanted, f"the reply {data.hex(' ')} came as {answer.code.name}, not {wanted.name}"
