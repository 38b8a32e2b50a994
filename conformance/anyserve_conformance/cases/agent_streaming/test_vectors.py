"""Reply frames from the golden vectors: what is read of them, and what is sent in their place."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError

from anyserve_conformance import vectors
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_streaming.steps import error_code
from anyserve_conformance.client import Stream
from anyserve_conformance.requirement import vector_cases
from anyserve_conformance.scripted_worker import Exchange
from anyserve_conformance.vectors import Vector, as_bytes, as_text

LOOK_AT = "the reader of a worker's reply frame, and what is put together in its place"
EXTENDED = [vector for vector in vectors.load("annotations") if vector.kind == "stream"]
STREAMING = {"model_name": "filled-in", "stream": True}
READ = [vector for vector in vectors.load("scan") if vector.kind == "stream-reply"]


def under_way(agent: Agent, request: bytes, registration: dict[str, Any]) -> tuple[Stream, Exchange]:
    """A call whose request is with a worker. A query finds it, so that the vector may name any model."""
    scope = {"scope": agent.name("vector")}
    fields = {key: value for key, value in registration.items() if key not in ("worker", "capability")}
    own = {key: as_text(value) for key, value in registration.get("capability", {}).items()}
    name, version = as_text(fields.pop("model_name", "")), as_text(fields.pop("model_version", ""))
    worker = agent.worker(name, version, capability={**own, **scope}, **fields)
    stream = agent.stream(query=scope)
    stream.send(request)
    return stream, worker.exchange()


@pytest.mark.parametrize("vector", vector_cases(EXTENDED))
def test_responses(agent: Agent, vector: Vector) -> None:
    """The responses to a worker's reply frames are those of the vector, byte for byte."""
    stream, exchange = under_way(agent, as_bytes(vector["request"]), vector["registration"])
    for reply in vector["replies"]:
        exchange.connection.send_frame(as_bytes(reply))
    if vector["registration"].get("stream"):
        exchange.end()
    responses = [reply.payload for reply in stream.end().replies()]
    assert responses == [as_bytes(response) for response in vector["responses"]], "other bytes came"
    stream.answer().expect_ok()


@pytest.mark.parametrize("vector", vector_cases(vector for vector in READ if "malformed" not in vector))
def test_read(agent: Agent, vector: Vector) -> None:
    """A well-formed reply is passed on, with what was read of it left as it is."""
    stream, exchange = under_way(agent, b"", STREAMING)
    exchange.connection.send_frame(as_bytes(vector["bytes"]))
    reply = stream.receive()
    exchange.end()
    stream.end().answer().expect_ok()
    try:
        _ = reply.message
    except DecodeError:  # tensors that protobuf cannot read, and the agent does not
        assert b"anyserve_error_code" not in reply.payload, "the agent found the reply malformed"
        return
    fields = vector["fields"]
    assert reply.error == as_text(fields.get("error_message", "")), "error_message was read otherwise"
    inner = fields.get("infer_response") or {}
    assert reply.response.model_name == (as_text(inner.get("model_name", "")) or "filled-in")
    assert reply.response.id == as_text(inner.get("id", ""))


@pytest.mark.parametrize("vector", vector_cases(vector for vector in READ if "malformed" in vector))
def test_malformed(agent: Agent, vector: Vector) -> None:
    """A malformed reply fails the request with INTERNAL and ends the connection."""
    stream, exchange = under_way(agent, b"", STREAMING)
    exchange.connection.send_frame(as_bytes(vector["bytes"]))
    assert error_code(stream.receive()) == 13
    exchange.cancelled()
    exchange.close()
    stream.end().answer().expect_ok()
