"""Streams: resets, many at once, more than are allowed, and what comes on a stream that is over."""

from __future__ import annotations

import pytest

from anyserve_conformance import proto
from anyserve_conformance.fixtures import Model
from anyserve_conformance.raw_grpc import INFER, GrpcAnswer, prefixed
from anyserve_conformance.raw_http2 import Connect
from anyserve_conformance.requirement import not_applicable, requirement

LOOK_AT = "what is kept of a stream, and when it is let go"

MAX_CONCURRENT_STREAMS = 3
INITIAL_WINDOW_SIZE = 4
MANY = 100


def _expect_id(answer: GrpcAnswer, request_id: str) -> None:
    answer.expect_ok(f"the call {request_id!r}")
    response = proto.ModelInferResponse.FromString(answer.messages[0].payload)
    assert response.id == request_id, f"the call {request_id!r} was answered with the id {response.id!r}"


@requirement("serving.grpc.reset", look_at="what a reset call leaves behind on its connection")
@pytest.mark.parametrize(
    "place", ["before-the-message", "in-the-prefix", "in-the-message", "after-the-message", "ended"]
)
def test_call_is_reset(raw_http2: Connect, model: Model, place: str) -> None:
    """After a call was reset anywhere, the other calls of the connection are answered, those before it and after it."""
    connection = raw_http2()
    body = prefixed(model.request())
    earlier = connection.open(INFER)
    size = {"before-the-message": 0, "in-the-prefix": 3, "in-the-message": 9}.get(place, len(body))
    stream = connection.open(INFER)
    connection.data(stream, body[:size], end_stream=place == "ended")
    connection.reset(stream)
    connection.upload(earlier, prefixed(model.request(id="earlier")))
    _expect_id(connection.answer(earlier), "earlier")
    _expect_id(connection.call(INFER, model.request(id="later")), "later")


@requirement("serving.grpc.reset")
@pytest.mark.parametrize("code", ["NO_ERROR", "CANCEL", "REFUSED_STREAM", "INTERNAL_ERROR", "ENHANCE_YOUR_CALM"])
def test_any_code_resets(raw_http2: Connect, code: str) -> None:
    """A reset with any error code ends its call alone."""
    connection = raw_http2()
    connection.reset(connection.open(), code)
    connection.call().expect_ok("the call after it")


@requirement(
    "serving.grpc.reset", look_at="frames of a stream that was reset a moment ago, which may still be on their way"
)
def test_late_frames_of_a_reset_stream(raw_http2: Connect) -> None:
    """WINDOW_UPDATE and RST_STREAM for a call that has ended are ignored."""
    connection = raw_http2()
    answer = connection.call().expect_ok()
    connection.window_update(answer.stream, 100)
    connection.reset(answer.stream, "NO_ERROR")
    connection.call().expect_ok("the call after it")


@requirement("serving.grpc.concurrent", look_at="how many calls of one connection run at once")
def test_many_at_once(raw_http2: Connect, model: Model) -> None:
    """As many calls as the server allows, 100 at most, are open at once on a connection and all are served."""
    connection = raw_http2(settings={INITIAL_WINDOW_SIZE: 0})  # no response ends before the windows are opened
    count = min(MANY, connection.peer_settings.get(MAX_CONCURRENT_STREAMS, MANY))
    streams = [connection.start(INFER, model.request(id=f"call {number}")) for number in range(count)]
    assert connection.round_trip(), "PING was not answered while calls were open"
    refused = [connection.streams[stream] for stream in streams if connection.streams[stream].finished]
    assert not refused, f"{len(refused)} of {count} calls ended at once: {refused[0]}"
    connection.settings({INITIAL_WINDOW_SIZE: 65_535})
    for number, stream in reversed(list(enumerate(streams))):
        _expect_id(connection.answer(stream), f"call {number}")


@requirement("serving.grpc.concurrent")
def test_interleaved_messages(raw_http2: Connect, model: Model) -> None:
    """Calls whose messages come in turns, a few bytes each, are all served with their own."""
    connection = raw_http2()
    bodies = [prefixed(model.request(id=f"turn {number}")) for number in range(5)]
    streams = [connection.open(INFER) for _ in bodies]
    for start in range(0, max(map(len, bodies)), 20):
        for stream, body in zip(streams, bodies, strict=True):
            if start < len(body):
                connection.data(stream, body[start : start + 20], end_stream=start + 20 >= len(body))
    for number, stream in enumerate(streams):
        _expect_id(connection.answer(stream), f"turn {number}")


@requirement("serving.grpc.max-streams", look_at="what happens to a stream beyond SETTINGS_MAX_CONCURRENT_STREAMS")
def test_one_too_many(raw_http2: Connect) -> None:
    """A stream beyond the number that the server announced is refused, and the others are served."""
    connection = raw_http2(settings={INITIAL_WINDOW_SIZE: 0})
    allowed = connection.peer_settings.get(MAX_CONCURRENT_STREAMS)
    if allowed is None or allowed > 2_000:
        not_applicable(f"the server allows {'any number of' if allowed is None else allowed} streams at once")
    streams = [connection.start() for _ in range(allowed + 1)]
    surplus = connection.answer(streams.pop())
    surplus.expect_failed(f"the call on stream {allowed + 1}, of {allowed} that are allowed,")
    if not surplus.lost:
        connection.settings({INITIAL_WINDOW_SIZE: 65_535})
        for stream in streams:
            connection.answer(stream).expect_ok("a call within the number that is allowed")
