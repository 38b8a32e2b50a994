"""Messages: the prefix of five bytes, lengths that lie, compression, more or fewer messages than one."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from anyserve_conformance import proto
from anyserve_conformance.fixtures import Model
from anyserve_conformance.raw_grpc import INFER, GrpcAnswer, Header, prefixed
from anyserve_conformance.raw_http2 import Connect, Http2Connection
from anyserve_conformance.requirement import not_applicable, requirement

LOOK_AT = "the reading of the prefix: flag, then length, before any of the message"

UNIMPLEMENTED = 12
INTERNAL = 13
SOON = 2.0  # seconds within which what is known from the bytes alone is answered


def _send(connection: Http2Connection, body: bytes, *, extra: tuple[Header, ...] = (), path: str = INFER) -> int:
    stream = connection.open(path, extra=extra)
    connection.upload(stream, body)
    return stream


def _call(connection: Http2Connection, body: bytes, **options: Any) -> GrpcAnswer:
    return connection.answer(_send(connection, body, **options))


def _encodings(connection: Http2Connection) -> set[str]:
    """What the server says that it takes, in an answer of any call."""
    answer = connection.call().expect_ok()
    named = ",".join(answer.values("grpc-accept-encoding") + _trailer_values(answer))
    return {name.strip() for name in named.split(",")}


def _trailer_values(answer: GrpcAnswer) -> list[str]:
    return [value for name, value in answer.trailers if name == "grpc-accept-encoding"]


# Compression


@requirement(
    "serving.grpc.compressed-flag", look_at="the flag decides, and grpc-encoding says how: one without the other"
)
@pytest.mark.parametrize("encoding", [None, "identity"])
def test_flag_without_encoding(raw_http2: Connect, model: Model, encoding: str | None) -> None:
    """A message with the compressed flag in a call without an encoding ends with INTERNAL."""
    connection = raw_http2()
    extra = (("grpc-encoding", encoding),) if encoding else ()
    body = prefixed(gzip.compress(model.request()), flag=1)
    _call(connection, body, extra=extra).expect_status(INTERNAL, "a compressed message without an encoding")
    connection.call().expect_ok("the call after it")


@requirement("serving.grpc.unknown-encoding")
def test_unknown_encoding_fails(raw_http2: Connect, model: Model) -> None:
    """A message in an encoding that nobody knows ends with an error, and the connection goes on."""
    connection = raw_http2()
    answer = _call(connection, prefixed(model.request(), flag=1), extra=(("grpc-encoding", "no-such-encoding"),))
    answer.expect_failed("a message in an unknown encoding")
    connection.call().expect_ok("the call after it")


@requirement("serving.grpc.unknown-encoding-status")
def test_unknown_encoding_is_unimplemented(raw_http2: Connect, model: Model) -> None:
    """A message in an unknown encoding ends with UNIMPLEMENTED."""
    answer = _call(raw_http2(), prefixed(model.request(), flag=1), extra=(("grpc-encoding", "no-such-encoding"),))
    answer.expect_status(UNIMPLEMENTED, "a message in an unknown encoding")


@requirement("serving.grpc.accepted-encoding")
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_named_encodings_are_taken(raw_http2: Connect, model: Model, encoding: str) -> None:
    """A message in an encoding that the server names is served, and so is a plain one beside that encoding."""
    connection = raw_http2()
    if encoding == "gzip" and "gzip" not in _encodings(connection):
        not_applicable("the server does not say that it takes gzip")
    extra = (("grpc-encoding", encoding),)
    _call(connection, prefixed(model.request()), extra=extra).expect_ok("a plain message")
    if encoding == "gzip":
        answer = _call(connection, prefixed(gzip.compress(model.request(id="gzip")), flag=1), extra=extra)
        answer.expect_ok("a message in gzip")
        assert b"gzip" in answer.messages[0].payload, "the response has not the id of the request"


@requirement("serving.grpc.accepted-encoding", look_at="what happens when a message cannot be decompressed")
def test_broken_compression_fails(raw_http2: Connect, model: Model) -> None:
    """A message that is not in the encoding that it names ends with an error, and the connection goes on."""
    connection = raw_http2()
    body = prefixed(gzip.compress(model.request())[:-9], flag=1)
    _call(connection, body, extra=(("grpc-encoding", "gzip"),)).expect_failed("a message in broken gzip")
    connection.call().expect_ok("the call after it")


@requirement(
    "serving.grpc.response-encoding", look_at="whether a response is compressed: only as grpc-accept-encoding has it"
)
@pytest.mark.parametrize("accepted", [None, "identity", "no-such-encoding,identity"])
def test_response_is_not_compressed_unasked(raw_http2: Connect, model: Model, accepted: str | None) -> None:
    """The response to a client that takes no compression has none, also if the request has."""
    connection = raw_http2()
    asked: tuple[Header, ...] = (("grpc-accept-encoding", accepted),) if accepted else ()
    body = prefixed(model.request(id="x" * 2_000))
    if "gzip" in _encodings(connection):
        asked += (("grpc-encoding", "gzip"),)
        body = prefixed(gzip.compress(model.request(id="x" * 2_000)), flag=1)
    answer = _call(connection, body, extra=asked).expect_ok()
    assert [message.flag for message in answer.messages] == [0], "the response is compressed"


@requirement("serving.grpc.bad-flag")
def test_unknown_flag_fails(raw_http2: Connect, model: Model) -> None:
    """Messages whose flag is neither 0 nor 1 end with an error at once, and the connection goes on."""
    connection = raw_http2()
    streams = {flag: _send(connection, prefixed(model.request(), flag=flag)) for flag in (2, 3, 128, 255)}
    connection.call().expect_ok("another call")
    for flag, stream in streams.items():
        connection.answer(stream, within=SOON).expect_failed(f"a message with the flag {flag}")


# Lengths that lie, and the number of messages


CUT = [
    pytest.param(lambda message: b"", id="none"),
    pytest.param(lambda message: prefixed(message)[:3], id="in-the-prefix"),
    pytest.param(lambda message: prefixed(message)[:5], id="after-the-prefix"),
    pytest.param(lambda message: prefixed(message)[:-1], id="last-byte"),
    pytest.param(lambda message: prefixed(message, length=len(message) + 70_000), id="longer-by-70000"),
]


@requirement("serving.grpc.cut-message")
@pytest.mark.parametrize("body", CUT)
def test_is_not_answered_with_ok(raw_http2: Connect, model: Model, body: Any) -> None:
    """A call that ends before its message does not succeed, and the connection goes on."""
    connection = raw_http2()
    stream = _send(connection, body(model.request()))
    connection.call().expect_ok("another call")
    assert not connection.answer(stream, within=0.1).ok, "a call without a whole message ended with OK"


@requirement("serving.grpc.cut-message")
def test_headers_that_end_the_call(raw_http2: Connect) -> None:
    """A call that ends with its headers does not succeed, and the connection goes on."""
    connection = raw_http2()
    stream = connection.open(INFER, end_stream=True)
    connection.call().expect_ok("another call")
    assert not connection.answer(stream, within=0.1).ok, "a call without a message ended with OK"


@requirement("serving.grpc.cut-message-status")
def test_is_answered_at_once(raw_http2: Connect, model: Model) -> None:
    """Calls that end before their message, or with their headers, end with an error at once."""
    connection = raw_http2()
    streams = {str(cut.id): _send(connection, cut.values[0](model.request())) for cut in CUT}  # type: ignore[operator]
    streams["headers alone"] = connection.open(INFER, end_stream=True)
    connection.wait(lambda: all(connection.streams[stream].finished for stream in streams.values()), SOON)
    waiting = [name for name, stream in streams.items() if not connection.streams[stream].finished]
    assert not waiting, f"calls without a whole message had not ended after {SOON:g} s: {', '.join(waiting)}"
    for name, stream in streams.items():
        connection.answer(stream).expect_failed(f"a call whose message is cut ({name})")


@requirement("serving.grpc.cut-message", look_at="what follows the message of a unary call")
def test_message_shorter_than_sent(raw_http2: Connect, model: Model) -> None:
    """A length shorter than what is sent cuts the message: the call does not return what stands behind it."""
    connection = raw_http2()
    message = model.request(id="whole")
    short = proto.ModelInferRequest(model_name=model.name, id="short").SerializeToString()
    stream = _send(connection, prefixed(short + message, length=len(short)))
    connection.call().expect_ok("another call")
    answer = connection.answer(stream, within=0.1)
    assert b"whole" not in bytes(answer.data), "bytes behind the announced length were read as part of the message"


@requirement("serving.grpc.cut-message", look_at="that room for a message is not made before its bytes come")
@pytest.mark.parametrize("length", [65 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_announced_length_is_no_harm(raw_http2: Connect, model: Model, length: int) -> None:
    """A huge announced length does not succeed, and the connection goes on, before and after the call is reset."""
    connection = raw_http2()
    stream = connection.open(INFER)
    connection.upload(stream, prefixed(model.request(), length=length), end_stream=False)
    connection.call().expect_ok("another call")
    assert not connection.answer(stream, within=0.05).ok, "a call without a whole message ended with OK"
    connection.reset(stream)
    connection.call().expect_ok("the call after it")


@requirement("serving.grpc.two-messages")
def test_second_message_fails(raw_http2: Connect, model: Model) -> None:
    """A unary call with two messages ends with an error, and the connection goes on."""
    connection = raw_http2()
    answer = _call(connection, 2 * prefixed(model.request()))
    connection.call().expect_ok("the call after it")
    answer.expect_failed("a unary call with two messages")


@requirement("serving.grpc.trailers", look_at="how many responses a unary call gets")
def test_two_messages_get_one_answer(raw_http2: Connect, model: Model) -> None:
    """A unary call with two messages is answered once at most."""
    answer = _call(raw_http2(), prefixed(model.request(id="one")) + prefixed(model.request(id="two")))
    assert answer.finished, "the call did not end"
    assert len(answer.messages) <= 1, f"the call was answered with {len(answer.messages)} messages"
