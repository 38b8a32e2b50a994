"""Each vector of scan.json through the agent's reading of protobuf, and through protobuf itself."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.scan import REQUEST_FIELDS, MessageHead, Parameter
from anyserve_conformance.vectors import Vector, as_bytes, as_text, load
from support.policies import Policy

SCAN = load("scan")
WELL_FORMED = [vector for vector in SCAN if "fields" in vector]
MALFORMED = [vector for vector in SCAN if vector.get("malformed") is True]
CUTS = [vector for vector in WELL_FORMED if "whole_at" in vector]

# Valid by protobuf's encoding and by the spec, and yet not read so by upb, under protobuf's Python.
STRICTER_PROTOBUF = {
    "tag-of-ten-bytes": "upb takes tags of 5 bytes at most",
    "length-of-ten-bytes": "upb takes lengths of 5 bytes at most",
    "unknown-field-in-an-entry": "upb takes the whole entry for an unknown field",
}

MESSAGES: Mapping[str, type[Message]] = {
    "request": pb.ModelInferRequest,
    "reply": pb.ModelInferResponse,
    "stream-reply": pb.ModelStreamInferResponse,
}


def parametrized(vectors: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [pytest.param(vector, id=vector.name) for vector in vectors])


def parameter_of(written: Mapping[str, Any]) -> Parameter | None:
    """The value of a parameter, in protobuf's JSON: integers of 64 bits are texts, and so are NaN and infinity."""
    if not written:
        return None
    [(choice, value)] = written.items()
    if choice in ("int64_param", "uint64_param"):
        assert isinstance(value, str)
        return int(value)
    if choice == "double_param":
        return float(value)
    if choice == "bool_param":
        assert isinstance(value, bool)
        return value
    assert choice == "string_param", choice
    return as_text(value)


def head_of(fields: Mapping[str, Any]) -> MessageHead:
    name, version, id_ = (as_text(fields.get(key, "")) for key in ("model_name", "model_version", "id"))
    parameters = {name: parameter_of(value) for name, value in fields.get("parameters", {}).items()}
    return MessageHead(name, version, id_, parameters)


def comparable(head: MessageHead) -> tuple[Any, ...]:
    """Tells 1 from True and 1.0, 0.0 from -0.0, and finds NaN equal to itself."""
    values = {
        name: (type(value), struct.pack("<d", value) if isinstance(value, float) else value)
        for name, value in head.parameters.items()
    }
    return head.model_name, head.model_version, head.id, values


def scan(policy: Policy, kind: str, data: bytes) -> tuple[Any, ...]:
    """What an agent reads."""
    if kind == "request":
        return comparable(policy.scan_message(data, fields=REQUEST_FIELDS))
    if kind == "reply":
        return comparable(policy.scan_message(data))
    reply = policy.scan_stream_reply(data)
    return reply.error_message, reply.response and comparable(reply.response)


def wanted(vector: Vector) -> tuple[Any, ...]:
    fields = vector["fields"]
    if vector.kind != "stream-reply":
        return comparable(head_of(fields))
    response = fields.get("infer_response")
    return as_text(fields.get("error_message", "")), None if response is None else comparable(head_of(response))


def test_each_vector_is_well_formed_or_malformed_and_says_which() -> None:
    assert len(WELL_FORMED) + len(MALFORMED) == len(SCAN)
    assert all("malformed" not in vector for vector in WELL_FORMED)
    assert all("whole_at" not in vector for vector in MALFORMED)
    assert {*STRICTER_PROTOBUF} <= {vector.name for vector in SCAN}


@parametrized(WELL_FORMED)
def test_is_read(policy: Policy, vector: Vector) -> None:
    assert scan(policy, vector.kind, as_bytes(vector["bytes"])) == wanted(vector)


@parametrized(WELL_FORMED)
def test_is_read_with_unknown_fields_around(policy: Policy, vector: Vector) -> None:
    unknown = bytes.fromhex("7801 7a0161 7d00000000 790000000000000000")
    assert scan(policy, vector.kind, unknown + as_bytes(vector["bytes"]) + unknown) == wanted(vector)


@parametrized(MALFORMED)
def test_is_refused(policy: Policy, vector: Vector) -> None:
    with pytest.raises(policy.MalformedMessage):
        scan(policy, vector.kind, as_bytes(vector["bytes"]))


@parametrized(MALFORMED)
def test_is_refused_behind_a_good_field(policy: Policy, vector: Vector) -> None:
    with pytest.raises(policy.MalformedMessage):
        scan(policy, vector.kind, bytes.fromhex("7a0161") + as_bytes(vector["bytes"]))


@parametrized(CUTS)
def test_is_malformed_wherever_it_is_cut_within_a_field(policy: Policy, vector: Vector) -> None:
    data, whole_at = as_bytes(vector["bytes"]), vector["whole_at"]
    assert whole_at[-1] == len(data)
    for size in range(len(data) + 1):
        if size in whole_at:
            scan(policy, vector.kind, data[:size])
        else:
            with pytest.raises(policy.MalformedMessage):
                scan(policy, vector.kind, data[:size])


@parametrized([vector for vector in WELL_FORMED if vector.name not in STRICTER_PROTOBUF])
def test_protobuf_reads_the_same_where_it_looks_no_deeper(vector: Vector) -> None:
    """The vectors are right: protobuf itself agrees, but for tensors, into which the agent does not look."""
    message = MESSAGES[vector.kind]()
    try:
        message.ParseFromString(as_bytes(vector["bytes"]))
    except DecodeError:
        assert vector.requirement == "frame.scan.depth" or "tensor" in vector.name
        return
    if isinstance(message, pb.ModelStreamInferResponse):
        response = comparable(read_by_protobuf(message.infer_response)) if message.HasField("infer_response") else None
        assert (message.error_message, response) == wanted(vector)
    else:
        assert comparable(read_by_protobuf(message)) == wanted(vector)


def read_by_protobuf(message: Any) -> MessageHead:
    head = MessageHead(message.model_name, message.model_version, message.id)
    for name, parameter in message.parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        head.parameters[name] = getattr(parameter, choice) if choice else None
    return head


@parametrized([vector for vector in MALFORMED if vector.requirement in ("frame.scan.cut", "frame.scan.utf8")])
def test_protobuf_refuses_what_is_cut_or_no_text(vector: Vector) -> None:
    with pytest.raises(DecodeError):
        MESSAGES[vector.kind].FromString(as_bytes(vector["bytes"]))


def test_nan_is_compared_as_a_number() -> None:
    assert comparable(MessageHead(parameters={"k": math.nan})) == comparable(MessageHead(parameters={"k": math.nan}))
