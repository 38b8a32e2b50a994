"""Any bytes and any messages: what one implementation reads and writes the other does, and protobuf agrees."""

from __future__ import annotations

import struct
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from anyserve.scan import REQUEST_FIELDS, RESPONSE_FIELDS
from anyserve_conformance.cases.agent_serving import messages
from anyserve_conformance.wire import field, key, varint
from support.examples import examples
from support.policies import Policy
from support.same import same

Both = tuple[Policy, Policy]

numbers = st.integers(0, 9)
lengths = st.one_of(st.integers(0, 12), st.integers(0, (1 << 70) - 1))
pieces = st.one_of(
    st.builds(key, numbers, st.integers(0, 7)),
    st.builds(lambda number, length: key(number, 2) + varint(length), numbers, lengths),
    lengths.map(varint),
    st.builds(field, numbers, st.binary(max_size=8)),
    st.builds(lambda inner: field(4, inner), st.lists(st.builds(field, numbers, st.binary(max_size=6))).map(b"".join)),
    st.binary(max_size=4),
)
nearly = st.lists(pieces, max_size=8).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """A message that is cut off, has a byte changed, or is good."""
    data = draw(good)
    if not data or (place := draw(st.integers(0, 2 * len(data)))) >= len(data):
        return data
    byte = draw(st.one_of(st.none(), st.binary(min_size=1, max_size=1)))
    return data[:place] if byte is None else data[:place] + byte + data[place + 1 :]


def comparable(head: Any) -> Any:
    """Tells 1 from True and 1.0, and finds NaN equal to itself."""
    values = {
        name: (type(value), struct.pack("<d", value) if isinstance(value, float) else value)
        for name, value in head.parameters.items()
    }
    return head.model_name, head.model_version, head.id, values, head.tensors


@examples(500)
@given(st.one_of(nearly, damaged(messages.requests)), st.sampled_from([REQUEST_FIELDS, RESPONSE_FIELDS]))
def test_messages(both: Both, data: bytes, fields: int) -> None:
    same(both, lambda policy: comparable(policy.scan_message(data, fields=fields)))


@examples(100)
@given(messages.requests)
def test_good_messages_are_read_as_protobuf_reads_them(both: Both, data: bytes) -> None:
    head = same(both, lambda policy: comparable(policy.scan_message(data, fields=REQUEST_FIELDS)))
    message = ModelInferRequest.FromString(data)
    assert head[:3] == (message.model_name, message.model_version, message.id)
    assert {*head[3]} == {*message.parameters}
    assert head[4] == bool(message.inputs)


stream_replies = st.lists(
    st.one_of(
        messages.replies.map(lambda reply: field(2, reply)), st.text(max_size=5).map(lambda text: field(1, text))
    ),
    max_size=4,
).map(b"".join)
whole_replies = st.tuples(stream_replies, st.lists(messages.unknown, max_size=2).map(b"".join)).map(b"".join)


@examples(500)
@given(st.one_of(nearly, nearly.map(lambda data: field(2, data)), damaged(whole_replies)), st.binary(max_size=8))
def test_stream_replies(both: Both, data: bytes, added: bytes) -> None:
    def read(policy: Policy) -> Any:
        reply = policy.scan_stream_reply(data)
        response = reply.response and comparable(reply.response)
        return reply.error_message, response, reply.parts, policy.extend_response(data, reply, added)

    same(both, read)


@examples(100)
@given(whole_replies, st.text(max_size=5))
def test_what_extends_a_stream_reply_is_merged_into_it(both: Both, data: bytes, name: str) -> None:
    def extended(policy: Policy) -> bytes:
        reply: bytes = policy.extend_response(data, policy.scan_stream_reply(data), field(1, name))
        return reply

    wanted = ModelStreamInferResponse.FromString(data)
    wanted.infer_response.MergeFrom(ModelInferResponse(model_name=name))
    wanted.infer_response.model_name = name  # merging would leave out an empty one
    got = ModelStreamInferResponse.FromString(same(both, extended))
    assert got.SerializeToString(deterministic=True) == wanted.SerializeToString(deterministic=True)


values = st.one_of(st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(), st.text(max_size=200))


@examples(200)
@given(st.text(max_size=200), values)
def test_parameters_are_written(both: Both, name: str, value: Any) -> None:
    same(both, lambda policy: policy.parameter_bytes(name, value))


@examples(50)
@given(st.integers(1, (1 << 29) - 1), st.binary(max_size=200))
def test_fields_are_written(both: Both, number: int, payload: bytes) -> None:
    assert same(both, lambda policy: policy.submessage_field(number, payload)) == field(number, payload)


@examples(200)
@given(nearly)
def test_what_protobuf_refuses_is_refused_or_within_a_tensor(both: Both, data: bytes) -> None:
    try:
        ModelInferRequest.FromString(data)
    except DecodeError:
        head = same(both, lambda policy: comparable(policy.scan_message(data, fields=REQUEST_FIELDS)))
        assert isinstance(head, str) or head[4] or key(6, 2) in data
