"""How a request is cut into frames: DATA, padding, CONTINUATION, and frames that mean nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hyperframe import frame as frames

from anyserve_conformance import proto
from anyserve_conformance.fixtures import Model
from anyserve_conformance.raw_grpc import INFER, GrpcAnswer, literals, prefixed, request_headers
from anyserve_conformance.raw_http2 import Connect, Http2Connection
from anyserve_conformance.requirement import requirement

LOOK_AT = "the assembly of messages from DATA frames: frames and messages have nothing to do with one another"


def _expect_id(answer: GrpcAnswer, request_id: str) -> None:
    answer.expect_ok()
    response = proto.ModelInferResponse.FromString(answer.messages[0].payload)
    assert response.id == request_id, f"the response has the id {response.id!r}"


# DATA


@requirement("serving.grpc.data-frames")
def test_one_byte_frames(raw_http2: Connect, model: Model) -> None:
    """A message of one-byte DATA frames is taken."""
    connection = raw_http2()
    stream = connection.open(INFER)
    body = prefixed(model.request(id="bytes"))
    connection.frame(*(frames.DataFrame(stream, bytes([byte])) for byte in body), what=f"{len(body)} DATA of one byte")
    connection.data(stream, end_stream=True)
    _expect_id(connection.answer(stream), "bytes")


@requirement("serving.grpc.data-frames")
def test_two_frames_cut_anywhere(raw_http2: Connect, model: Model) -> None:
    """A message is taken that is cut in two at any place, the prefix included."""
    connection = raw_http2()
    body = prefixed(model.request(id="cut"))
    for place in range(len(body) + 1):
        stream = connection.open(INFER)
        connection.data(stream, body[:place])
        connection.data(stream, body[place:], end_stream=True)
        _expect_id(connection.answer(stream), "cut")


@requirement("serving.grpc.data-frames")
def test_end_in_an_empty_frame(raw_http2: Connect, model: Model) -> None:
    """The end of the request may come later, in an empty DATA frame."""
    connection = raw_http2()
    stream = connection.open(INFER)
    connection.data(stream, prefixed(model.request(id="later")))
    assert connection.round_trip(), "PING was not answered while a request waited for its end"
    connection.data(stream, end_stream=True)
    _expect_id(connection.answer(stream), "later")


@requirement("serving.grpc.data-frames")
def test_empty_frames_between(raw_http2: Connect, model: Model) -> None:
    """Empty DATA frames before, in and after a message mean nothing."""
    connection = raw_http2()
    stream = connection.open(INFER)
    body = prefixed(model.request(id="empty"))
    for start, end in pairwise((0, 0, 3, 3, 5, 5, 9, len(body), len(body))):
        connection.data(stream, body[start:end])
    connection.data(stream, end_stream=True)
    _expect_id(connection.answer(stream), "empty")


@requirement("serving.grpc.padding", look_at="padding, which counts for the windows and is no data")
@pytest.mark.parametrize("padding", [0, 1, 255])
def test_padded_data(raw_http2: Connect, model: Model, padding: int) -> None:
    """A message in padded DATA frames is taken."""
    connection = raw_http2()
    stream = connection.open(INFER)
    body = prefixed(model.request(id="padded"))
    connection.data(stream, body[:4], padding=padding)
    connection.data(stream, b"", padding=padding)
    connection.data(stream, body[4:], padding=padding, end_stream=True)
    _expect_id(connection.answer(stream), "padded")


@requirement("serving.grpc.padding", look_at="that padding is given back to the windows too")
def test_padding_does_not_eat_the_window(raw_http2: Connect) -> None:
    """More padding than a connection's first window holds is taken in the course of several calls."""
    connection = raw_http2()
    for _ in range(4):
        stream = connection.open()
        for _ in range(100):
            connection.wait_window(stream, 256)
            connection.data(stream, b"", padding=255)
        connection.upload(stream, prefixed(b""))
        connection.answer(stream).expect_ok("a call with 25,600 bytes of padding")


# HEADERS and CONTINUATION

HEADERS_LOOK_AT = "the assembly of header blocks: the fields are read when the whole block is there"


@requirement("serving.grpc.data-frames", look_at=HEADERS_LOOK_AT)
def test_block_cut_in_two_anywhere(raw_http2: Connect) -> None:
    """A header block is taken that is cut at any place into HEADERS and CONTINUATION, also where a part is empty."""
    connection = raw_http2()
    block = literals(request_headers())
    for place in range(0, len(block) + 1, 2):
        _call_in_pieces(connection, block, [place])


