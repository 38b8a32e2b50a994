"""Frames, fed whole, byte by byte, split anywhere and with more behind them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.policies import Policy

LIMIT = 1000


def stream_of(payloads: list[bytes]) -> bytes:
    return b"".join(len(p).to_bytes(4, "big") + p for p in payloads)


def fed(decoder: Any, *chunks: bytes) -> list[bytes]:
    return [frame for chunk in chunks for frame in decoder.feed(chunk)]


def test_header_is_four_bytes_big_endian(policy: Policy) -> None:
    assert policy.encode_header(0x01020304) == b"\x01\x02\x03\x04"
    assert policy.encode_header(0) == b"\0\0\0\0"


def test_header_refuses_what_does_not_fit(policy: Policy) -> None:
    with pytest.raises(policy.FrameTooLong):
        policy.encode_header(1 << 32)


@given(st.lists(st.binary(max_size=50), max_size=6), st.data())
def test_frames_come_out_however_the_stream_was_split(
    policy: Policy, payloads: list[bytes], data: st.DataObject
) -> None:
    stream = stream_of(payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    decoder = policy.decoder(LIMIT)
    assert fed(decoder, *chunks) == payloads
    assert not decoder.unfinished


def test_byte_by_byte(policy: Policy) -> None:
    stream = stream_of([b"abc", b"", b"d"])
    assert fed(policy.decoder(LIMIT), *(stream[n : n + 1] for n in range(len(stream)))) == [b"abc", b"", b"d"]


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_cut_stream_is_unfinished_and_yields_nothing(policy: Policy, cut: int) -> None:
    decoder = policy.decoder(LIMIT)
    assert decoder.feed(stream_of([b"abc"])[:cut]) == []
    assert decoder.unfinished


def test_bytes_behind_a_frame_are_kept_as_the_next(policy: Policy) -> None:
    decoder = policy.decoder(LIMIT)
    assert decoder.feed(stream_of([b"abc"]) + b"\0\0") == [b"abc"]
    assert decoder.unfinished
    assert decoder.feed(b"\0\1x") == [b"x"]


@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_above_the_limit_is_refused_at_the_prefix(policy: Policy, length: int) -> None:
    with pytest.raises(policy.FrameTooLong, match=str(length)):
        policy.decoder(LIMIT).feed(length.to_bytes(4, "big"))


def test_the_limit_itself_is_accepted(policy: Policy) -> None:
    assert policy.decoder(LIMIT).feed(stream_of([bytes(LIMIT)])) == [bytes(LIMIT)]
