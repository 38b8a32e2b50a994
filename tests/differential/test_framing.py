"""Any bytes in any pieces: the same payloads come out, and they are what the plain reading of the whole stream says."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from support.policies import Policy
from support.same import same

LIMIT = 300
Both = tuple[Policy, Policy]

frames = st.binary(max_size=60).map(lambda payload: len(payload).to_bytes(4, "big") + payload)
long_frames = st.integers(LIMIT - 2, LIMIT).map(lambda size: size.to_bytes(4, "big") + bytes(size))
too_long = st.integers(LIMIT + 1, (1 << 32) - 1).map(lambda size: size.to_bytes(4, "big"))
streams = st.lists(st.one_of(frames, frames, frames, long_frames, too_long, st.binary(max_size=6)), max_size=6).map(
    b"".join
)


def whole(stream: bytes) -> tuple[list[bytes], str]:
    """All payloads of a stream, and how it ends."""
    payloads: list[bytes] = []
    while len(stream) >= 4:
        length = int.from_bytes(stream[:4], "big")
        if length > LIMIT:
            return payloads, "violation"
        if len(stream) < 4 + length:
            return payloads, "unfinished"
        payloads.append(stream[4 : 4 + length])
        stream = stream[4 + length :]
    return payloads, "unfinished" if stream else "complete"


@examples(400)
@given(streams, st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=12))
def test_any_stream_in_any_pieces(both: Both, stream: bytes, cuts: list[tuple[int, bool]]) -> None:
    """Whether a piece is read into the decoder's room or not, where it has one, makes no difference."""
    cuts = sorted((min(place, len(stream)), by_room) for place, by_room in cuts)
    pieces = zip([0, *(place for place, _ in cuts)], [*cuts, (len(stream), False)], strict=True)
    fed = [(stream[begin:end], by_room) for begin, (end, by_room) in pieces]

    def read(policy: Policy) -> tuple[list[Any], str]:
        decoder = policy.decoder(LIMIT)
        steps: list[Any] = []
        for piece, by_room in fed:
            try:
                steps.append((decoder.feed(piece, by_room=by_room), decoder.unfinished))
            except policy.FrameTooLong as refusal:
                return [*steps, str(refusal)], "violation"
        return steps, "unfinished" if decoder.unfinished else "complete"

    steps, end = same(both, read)
    payloads, wanted_end = whole(stream)
    got = [payload for step in steps if isinstance(step, tuple) for payload in step[0]]
    assert end == wanted_end
    assert got == payloads[: len(got)]  # a violation takes along the payloads that came in the same piece
    assert end == "violation" or got == payloads


@examples(50)
@given(st.integers(0, (1 << 33) - 1))
def test_headers(both: Both, length: int) -> None:
    same(both, lambda policy: policy.encode_header(length))
