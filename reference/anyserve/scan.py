"""Reads the few protobuf fields an agent needs and leaves the rest alone. Pure.

A request is forwarded as the bytes it came in; of it the agent reads only the
model's name and version, the id and the parameters. Of a reply it reads the same
and whether it is an error. What the agent adds, it appends: protobuf merges
concatenated messages (the last value of a singular field wins, maps and
sub-messages merge). Rules: spec `frame.request.*`, `frame.reply.*`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = [
    "REQUEST_FIELDS",
    "RESPONSE_FIELDS",
    "MalformedMessage",
    "MessageHead",
    "Parameter",
    "StreamReply",
    "extend_response",
    "parameter_bytes",
    "scan_message",
    "scan_stream_reply",
    "string_field",
    "submessage_field",
]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
REQUEST_FIELDS, RESPONSE_FIELDS = 7, 6

Parameter = bool | int | str | float
"""The value of an InferParameter; None where none of its choices is set."""


class MalformedMessage(ValueError):
    """The bytes are not the protobuf message that they should be."""


@dataclass(slots=True)
class MessageHead:
    """What the agent reads of a ModelInferRequest or a ModelInferResponse (fields 1 to 4 are alike)."""

    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Parameter | None] = field(default_factory=dict)
    tensors: bool = False  # a response has outputs, a request inputs


@dataclass(slots=True)
class StreamReply:
    """What the agent reads of a ModelStreamInferResponse."""

    error_message: str = ""
    response: MessageHead | None = None
    parts: tuple[tuple[int, int, int], ...] = ()
    """Where `infer_response` stands: begin of the field, begin and end of its payload."""


_FIXED_SIZE = {FIXED64: 8, FIXED32: 4}


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if result >= 1 << 64:
                raise MalformedMessage("a varint does not fit in 64 bits")
            return result, position
        shift += 7
        if shift >= 70:
            raise MalformedMessage("a varint is longer than 10 bytes")
    raise MalformedMessage("a varint is cut off")


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (field number, wire type, start, stop); for a varint `start` is its value."""
    while position < end:
        tag = data[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = _varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag >= 1 << 32:
            raise MalformedMessage("a field number is out of range")
        if wire_type == LENGTH:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise MalformedMessage(f"field {number} is cut off")
            yield number, wire_type, position, position + length
            position += length
        elif wire_type == VARINT:
            value, position = _varint(data, position, end)
            yield number, wire_type, value, position
        elif wire_type in _FIXED_SIZE:
            size = _FIXED_SIZE[wire_type]
            if size > end - position:
                raise MalformedMessage(f"field {number} is cut off")
            yield number, wire_type, position, position + size
            position += size
        else:
            raise MalformedMessage(f"field {number} has wire type {wire_type}, which proto3 does not use")


def _text(data: bytes, start: int, stop: int, name: str) -> str:
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError:
        raise MalformedMessage(f"{name} is not UTF-8") from None


def _parameter_value(data: bytes, start: int, stop: int) -> Parameter | None:
    """Reads an InferParameter; the last choice that stands in it wins, as protobuf has it."""
    value: Parameter | None = None
    for number, wire_type, first, last in _fields(data, start, stop):
        if not 1 <= number <= 5:
            continue
        if wire_type != _PARAMETER_WIRE_TYPE[number]:
            raise MalformedMessage(f"InferParameter field {number} has wire type {wire_type}")
        if number == 1:
            value = first != 0
        elif number == 2:
            value = first - (1 << 64) if first >= 1 << 63 else first
        elif number == 3:
            value = _text(data, first, last, "a string parameter")
        elif number == 4:
            value = float(struct.unpack_from("<d", data, first)[0])
        else:
            value = first
    return value


_PARAMETER_WIRE_TYPE = {1: VARINT, 2: VARINT, 3: LENGTH, 4: FIXED64, 5: VARINT}


def _parameter_entry(data: bytes, start: int, stop: int, parameters: dict[str, Parameter | None]) -> None:
    key = ""
    value: Parameter | None = None
    for number, wire_type, first, last in _fields(data, start, stop):
        if number in (1, 2) and wire_type != LENGTH:
            raise MalformedMessage(f"a parameters entry's field {number} has wire type {wire_type}")
        if number == 1:
            key = _text(data, first, last, "a parameter's name")
        elif number == 2:
            again = _parameter_value(data, first, last)
            value = value if again is None else again  # a value that stands twice is merged
    parameters[key] = value


def scan_message(
    data: bytes,
    start: int = 0,
    stop: int | None = None,
    *,
    fields: int = RESPONSE_FIELDS,
    head: MessageHead | None = None,
) -> MessageHead:
    """Reads fields 1 to 4 of a ModelInferRequest or ModelInferResponse.

    Args:
        data: the message, or a message that it is part of.
        start: where it begins.
        stop: where it ends.
        fields: how many fields the message defines, all of them length-delimited.
        head: what an earlier part of the same message said; it is read on into this.

    Raises:
        MalformedMessage: the top level, or one of these fields, is not well formed.
    """
    head = head or MessageHead()
    for number, wire_type, first, last in _fields(data, start, len(data) if stop is None else stop):
        if number > fields:
            continue
        if wire_type != LENGTH:
            raise MalformedMessage(f"field {number} has wire type {wire_type}")
        if number == 1:
            head.model_name = _text(data, first, last, "model_name")
        elif number == 2:
            head.model_version = _text(data, first, last, "model_version")
        elif number == 3:
            head.id = _text(data, first, last, "id")
        elif number == 4:
            _parameter_entry(data, first, last, head.parameters)
        elif number == 5:
            head.tensors = True
    return head


def scan_stream_reply(data: bytes) -> StreamReply:
    """Reads a ModelStreamInferResponse, and of its `infer_response` what `scan_message` reads.

    Raises:
        MalformedMessage: the bytes are not such a message.
    """
    reply = StreamReply()
    begin = 0
    for number, wire_type, first, last in _fields(data, 0, len(data)):
        if number <= 2 and wire_type != LENGTH:
            raise MalformedMessage(f"field {number} has wire type {wire_type}")
        if number == 1:
            reply.error_message = _text(data, first, last, "error_message")
        elif number == 2:
            reply.parts += ((begin, first, last),)
        begin = last
    for _, first, last in reply.parts:  # a singular sub-message that stands twice is merged, each whole by itself
        reply.response = scan_message(data, first, last, head=reply.response)
    return reply


def extend_response(data: bytes, reply: StreamReply, fields: bytes) -> bytes:
    """A ModelStreamInferResponse with `fields` added to its one `infer_response`.

    Not appended as a second `infer_response`, which protobuf would merge: protobuf.js,
    under the gRPC clients of Node.js, takes the last one instead.
    """
    rest: list[bytes] = []
    response: list[bytes] = []
    end = 0
    for begin, first, last in reply.parts:
        rest.append(data[end:begin])
        response.append(data[first:last])
        end = last
    rest.append(data[end:])
    return b"".join(rest) + submessage_field(2, b"".join(response) + fields)


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def submessage_field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _encode_varint(number << 3 | LENGTH) + _encode_varint(len(payload)) + payload


def string_field(number: int, text: str) -> bytes:
    """A string field."""
    return submessage_field(number, text.encode())


def parameter_bytes(name: str, value: Parameter) -> bytes:
    """An entry of `parameters` (field 4), to append to a request or a response."""
    if isinstance(value, bool):
        choice = bytes((1 << 3 | VARINT, value))
    elif isinstance(value, int):
        choice = bytes((2 << 3 | VARINT,)) + _encode_varint(value % (1 << 64))
    elif isinstance(value, str):
        choice = string_field(3, value)
    else:
        choice = bytes((4 << 3 | FIXED64,)) + struct.pack("<d", value)
    return submessage_field(4, string_field(1, name) + submessage_field(2, choice))
