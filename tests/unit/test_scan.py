"""The protobuf scan against protobuf itself, and against bytes that are no message."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.scan import REQUEST_FIELDS, Parameter, string_field, submessage_field
from support.policies import Policy

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
PARAMETERS: st.SearchStrategy[dict[str, Parameter]] = st.dictionaries(
    TEXT, st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | TEXT | st.floats(allow_nan=False), max_size=4
)


def set_parameters(message: pb.ModelInferRequest | pb.ModelInferResponse, parameters: dict[str, Parameter]) -> None:
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[name], kind, value)


@given(st.tuples(TEXT, TEXT, TEXT), PARAMETERS, st.lists(st.binary(max_size=30), max_size=3))
def test_reads_what_protobuf_wrote(
    policy: Policy, texts: tuple[str, str, str], parameters: dict[str, Parameter], raw: list[bytes]
) -> None:
    name, version, id_ = texts
    message = pb.ModelInferRequest(model_name=name, model_version=version, id=id_, raw_input_contents=raw)
    set_parameters(message, parameters)
    head = policy.scan_message(message.SerializeToString(), fields=REQUEST_FIELDS)
    assert (head.model_name, head.model_version, head.id, head.parameters) == (name, version, id_, parameters)


@given(TEXT, PARAMETERS)
def test_what_is_appended_is_merged_by_protobuf(policy: Policy, name: str, parameters: dict[str, Parameter]) -> None:
    payload = pb.ModelInferRequest(model_name="before", id="7").SerializeToString()
    payload += string_field(1, name) + b"".join(policy.parameter_bytes(k, v) for k, v in parameters.items())
    merged = pb.ModelInferRequest.FromString(payload)
    wanted = pb.ModelInferRequest(model_name=name, id="7")
    set_parameters(wanted, parameters)
    assert merged == wanted
    assert policy.scan_message(payload).parameters == parameters


@given(st.binary(max_size=60))
def test_never_accepts_a_top_level_that_protobuf_refuses(policy: Policy, data: bytes) -> None:
    try:
        policy.scan_message(data, fields=REQUEST_FIELDS)
    except policy.MalformedMessage:
        return
    try:
        pb.ModelInferRequest.FromString(data)
    except DecodeError:
        # Inside a tensor (fields 5 to 7) protobuf sees more than the scan reads; groups it may accept, we never do.
        tensors = [n for n, start, stop in _top_level(data) if n in (5, 6)]
        assert tensors, data.hex()


def _top_level(data: bytes) -> list[tuple[int, int, int]]:
    from anyserve.scan import _fields

    return [(number, start, stop) for number, _, start, stop in _fields(data, 0, len(data))]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a", "cut off"),
        (b"\x0a\x05abc", "field 1 is cut off"),
        (b"\x0a\x02\xff\xfe", "model_name is not UTF-8"),
        (b"\x08\x01", "field 1 has wire type 0"),
        (b"\x3d\0\0\0\0", "field 7 has wire type 5"),
        (b"\x0b", "wire type 3"),
        (b"\x00", "field number"),
        (b"\xff" * 10 + b"\x01", "varint"),
        (b"\x0a" + b"\xff" * 9 + b"\x7f", "varint"),
        (b"\x45\0\0\0", "field 8 is cut off"),
        (b"\x22\x02\x08\x01", "parameters"),
        (b"\x22\x06\x0a\x01a\x12\x01\x0a", "cut off"),
        (b"\x22\x07\x0a\x01a\x12\x02\x0a\x00", "InferParameter"),
    ],
)
def test_names_what_is_malformed(policy: Policy, data: bytes, said: str) -> None:
    with pytest.raises(policy.MalformedMessage, match=said):
        policy.scan_message(data, fields=REQUEST_FIELDS)


def test_unknown_fields_are_skipped_whatever_their_wire_type(policy: Policy) -> None:
    unknown = b"\x78\x01" + b"\x7a\x01x" + b"\x7d\0\0\0\0" + b"\x79" + bytes(8)
    assert policy.scan_message(unknown + string_field(3, "7")).id == "7"


def test_the_last_of_duplicates_wins(policy: Policy) -> None:
    data = (
        string_field(1, "a")
        + string_field(1, "b")
        + policy.parameter_bytes("p", 1)
        + policy.parameter_bytes("p", "two")
    )
    head = policy.scan_message(data)
    assert (head.model_name, head.parameters) == ("b", {"p": "two"})


def test_uint64_parameter_above_int64(policy: Policy) -> None:
    message = pb.ModelInferRequest()
    message.parameters["n"].uint64_param = (1 << 64) - 1
    assert policy.scan_message(message.SerializeToString(), fields=REQUEST_FIELDS).parameters == {"n": (1 << 64) - 1}


def test_stream_reply_merges_a_response_that_stands_twice(policy: Policy) -> None:
    first = pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id="1", model_name="a"))
    second = pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(model_name="b"), error_message="no")
    reply = policy.scan_stream_reply(first.SerializeToString() + second.SerializeToString())
    assert reply.error_message == "no"
    assert reply.response is not None
    assert (reply.response.id, reply.response.model_name) == ("1", "b")


def test_stream_reply_refuses_wrong_wire_types(policy: Policy) -> None:
    with pytest.raises(policy.MalformedMessage, match="field 2"):
        policy.scan_stream_reply(b"\x10\x01")
    with pytest.raises(policy.MalformedMessage, match="field 1"):
        policy.scan_stream_reply(submessage_field(2, b"\x08\x01"))
