"""Abuse: whatever one connection sends, others are served, while it lasts and after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hyperframe import frame as frames

from anyserve_conformance.client import Client
from anyserve_conformance.fixtures import Model
from anyserve_conformance.raw_grpc import INFER, integer, literal, literals, prefixed, request_headers
from anyserve_conformance.raw_http2 import PREFACE, Connect, Http2Connection
from anyserve_conformance.requirement import requirement

LOOK_AT = "limits of one connection, what it holds back from others, and what a connection leaves behind when it ends"

FLOOD = 10_000
PIECE = 500  # frames that are sent at once
RESETS = 800  # with a thousand and more calls that no handler has taken yet, grpcio rejects calls of everybody

Abuse = Callable[[Http2Connection, Model], None]


def _flood(connection: Http2Connection, frame: frames.Frame, what: str) -> None:
    """Sends a frame thousands of times, or until the server has enough."""
    data = frame.serialize()
    for _ in range(FLOOD // PIECE):
        connection.raw(data * PIECE, f"{PIECE} times {what}")


def ping_flood(connection: Http2Connection, _model: Model) -> None:
    """PING without end."""
    _flood(connection, frames.PingFrame(0, b"flooding"), "PING")


def settings_flood(connection: Http2Connection, _model: Model) -> None:
    """SETTINGS without end."""
    for _ in range(FLOOD):
        connection.expect_acknowledgement()
    _flood(connection, frames.SettingsFrame(0, {3: 100}), "SETTINGS")


def settings_acknowledgement_flood(connection: Http2Connection, _model: Model) -> None:
    """Acknowledgements of SETTINGS that the server did not send."""
    _flood(connection, frames.SettingsFrame(0, flags=["ACK"]), "SETTINGS ACK")


def empty_data_flood(connection: Http2Connection, _model: Model) -> None:
    """Empty DATA frames on a call that does not end."""
    _flood(connection, frames.DataFrame(connection.open(), b""), "empty DATA")


def window_update_flood(connection: Http2Connection, _model: Model) -> None:
    """WINDOW_UPDATE without a need."""
    _flood(connection, frames.WindowUpdateFrame(0, 1), "WINDOW_UPDATE")


def priority_flood(connection: Http2Connection, _model: Model) -> None:
    """PRIORITY of a stream that nobody opened."""
    _flood(connection, frames.PriorityFrame(1_001, depends_on=0, stream_weight=1), "PRIORITY")


def unknown_frame_flood(connection: Http2Connection, _model: Model) -> None:
    """Frames of an unknown type."""
    for _ in range(FLOOD // PIECE):
        connection.raw((b"\0\0\x08\xee\0\0\0\0\0" + bytes(8)) * PIECE, f"{PIECE} frames of type 238")


def rapid_reset(connection: Http2Connection, model: Model) -> None:
    """Calls that are reset at once, whole ones and bare headers."""
    block, message = literals(request_headers(INFER)), prefixed(model.request())
    for _ in range(RESETS // 100):
        piece = bytearray()
        for number in range(100):
            stream = connection.stream()
            piece += frames.HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()
            if number % 2:
                piece += frames.DataFrame(stream, message, flags=["END_STREAM"]).serialize()
            piece += frames.RstStreamFrame(stream, 8).serialize()
        connection.raw(bytes(piece), "100 calls, each reset at once")


def resets_by_mistakes(connection: Http2Connection, _model: Model) -> None:
    """Calls that make the server reset them, by WINDOW_UPDATE of 0."""
    block = literals(request_headers())
    for _ in range(RESETS // 100):
        piece = bytearray()
        for _ in range(100):
            stream = connection.stream()
            piece += frames.HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()
            piece += b"\0\0\4\x08\0" + stream.to_bytes(4, "big") + bytes(4)
        connection.raw(bytes(piece), "100 calls, each with WINDOW_UPDATE by 0")


def headers_without_end(connection: Http2Connection, _model: Model) -> None:
    """A header block that goes on and on, 4 MiB of it."""
    stream = connection.stream()
    field = literal("x-note", "v" * 1_000) * 16
    connection.frame(frames.HeadersFrame(stream, literals(request_headers())), what="HEADERS without END_HEADERS")
    for _ in range(256):
        connection.frame(frames.ContinuationFrame(stream, field))


def empty_continuation_flood(connection: Http2Connection, _model: Model) -> None:
    """A header block that goes on in empty frames."""
    stream = connection.stream()
    connection.frame(frames.HeadersFrame(stream, literals(request_headers())), what="HEADERS without END_HEADERS")
    _flood(connection, frames.ContinuationFrame(stream, b""), "empty CONTINUATION")


def header_bomb(connection: Http2Connection, _model: Model) -> None:
    """A block of 60 KiB that means 16 MiB of fields, by the table."""
    stream = connection.stream()
    connection.headers([], stream=stream, block=literals(request_headers()) + literal("x", "v" * 3_900, form=0x40))
    bomb = literals(request_headers()) + integer(62, 7, 0x80) * 4_096
    connection.headers([], block=bomb, end_stream=True)


def half_a_header_block(connection: Http2Connection, _model: Model) -> None:
    """HEADERS whose CONTINUATION never comes."""
    connection.frame(frames.HeadersFrame(connection.stream(), literals(request_headers())))


def half_a_frame(connection: Http2Connection, _model: Model) -> None:
    """A DATA frame of which only the beginning comes."""
    stream = connection.open()
    connection.raw(b"\0\x40\0\0\1" + stream.to_bytes(4, "big") + b"beginning", "the beginning of a DATA frame")


def half_a_message(connection: Http2Connection, model: Model) -> None:
    """A call that announces 60 MiB and sends ten bytes."""
    connection.upload(connection.open(INFER), prefixed(model.request()[:10], length=60 << 20), end_stream=False)


def windows_that_never_open(connection: Http2Connection, model: Model) -> None:
    """Calls whose large responses may not be sent."""
    connection.settings({4: 0})
    for _ in range(20):
        connection.start(INFER, model.request(id="w" * 50_000))


def windows_of_one_byte(connection: Http2Connection, model: Model) -> None:
    """Calls whose responses may be sent byte by byte."""
    connection.auto_window = False
    connection.settings({4: 1})
    streams = [connection.start(INFER, model.request(id="w" * 1_000)) for _ in range(5)]
    for _ in range(100):
        for stream in streams:
            connection.window_update(stream, 1)


ABUSES: tuple[Abuse, ...] = (
    ping_flood,
    settings_flood,
    settings_acknowledgement_flood,
    empty_data_flood,
    window_update_flood,
    priority_flood,
    unknown_frame_flood,
    rapid_reset,
    resets_by_mistakes,
    headers_without_end,
    empty_continuation_flood,
    header_bomb,
    half_a_header_block,
    half_a_frame,
    half_a_message,
    windows_that_never_open,
    windows_of_one_byte,
)


@requirement("serving.grpc.isolation")
@pytest.mark.parametrize("abuse", [pytest.param(abuse, id=abuse.__name__) for abuse in ABUSES])
def test_others_are_served(raw_http2: Connect, client: Client, model: Model, abuse: Abuse) -> None:
    """Another connection is served before, during and after an abuse, and a new one too."""
    assert client.live(), "the server does not serve"
    abusive = raw_http2(who="abusive client")
    abuse(abusive, model)
    assert client.live(), "during the abuse another connection was not served"
    client.infer(model.request()).message  # noqa: B018  raises if there is none
    raw_http2(who="new client").call().expect_ok("a call on a new connection, during the abuse,")
    abusive.close()
    assert client.live(), "after the abuse another connection was not served"


@requirement("serving.grpc.isolation", look_at="connections that are open and say nothing")
@pytest.mark.parametrize("begin", [b"", PREFACE[:10], PREFACE], ids=["silent", "half-a-preface", "no-settings"])
def test_idle_connections(raw_http2: Connect, client: Client, begin: bytes) -> None:
    """Others are served while connections are open that do not begin, or only half."""
    idle = [raw_http2(handshake=False, who=f"idle {number}") for number in range(30)]
    for connection in idle:
        if begin:
            connection.raw(begin, "the beginning of a preface")
    assert client.live(), "another connection was not served"
    raw_http2(who="new client").call().expect_ok("a call on a new connection")


@requirement("serving.grpc.isolation", look_at="what is left of a connection that ends in the middle")
def test_connections_that_end_in_the_middle(raw_http2: Connect, client: Client, model: Model) -> None:
    """Others are served while connections end at any place of a call, again and again."""
    call = literals(request_headers(INFER))
    body = prefixed(model.request())
    for number in range(40):
        connection = raw_http2(who=f"client {number}")
        headers = frames.HeadersFrame(1, call, flags=["END_HEADERS"]).serialize()
        message = frames.DataFrame(1, body, flags=["END_STREAM"]).serialize()
        data = headers + message
        connection.raw(data[: len(data) * number // 39], "a part of a call")
        connection.close()
    assert client.live(), "another connection was not served"
    client.infer(model.request()).message  # noqa: B018  raises if there is none
