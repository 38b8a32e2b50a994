"""The connection: preface, SETTINGS, PING, GOAWAY, and what RFC 9113 calls a connection error."""

from __future__ import annotations

import pytest
from hyperframe import frame as frames

from anyserve_conformance.client import Client
from anyserve_conformance.raw_grpc import literals, prefixed, request_headers
from anyserve_conformance.raw_http2 import PREFACE, Connect
from anyserve_conformance.requirement import requirement

LOOK_AT = "the connection's own frames, those on stream 0"

SETTINGS = frames.SettingsFrame(0).serialize()


@requirement("serving.grpc.preface", look_at="that the preface may come in any number of pieces")
def test_preface_in_bytes(raw_http2: Connect) -> None:
    """A preface that comes byte by byte is taken."""
    connection = raw_http2(handshake=False)
    for byte in PREFACE + SETTINGS:
        connection.raw(bytes([byte]), "a byte of the preface")
    connection.begun()
    connection.call().expect_ok()


@requirement("serving.grpc.preface", look_at="that a call may come before the server's SETTINGS are acknowledged")
def test_call_with_the_preface(raw_http2: Connect) -> None:
    """A call that comes in one piece with the preface is served."""
    connection = raw_http2(handshake=False)
    stream = connection.stream()
    headers = frames.HeadersFrame(stream, literals(request_headers()), flags=["END_HEADERS"])
    message = frames.DataFrame(stream, prefixed(b""), flags=["END_STREAM"])
    connection.raw(PREFACE + SETTINGS + headers.serialize() + message.serialize(), "preface, SETTINGS and a call")
    connection.begun()
    connection.answer(stream).expect_ok()


@requirement("serving.grpc.wrong-preface", look_at="what is done with a client that does not speak HTTP/2")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET /v2/health/live HTTP/1.1\r\nHost: conformance.test\r\n\r\n", id="http-1"),
        pytest.param(PREFACE.replace(b"2.0", b"3.0") + SETTINGS, id="other-version"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), id="tls"),
        pytest.param(PREFACE + frames.PingFrame(0, b"12345678").serialize(), id="no-settings"),
    ],
)
def test_wrong_preface_is_closed(raw_http2: Connect, data: bytes) -> None:
    """A connection that begins with something else is closed."""
    connection = raw_http2(handshake=False, parse=False)
    connection.raw(data, "no preface of HTTP/2")
    assert connection.wait_closed(3), "the connection stayed"


@requirement("serving.grpc.settings")
def test_settings_are_acknowledged(raw_http2: Connect) -> None:
    """Each SETTINGS frame is acknowledged once, in the middle of a call too."""
    connection = raw_http2()
    stream = connection.open()
    before = connection.settings_acks
    for size in (0, 1 << 20, 65_535):
        connection.settings({4: size})
    connection.settings({})
    assert connection.wait(lambda: connection.settings_acks == before + 4), (
        f"{connection.settings_acks - before} of 4 SETTINGS were acknowledged"
    )
    connection.upload(stream, prefixed(b""))
    connection.answer(stream).expect_ok()
    assert connection.settings_acks == before + 4, "SETTINGS were acknowledged more than once"


@requirement("serving.grpc.settings", look_at="the encoder's table, which the client may forbid")
def test_client_without_a_table(raw_http2: Connect) -> None:
    """A client that allows no table for header blocks gets answers that it can decode."""
    connection = raw_http2(settings={1: 0})
    for _ in range(3):
        connection.call().expect_ok()


@requirement("serving.grpc.ping")
def test_ping_is_answered(raw_http2: Connect) -> None:
    """PING is answered with its eight bytes, between calls and during one."""
    connection = raw_http2()
    connection.ping(b"\x00\xffping\r\n")
    assert connection.wait(lambda: connection.pongs == [b"\x00\xffping\r\n"]), (
        f"PING was answered by {connection.pongs}"
    )
    stream = connection.open()
    connection.ping(b"12345678")
    assert connection.wait(lambda: b"12345678" in connection.pongs), "PING was not answered during a call"
    connection.upload(stream, prefixed(b""))
    connection.answer(stream).expect_ok()


