"""What a call looks like: content type, method, path, headers and trailers of the answer, `grpc-message`."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest

from anyserve_conformance import proto
from anyserve_conformance.fixtures import Model
from anyserve_conformance.raw_grpc import INFER, LIVE, GrpcAnswer
from anyserve_conformance.raw_http2 import Connect
from anyserve_conformance.requirement import not_applicable, requirement

LOOK_AT = "the check of the request's headers, before the method is looked up"

SERVICE = "/inference.GRPCInferenceService"
UNIMPLEMENTED = 12


@requirement("serving.grpc.content-type")
@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("application/grpc", id="plain"),
        pytest.param("application/grpc+proto", id="proto"),
        pytest.param("application/grpc;charset=utf-8", id="charset"),
        pytest.param("application/grpc+proto; charset=utf-8", id="proto-and-charset"),
    ],
)
def test_is_accepted(raw_http2: Connect, content_type: str) -> None:
    """A call with this content type is served."""
    raw_http2().call(content_type=content_type).expect_ok(f"a call with content-type {content_type}")


@requirement("serving.grpc.other-content-type")
@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("application/json", id="json"),
        pytest.param("text/plain", id="text"),
        pytest.param("application/x-protobuf", id="protobuf"),
        pytest.param(None, id="none"),
    ],
)
def test_is_unsupported_media(raw_http2: Connect, content_type: str | None) -> None:
    """A call with another content type, or without one, is answered with HTTP status 415."""
    answer = raw_http2().call(content_type=content_type)
    assert answer.http_status == 415, f"a call with content-type {content_type} ended with {answer}, not with HTTP 415"


@requirement("serving.grpc.method")
def test_other_methods_are_not_served(raw_http2: Connect) -> None:
    """A call with another HTTP method than POST is not served."""
    methods = ("GET", "PUT", "OPTIONS")
    connections = [raw_http2() for _ in methods]
    pairs = list(zip(methods, connections, strict=True))
    streams = [connection.start(method=method) for method, connection in pairs]
    for (method, connection), stream in zip(pairs, streams, strict=True):
        connection.answer(stream).expect_failed(f"a call with :method {method}")


@requirement("serving.grpc.te")
def test_without_te_ends(raw_http2: Connect) -> None:
    """A call without `te: trailers` is served or refused, and the connection goes on."""
    connection = raw_http2()
    answer = connection.call(te=None)
    assert answer.finished, "a call without te did not end"
    assert not answer.lost, f"a call without te ended its connection: {answer}"
    connection.call().expect_ok("the call after it")


@requirement("serving.grpc.unknown-method", look_at="the table of methods: paths are compared whole and by case")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(f"{SERVICE}/NoSuchMethod", id="method"),
        pytest.param("/no.such.Service/ServerLive", id="service"),
        pytest.param(f"{SERVICE}/serverlive", id="lower-case"),
        pytest.param(f"{LIVE}/", id="slash-behind"),
        pytest.param(f"{LIVE}x", id="longer"),
        pytest.param(LIVE[:-1], id="shorter"),
        pytest.param(f"/{LIVE}", id="two-slashes"),
        pytest.param(SERVICE, id="one-part"),
        pytest.param("/", id="root"),
    ],
)
def test_unknown_path(raw_http2: Connect, path: str) -> None:
    """A call to a path that is no method ends with UNIMPLEMENTED, and the connection goes on."""
    connection = raw_http2()
    connection.call(path).expect_status(UNIMPLEMENTED, f"a call to {path}")
    connection.call().expect_ok("the call after it")


@requirement("serving.grpc.unknown-method")
def test_unknown_path_without_message(raw_http2: Connect) -> None:
    """A call to an unknown path that ends with its headers ends with UNIMPLEMENTED."""
    connection = raw_http2()
    stream = connection.stream()
    connection.open(f"{SERVICE}/NoSuchMethod", stream=stream, end_stream=True)
    connection.answer(stream).expect_status(UNIMPLEMENTED, "the call")


@requirement("serving.grpc.early-answer", look_at="RST_STREAM(NO_ERROR) after trailers that come before END_STREAM")
def test_early_answer_is_followed_by_reset(raw_http2: Connect) -> None:
    """An answer that comes before the request's end is followed by RST_STREAM with NO_ERROR."""
    connection = raw_http2()
    stream = connection.open(f"{SERVICE}/NoSuchMethod")
    answer = connection.answer(stream, within=1.0)
    if not answer.finished:
        not_applicable("the server reads the request to its end before it answers")
    answer.expect_status(UNIMPLEMENTED, "the call")
    connection.wait(lambda: answer.reset is not None, within=1.0)
    assert answer.reset == 0, f"after the trailers came {answer}, and no RST_STREAM with NO_ERROR"


