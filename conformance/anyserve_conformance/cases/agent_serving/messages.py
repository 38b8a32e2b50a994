"""Arbitrary valid messages, written field by field: in any order, repeated, with unknown fields between them."""

from __future__ import annotations

import itertools
import struct

from hypothesis import strategies as st

from anyserve_conformance import wire

__all__ = ["cut", "of_size", "replies", "requests"]

uint64 = st.integers(0, (1 << 64) - 1)
texts = st.text(max_size=20)
contents = st.binary(max_size=300)

infer_parameters = st.one_of(
    st.booleans().map(lambda value: wire.key(1, 0) + wire.varint(value)),
    uint64.map(lambda value: wire.key(2, 0) + wire.varint(value)),
    texts.map(lambda value: wire.field(3, value)),
    st.floats().map(lambda value: wire.key(4, 1) + struct.pack("<d", value)),
    uint64.map(lambda value: wire.key(5, 0) + wire.varint(value)),
    st.just(b""),
)
parameters = st.builds(
    lambda name, value: wire.field(4, wire.field(1, name) + wire.field(2, value)),
    texts.filter(lambda name: not name.startswith("anyserve_")),
    infer_parameters,
)
tensors = st.builds(
    lambda name, shape, data: wire.field(
        5,
        wire.field(1, name)
        + wire.field(2, "UINT8")
        + wire.field(3, b"".join(map(wire.varint, shape)))
        + wire.field(5, wire.field(8, data)),
    ),
    texts,
    st.lists(uint64, max_size=3),
    contents,
)
tomorrow = st.integers(8, (1 << 29) - 1)
unknown = st.one_of(
    st.builds(lambda number, value: wire.key(number, 0) + wire.varint(value), tomorrow, uint64),
    st.builds(lambda number, value: wire.key(number, 1) + value, tomorrow, st.binary(min_size=8, max_size=8)),
    st.builds(lambda number, value: wire.key(number, 5) + value, tomorrow, st.binary(min_size=4, max_size=4)),
    st.builds(wire.field, tomorrow, contents),
)
heads = st.builds(wire.field, st.integers(1, 3), texts)
requested_outputs = texts.map(lambda value: wire.field(6, wire.field(1, value)))
raw_input_contents = contents.map(lambda value: wire.field(7, value))
raw_output_contents = contents.map(lambda value: wire.field(6, value))


def message(*kinds: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Fields of these kinds in any order and number."""
    return st.lists(st.one_of(*kinds), max_size=12).map(b"".join)


requests = message(heads, parameters, tensors, requested_outputs, raw_input_contents, unknown)
"""Any ModelInferRequest, of whatever model; without reserved parameters."""
replies = message(heads, parameters, tensors, raw_output_contents, unknown)
"""Any ModelInferResponse that is no failure reply."""


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Bytes cut into pieces, none of them empty."""
    cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=8))) if len(data) > 1 else []
    return [data[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(data)])]


def of_size(head: bytes, size: int) -> bytes:
    """A message of so many bytes: these, and behind them an unknown field whose length takes three bytes."""
    left = size - len(head) - 5
    length = bytes((left & 0x7F | 0x80, left >> 7 & 0x7F | 0x80, left >> 14))
    return head + wire.key(1000, 2) + length + bytes(left)
