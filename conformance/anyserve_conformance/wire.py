"""Bytes by hand: protobuf fields, frames, requests and replies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError, Message

from anyserve_conformance import proto

__all__ = [
    "Parameter",
    "capability_text",
    "decoded",
    "field",
    "frame",
    "key",
    "parameters_of",
    "query_metadata",
    "raw_bytes",
    "reply",
    "request",
    "stream_reply",
    "varint",
]

Parameter = bool | int | str | float

MAX_DECODED = 1 << 16

MAX_SHOWN = 16_384
"""Bytes of a message that is written out in a transcript: text of greater ones takes longer than the case."""

_ENCODED = re.compile(r"[^\x20-\x24\x26-\x7e]")  # and '%' itself


def varint(value: int) -> bytes:
    """A protobuf varint, as short as it can be."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def key(number: int, wire_type: int) -> bytes:
    """A field's tag."""
    return varint(number << 3 | wire_type)


def field(number: int, payload: bytes | str) -> bytes:
    """A string, bytes or sub-message field."""
    data = payload.encode() if isinstance(payload, str) else payload
    return key(number, 2) + varint(len(data)) + data


def frame(payload: bytes | Message = b"") -> bytes:
    """A frame: four bytes of length, big-endian, and the payload."""
    data = raw_bytes(payload)
    return len(data).to_bytes(4, "big") + data


def raw_bytes(message: bytes | Message) -> bytes:
    """A message as it stands on the wire."""
    return message.SerializeToString() if isinstance(message, Message) else message


def request(name: str = "", version: str = "", *, request_id: str = "", raw: bytes = b"", **parameters: Any) -> Any:
    """A ModelInferRequest; `raw` is its only tensor (UINT8 `in`), if there is any."""
    message = proto.ModelInferRequest(model_name=name, model_version=version, id=request_id)
    if raw:
        message.inputs.add(name="in", datatype="UINT8", shape=[len(raw)])
        message.raw_input_contents.append(raw)
    _set_parameters(message, parameters)
    return message


def reply(name: str = "", version: str = "", *, request_id: str = "", raw: bytes = b"", **parameters: Any) -> Any:
    """A ModelInferResponse; `raw` is its only tensor (UINT8 `out`), if there is any."""
    message = proto.ModelInferResponse(model_name=name, model_version=version, id=request_id)
    if raw:
        message.outputs.add(name="out", datatype="UINT8", shape=[len(raw)])
        message.raw_output_contents.append(raw)
    _set_parameters(message, parameters)
    return message


def stream_reply(*, error: str = "", raw: bytes = b"", request_id: str = "", **parameters: Any) -> Any:
    """A ModelStreamInferResponse; with an error alone it has no `infer_response`."""
    message = proto.ModelStreamInferResponse(error_message=error)
    if raw or request_id or parameters or not error:
        message.infer_response.CopyFrom(reply(raw=raw, request_id=request_id, **parameters))
    return message


def _set_parameters(message: Any, parameters: Mapping[str, Parameter]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        elif isinstance(value, int):
            message.parameters[name].int64_param = value
        elif isinstance(value, str):
            message.parameters[name].string_param = value
        else:
            message.parameters[name].double_param = value


def parameters_of(message: Any) -> dict[str, Parameter]:
    """The parameters that have a value."""
    values: dict[str, Parameter] = {}
    for name, value in message.parameters.items():
        if choice := value.WhichOneof("parameter_choice"):
            values[name] = getattr(value, choice)
    return values


def query_metadata(query: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A capability query as `x-cap-<key>` metadata, percent-encoded as `route.query.client` has it."""
    return tuple((f"x-cap-{name}", _encoded_pattern(pattern)) for name, pattern in query.items())


def _encoded_pattern(pattern: str) -> str:
    inner = pattern.strip(" ")
    start = len(pattern) - len(pattern.lstrip(" "))
    text = _ENCODED.sub(lambda match: "".join(f"%{byte:02X}" for byte in match.group().encode()), inner)
    return "%20" * start + text + "%20" * (len(pattern) - len(inner) - start)


def capability_text(capability: Mapping[str, str]) -> str:
    """A capability as `anyserve_capability` has it (`route.capability.encoding`)."""
    return ",".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(capability.items()))


def decoded(message_class: Any, payload: bytes) -> str:
    """Bytes as the text of a message; says so when they are none."""
    if len(payload) > MAX_SHOWN:
        return f"({len(payload)} bytes, for a {message_class.DESCRIPTOR.name})"
    try:
        return str(message_class.FromString(payload)).strip() or "(empty)"
    except DecodeError:
        return f"(not a {message_class.DESCRIPTOR.name})"
