"""Each vector of frames.json through the reader of frames: whole, byte by byte, split anywhere, with more behind it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from anyserve.framing import HEADER_SIZE
from anyserve_conformance.vectors import Vector, as_bytes, load
from support.policies import Policy

FRAMES = load("frames")
LONG = 4096
"""Streams above this are not split in the middle of their long payload, where every position is alike."""


def read(policy: Policy, vector: Vector, chunks: Iterable[bytes]) -> tuple[list[bytes], Any, bool]:
    """The payloads, the decoder as it is then, and whether there was a violation."""
    decoder = policy.decoder(vector["limit"])
    frames: list[bytes] = []
    for chunk in chunks:
        try:
            frames += decoder.feed(chunk)
        except policy.FrameTooLong:
            return frames, decoder, True
    return frames, decoder, False


def check(policy: Policy, vector: Vector, chunks: Iterable[bytes], *, together: bool = False) -> None:
    """Checks what comes out; a violation may take along payloads that came in the same piece, `together`."""
    wanted = [as_bytes(payload) for payload in vector["payloads"]]
    frames, decoder, violation = read(policy, vector, chunks)
    assert violation == (vector["state"] == "violation")
    if violation and together:
        assert frames == wanted[: len(frames)]
        return
    assert frames == wanted
    if not violation:
        assert decoder.unfinished == (vector["state"] != "complete")


def bytes_of(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


def positions(size: int) -> Iterable[int]:
    return range(size + 1) if size <= LONG else [*range(64), size // 2, *range(size - 64, size + 1)]


@pytest.fixture(params=FRAMES, ids=[vector.name for vector in FRAMES])
def vector(request: pytest.FixtureRequest) -> Vector:
    found: Vector = request.param
    assert found["state"] in ("complete", "in-length", "in-payload", "violation")
    assert ("needs" in found) == found["state"].startswith("in-")
    assert ("violation_at" in found) == (found["state"] == "violation")
    return found


def test_whole(policy: Policy, vector: Vector) -> None:
    check(policy, vector, [as_bytes(vector["bytes"])], together=True)


def test_byte_by_byte(policy: Policy, vector: Vector) -> None:
    check(policy, vector, bytes_of(as_bytes(vector["bytes"])))


def test_split_at_every_position(policy: Policy, vector: Vector) -> None:
    data = as_bytes(vector["bytes"])
    for position in positions(len(data)):
        check(policy, vector, [data[:position], data[position:]], together=True)


def test_with_empty_reads_between(policy: Policy, vector: Vector) -> None:
    data = as_bytes(vector["bytes"])
    if len(data) <= LONG:
        check(policy, vector, [chunk for byte in bytes_of(data) for chunk in (b"", byte, b"")])
    else:
        check(policy, vector, [b"", data, b""])


def test_with_trailing_bytes(policy: Policy, vector: Vector) -> None:
    """A frame behind a complete stream comes out, cut or whole; behind a cut one it completes what is missing."""
    data, limit = as_bytes(vector["bytes"]), vector["limit"]
    wanted = [as_bytes(payload) for payload in vector["payloads"]]
    if vector["state"] == "complete":
        frames, decoder, _ = read(policy, vector, [data + b"\0\0"])
        assert (frames, decoder.unfinished) == (wanted, True)
        assert (decoder.feed(b"\0\0"), decoder.unfinished) == ([b""], False)
    elif vector["state"] == "in-length":
        frames, decoder, _ = read(policy, vector, [data, bytes(vector["needs"])])
        assert (len(frames), frames[: len(wanted)], decoder.unfinished) == (len(wanted) + 1, wanted, False)
    elif vector["state"] == "in-payload" and vector["needs"] <= 1 << 17:
        frames, decoder, _ = read(policy, vector, [data, bytes(vector["needs"]) + b"\0"])
        assert (len(frames), frames[: len(wanted)], decoder.unfinished) == (len(wanted) + 1, wanted, True)
        assert len(frames[-1]) <= limit
    elif vector["state"] == "in-payload":
        assert int.from_bytes(data[-HEADER_SIZE:], "big") == vector["needs"] <= limit  # too long to be made here
    else:
        check(policy, vector, [data + b"\0\0\0\0"], together=True)


def test_what_is_missing_is_needed_to_the_last_byte(policy: Policy, vector: Vector) -> None:
    if vector["state"] == "violation" or vector.get("needs", 0) > 1 << 17:
        assert vector.get("violation_at") or vector["needs"] > 1 << 17
        return
    data = as_bytes(vector["bytes"]) + bytes(max(0, vector.get("needs", 0) - 1))
    frames, decoder, _ = read(policy, vector, [data])
    assert frames == [as_bytes(payload) for payload in vector["payloads"]]
    assert decoder.unfinished == (vector["state"] != "complete")


def test_a_violation_is_known_at_its_byte_and_not_before(policy: Policy, vector: Vector) -> None:
    if vector["state"] != "violation":
        assert not read(policy, vector, [as_bytes(vector["bytes"])])[2]
        return
    data, at = as_bytes(vector["bytes"]), vector["violation_at"]
    assert not read(policy, vector, bytes_of(data[: at - 1]))[2]
    assert read(policy, vector, bytes_of(data[:at]))[2]


def test_payloads_are_written_as_the_same_bytes(policy: Policy, vector: Vector) -> None:
    payloads = [as_bytes(payload) for payload in vector["payloads"]]
    written = b"".join(policy.encode_header(len(payload)) + payload for payload in payloads)
    data = as_bytes(vector["bytes"])
    assert data.startswith(written)
    assert (written == data) == (vector["state"] == "complete")