@requirement("serving.grpc.client-goaway", look_at="what GOAWAY of a client is for: it ends no call that is under way")
def test_call_under_way_is_answered_after_goaway(raw_http2: Connect) -> None:
    """A call that is under way when the client sends GOAWAY is answered."""
    connection = raw_http2()
    stream = connection.open()
    connection.frame(frames.GoAwayFrame(0, last_stream_id=0, error_code=0))
    connection.data(stream, prefixed(b""), end_stream=True)
    connection.answer(stream).expect_ok("the call that was under way")


OPEN = literals(request_headers())
ERRORS = {
    "DATA on stream 0": b"\0\0\1\0\1\0\0\0\0x",
    "HEADERS on stream 0": len(OPEN).to_bytes(3, "big") + b"\1\5\0\0\0\0" + OPEN,
    "HEADERS on stream 2": len(OPEN).to_bytes(3, "big") + b"\1\5\0\0\0\2" + OPEN,
    "DATA on an idle stream": b"\0\0\1\0\1\0\0\0\7x",
    "RST_STREAM on an idle stream": b"\0\0\4\3\0\0\0\0\7\0\0\0\0",
    "CONTINUATION without HEADERS": len(OPEN).to_bytes(3, "big") + b"\x09\4\0\0\0\1" + OPEN,
    "PING inside a header block": frames.HeadersFrame(1, OPEN).serialize() + frames.PingFrame(0, bytes(8)).serialize(),
    "SETTINGS of five bytes": b"\0\0\5\4\0\0\0\0\0" + bytes(5),
    "SETTINGS on a stream": b"\0\0\0\4\0\0\0\0\1",
    "a first window above 2^31-1": b"\0\0\6\4\0\0\0\0\0\0\4\x80\0\0\0",
    "PING of seven bytes": b"\0\0\7\6\0\0\0\0\0" + bytes(7),
    "a window of the connection above 2^31-1": b"\0\0\4\x08\0\0\0\0\0\x7f\xff\xff\xff",
    "WINDOW_UPDATE by 0": b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
    "PUSH_PROMISE": b"\0\0\4\5\4\0\0\0\1\0\0\0\2",
}


@requirement("serving.grpc.connection-error", look_at="the checks of RFC 9113 on each frame")
@pytest.mark.parametrize("error", [pytest.param(name, id=name.replace(" ", "-")) for name in ERRORS])
def test_ends_the_connection(raw_http2: Connect, client: Client, error: str) -> None:
    """What RFC 9113 calls a connection error ends the connection, and no other."""
    connection = raw_http2()
    assert connection.goes_on(), "PING was not answered"
    connection.expect_acknowledgement()  # of a SETTINGS frame among them, should the server take it
    connection.raw(ERRORS[error], error)
    assert not connection.goes_on(), f"the connection went on after {error}"
    assert client.live(), f"after {error} another connection was not served"


@requirement("serving.grpc.connection-error", look_at="SETTINGS_MAX_FRAME_SIZE, checked when a frame's length has come")
def test_too_long_frame(raw_http2: Connect, client: Client) -> None:
    """A frame that is longer than the server allows ends its call or its connection, and no other."""
    connection = raw_http2()
    stream = connection.open()
    length = connection.peer_settings.get(5, 16_384) + 1
    connection.raw(
        length.to_bytes(3, "big") + b"\0\1" + stream.to_bytes(4, "big") + bytes(length), "a DATA frame too long"
    )
    answer = connection.streams[stream]
    connection.wait(lambda: answer.finished or connection.goaway is not None)
    assert not answer.ok, "a DATA frame above SETTINGS_MAX_FRAME_SIZE was taken"
    assert client.live(), "another connection was not served"
