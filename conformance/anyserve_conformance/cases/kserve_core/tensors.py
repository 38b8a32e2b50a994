"""Contents of tensors as plain values, by datatype, in both forms that the protocol has for them."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from anyserve_conformance import proto
from anyserve_conformance.client import Answer, Client
from anyserve_conformance.fixtures import Model
from anyserve_conformance.requirement import not_applicable
from anyserve_conformance.subjects import TensorSpec

__all__ = [
    "FIXED_SIZE",
    "TYPED_FIELD",
    "Output",
    "default_values",
    "elements",
    "identity_outputs",
    "output_names",
    "outputs_of",
    "packed",
    "refused",
    "request",
    "same",
    "shape_of",
    "with_version",
]

Value = bool | int | float | bytes

FIXED_SIZE: Mapping[str, str] = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""Datatype -> format of one element for `struct`; BYTES is the one that is missing."""

_FORMATS = {**FIXED_SIZE, "BF16": "H"}  # Triton's; its values are the bits
_BF16_ONE = 0x3F80

TYPED_FIELD: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> field of InferTensorContents; FP16 has none and is always raw."""


@dataclass(frozen=True)
class Output:
    """One tensor of a reply; its contents are looked at when they are asked for."""

    name: str
    datatype: str
    shape: Sequence[int]
    contents: Any
    raw: bytes | None

    @functools.cached_property
    def values(self) -> list[Value]:
        """The elements.

        Raises:
            AssertionError: they do not fit the datatype and the shape.
        """
        name, datatype = self.name, self.datatype
        assert datatype in _FORMATS or datatype == "BYTES", f"output {name!r} has the unknown datatype {datatype!r}"
        if self.raw is not None:
            values = _unpacked_bytes(name, self.raw) if datatype == "BYTES" else _unpacked(name, datatype, self.raw)
        else:
            assert datatype in TYPED_FIELD, f"output {name!r} has the datatype {datatype} and no raw contents"
            values = list(getattr(self.contents, TYPED_FIELD[datatype]))
        assert len(values) == elements(self.shape), (
            f"output {name!r} has {len(values)} elements, and {elements(self.shape)} by its shape {self.shape}"
        )
        return values


# Requests


def with_version(models: Sequence[Model]) -> list[Model]:
    """The models that have a version; without any, the case does not apply."""
    found = [model for model in models if model.version]
    if not found:
        not_applicable("no model was given with a version")
    return found


def shape_of(spec: TensorSpec, wanted: int = 3) -> list[int]:
    """A shape that the description allows, if it can be with `wanted` elements: its first -1 is used for that."""
    known = math.prod(size for size in spec.shape if size != -1)
    free = [max(1, wanted // max(1, known)), *(1 for _ in spec.shape)]
    return [free.pop(0) if size == -1 else size for size in spec.shape]


def elements(shape: Sequence[int]) -> int:
    """How many elements a tensor of this shape has."""
    return math.prod(shape)


def default_values(datatype: str, count: int, place: int = 0) -> list[Value]:
    """Values unlike their neighbours, and unlike those of an input at another place."""
    numbers = range(7 * place, 7 * place + count)
    if datatype == "BYTES":
        return [b"%d" % number for number in numbers]
    if datatype == "BOOL":
        return [number % 3 == 0 for number in numbers]
    if datatype == "BF16":
        return [_BF16_ONE + number % 100 for number in numbers]
    return [number % 100 for number in numbers]


def packed(datatype: str, values: Sequence[Value]) -> bytes:
    """Raw contents."""
    if datatype == "BYTES":
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)  # type: ignore[arg-type,operator]
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)


def request(
    model: Model,
    values: Mapping[str, Sequence[Value]] | None = None,
    *,
    typed: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    **fields: Any,
) -> Any:
    """A request with these values of the inputs named, and some values of the others.

    Args:
        typed: in `contents` rather than in `raw_input_contents`.
        shapes: of inputs; otherwise as many elements as there are values, if the description allows it.
        fields: of the message.
    """
    values, shapes = values or {}, shapes or {}
    message = proto.ModelInferRequest(model_name=model.name, model_version=model.version, **fields)
    for place, spec in enumerate(model.inputs):
        shape = shapes.get(spec.name) or shape_of(spec, len(values.get(spec.name, ())) or 3)
        given = values.get(spec.name) or default_values(spec.datatype, elements(shape), place)
        tensor = message.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        if typed:
            getattr(tensor.contents, TYPED_FIELD[spec.datatype]).extend(given)
        else:
            message.raw_input_contents.append(packed(spec.datatype, given))
    return message


# Replies


def outputs_of(response: Any) -> list[Output]:
    """The outputs in their order, of a reply in whichever form.

    Raises:
        AssertionError: there are raw contents, but not for each output.
    """
    raw, tensors = response.raw_output_contents, response.outputs
    if raw:
        assert len(raw) == len(tensors), f"{len(raw)} entries in raw_output_contents for {len(tensors)} outputs"
    return [
        Output(tensor.name, tensor.datatype, list(tensor.shape), tensor.contents, raw[place] if raw else None)
        for place, tensor in enumerate(tensors)
    ]


def identity_outputs(model: Model, response: Any) -> dict[str, Output]:
    """Input -> the output that is its copy: the one of its name, or else the one at its place.

    Raises:
        AssertionError: there are not as many outputs as inputs.
    """
    outputs = {output.name: output for output in outputs_of(response)}
    wanted = len(model.inputs)
    assert len(outputs) == wanted, f"{len(outputs)} outputs for the {wanted} inputs of {model.name!r}"
    return {name: outputs[output] for name, output in output_names(model, response).items()}


def output_names(model: Model, response: Any) -> dict[str, str]:
    """Input -> the name of the output that is its copy."""
    names = [output.name for output in response.outputs]
    return {spec.name: spec.name if spec.name in names else names[place] for place, spec in enumerate(model.inputs)}


def _unpacked(name: str, datatype: str, raw: bytes) -> list[Value]:
    size = struct.calcsize(f"<{_FORMATS[datatype]}")
    assert len(raw) % size == 0, f"output {name!r} has {len(raw)} raw bytes, no multiple of the {size} of a {datatype}"
    if datatype == "BOOL":
        assert not raw.strip(b"\0\1"), f"output {name!r} has a BOOL that is neither 0 nor 1: {raw.hex(' ')}"
    return list(struct.unpack(f"<{len(raw) // size}{_FORMATS[datatype]}", raw))


def _unpacked_bytes(name: str, raw: bytes) -> list[Value]:
    values: list[Value] = []
    at = 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        assert at + 4 + length <= len(raw), f"output {name!r} ends within an element of BYTES"
        values.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return values


def same(sent: Sequence[Value], received: Sequence[Value]) -> bool:
    """The values are equal; a NaN is equal to any NaN, and 0.0 is not to -0.0."""
    return len(sent) == len(received) and all(map(_same, sent, received))


def _same(sent: Value, received: Value) -> bool:
    if isinstance(sent, float) and isinstance(received, float):
        if math.isnan(sent):
            return math.isnan(received)
        return sent == received and math.copysign(1, sent) == math.copysign(1, received)
    return sent == received


def refused(client: Client, answer: Answer, what: str) -> None:
    """The call failed, and not because the server did: that goes on answering.

    Raises:
        AssertionError: one of the two is not so.
    """
    assert answer.code is not grpc.StatusCode.OK, f"{what} was answered with OK"
    after = client.call("ServerLive")
    assert after.code is grpc.StatusCode.OK, f"after {what} ServerLive ended with {after.code.name}: {after.details}"