@requirement("serving.grpc.data-frames", look_at=HEADERS_LOOK_AT)
def test_block_cut_in_five(raw_http2: Connect) -> None:
    """A header block is taken in five frames, three of them of one byte."""
    connection = raw_http2()
    block = literals(request_headers())
    for place in range(1, len(block) - 4, 7):
        _call_in_pieces(connection, block, [place, place + 1, place + 2, place + 3])


def _call_in_pieces(connection: Http2Connection, block: bytes, cuts: list[int]) -> None:
    stream = connection.headers(request_headers(), block=block, cuts=cuts)
    connection.data(stream, prefixed(b""), end_stream=True)
    connection.answer(stream).expect_ok(f"a call whose header block is cut at {cuts}")


@requirement(
    "serving.grpc.data-frames", look_at="END_STREAM on HEADERS, which holds when CONTINUATION has ended the block"
)
def test_end_stream_before_continuation(raw_http2: Connect) -> None:
    """A request that ends with its headers is known as such when its header block is cut."""
    connection = raw_http2()
    block = literals(request_headers("/no.such.Service/Method"))
    stream = connection.headers([], block=block, cuts=[20], end_stream=True)
    connection.answer(stream).expect_status(12, "a call to an unknown path")


@requirement("serving.grpc.padding")
@pytest.mark.parametrize("padding", [0, 255])
def test_padded_headers(raw_http2: Connect, padding: int) -> None:
    """Headers in a padded frame are taken."""
    connection = raw_http2()
    stream = connection.stream()
    block = literals(request_headers())
    connection.frame(frames.HeadersFrame(stream, block, pad_length=padding, flags=["PADDED", "END_HEADERS"]))
    connection.data(stream, prefixed(b""), end_stream=True)
    connection.answer(stream).expect_ok("a call with padded headers")


# Frames that mean nothing


@requirement("serving.grpc.unknown-frames", look_at="frame types and flags that are not known, which are skipped")
def test_unknown_frame_types(raw_http2: Connect) -> None:
    """Frames of unknown types are ignored, on the connection and on a stream."""
    connection = raw_http2()
    connection.raw(_frame(0xEE, 0xFF, 0, b"nothing"), "a frame of type 238")
    stream = connection.open()
    connection.raw(_frame(0xEF, 0x01, stream, b"nothing"), f"a frame of type 239 on stream {stream}")
    connection.raw(_frame(0xF0, 0x00, stream, b""), f"an empty frame of type 240 on stream {stream}")
    connection.upload(stream, prefixed(b""))
    connection.answer(stream).expect_ok("a call among frames of unknown types")


@requirement("serving.grpc.unknown-frames")
def test_unknown_settings(raw_http2: Connect) -> None:
    """Settings with unknown numbers are ignored and acknowledged."""
    connection = raw_http2()
    before = connection.settings_acks
    connection.settings({0xFE: 1, 0xFFFF: 0xFFFFFFFF})
    assert connection.wait(lambda: connection.settings_acks > before), "the settings were not acknowledged"
    connection.call().expect_ok("the call after them")


@requirement("serving.grpc.unknown-flags")
def test_undefined_flags(raw_http2: Connect) -> None:
    """Flags that a frame does not define are ignored."""
    connection = raw_http2()
    stream = connection.stream()
    block, body = literals(request_headers()), prefixed(b"")
    connection.raw(_frame(1, 0x04 | 0x40 | 0x02, stream, block), f"HEADERS on stream {stream} with undefined flags")
    connection.raw(_frame(0, 0x01 | 0x40 | 0x04, stream, body), f"DATA on stream {stream} with undefined flags")
    connection.answer(stream).expect_ok("a call with undefined flags")


@requirement("serving.grpc.unknown-frames", look_at="priorities of RFC 7540, which are still valid frames")
def test_priorities(raw_http2: Connect) -> None:
    """Priorities, in HEADERS and in PRIORITY frames of open and idle streams, change nothing."""
    connection = raw_http2()
    connection.frame(frames.PriorityFrame(99, depends_on=0, stream_weight=7))
    stream = connection.stream()
    flags = ["PRIORITY", "END_HEADERS"]
    block = literals(request_headers())
    connection.frame(frames.HeadersFrame(stream, block, flags=flags, depends_on=99, stream_weight=255, exclusive=True))
    connection.frame(frames.PriorityFrame(stream, depends_on=0, stream_weight=1))
    connection.upload(stream, prefixed(b""))
    connection.answer(stream).expect_ok("a call with priorities")


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