def _check_trailers(answer: GrpcAnswer) -> None:
    assert answer.ended_by_headers, f"the response ended with {answer}, not with a header block"
    statuses = [value for name, value in answer.trailers if name == "grpc-status"]
    assert len(statuses) == 1, f"the trailers have {len(statuses)} grpc-status"
    assert re.fullmatch(r"0|[1-9][0-9]*", statuses[0]), f"grpc-status is {statuses[0]!r}"
    early = [block for block in answer.blocks[:-1] if "grpc-status" in dict(block)]
    assert not early, "grpc-status came in a header block before the trailers"


@requirement("serving.grpc.trailers", look_at="how a response is ended")
def test_success_ends_with_trailers(raw_http2: Connect) -> None:
    """A call that succeeds is answered by headers, one message and trailers with `grpc-status: 0`."""
    answer = raw_http2().call().expect_ok()
    _check_trailers(answer)
    assert len(answer.blocks) == 2, f"the response has {len(answer.blocks)} header blocks, not headers and trailers"
    assert len(answer.messages) == 1, f"the response has {len(answer.messages)} messages"
    assert len(answer.data) == 5 + len(answer.messages[0].payload), "bytes follow the message"


@requirement("serving.grpc.trailers", look_at="how an error is sent that comes before any message")
def test_errors_end_with_trailers(raw_http2: Connect) -> None:
    """A call that fails ends with one header block that carries `grpc-status`, and has no message."""
    answer = raw_http2().call(f"{SERVICE}/NoSuchMethod").expect_status(UNIMPLEMENTED, "the call")
    _check_trailers(answer)
    assert not answer.data, "a call that failed was answered with a message"


@requirement("serving.grpc.response-headers")
@pytest.mark.parametrize("path", [pytest.param(LIVE, id="ok"), pytest.param(f"{SERVICE}/NoSuchMethod", id="error")])
def test_headers_of_the_response(raw_http2: Connect, path: str) -> None:
    """The response begins with HTTP status 200 and a content type of gRPC, of an error too."""
    answer = raw_http2().call(path)
    assert answer.http_status == 200, f"the call ended with {answer}"
    types = answer.values("content-type")
    assert len(types) == 1, f"the response has {len(types)} content types"
    assert re.match(r"application/grpc($|[+;])", types[0]), f"the content type of the response is {types[0]!r}"


@requirement("serving.grpc.message-encoding", look_at="the percent-encoding of grpc-message, where an error is sent")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("größe-日本-🙂", id="not-ascii"),
        pytest.param("100%-sure-%41", id="percent"),
        pytest.param("two\r\nlines\ttab\x7f", id="control"),
    ],
)
def test_message_is_percent_encoded(raw_http2: Connect, name: str) -> None:
    """A status message that names an odd model has only what `grpc-message` may have, and decodes to the name."""
    answer = raw_http2().call(INFER, proto.ModelInferRequest(model_name=name).SerializeToString())
    answer.expect_failed("a call for a model that does not exist")
    raw = answer.raw_message or ""
    assert re.fullmatch(r"(?:[\x20-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*", raw), f"grpc-message is {raw!r}"
    try:
        unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise AssertionError(f"grpc-message {raw!r} is no UTF-8 when its %-codes are decoded") from None
    echoed = name[:4] in answer.message
    assert not echoed or name in answer.message, f"grpc-message {raw!r} does not decode to {name!r}"


@requirement("serving.grpc.trailers")
def test_answers_on_one_connection(raw_http2: Connect, model: Model) -> None:
    """Calls one after the other on one connection are each answered on their own stream."""
    connection = raw_http2()
    for number in range(10):
        answer = connection.call(INFER, model.request(id=f"call {number}")).expect_ok(f"call {number}")
        response = proto.ModelInferResponse.FromString(answer.messages[0].payload)
        assert response.id == f"call {number}", f"call {number} was answered with the id {response.id!r}"
