"""Flow control: windows that are closed, tiny, opened late or made smaller; large messages in both directions."""

from __future__ import annotations

import pytest

from anyserve_conformance import proto
from anyserve_conformance.fixtures import Model
from anyserve_conformance.raw_grpc import INFER, GrpcAnswer, prefixed
from anyserve_conformance.raw_http2 import Connect, Http2Connection
from anyserve_conformance.requirement import requirement

LOOK_AT = "the two windows of a response, the stream's and the connection's, and what waits for them"

INITIAL_WINDOW_SIZE = 4
WINDOW = 65_535
CLOSED = {INITIAL_WINDOW_SIZE: 0}
LARGE = 150_000  # more than the first window of a connection


def _expect_no_data(connection: Http2Connection, answer: GrpcAnswer, already: int = 0) -> None:
    """Nothing beyond the window comes; `Http2Violation` would be raised otherwise, this catches an early end."""
    connection.wait(lambda: answer.finished, within=0.1)
    assert not answer.finished, f"the call ended while its window was closed: {answer}"
    assert len(answer.data) == already, f"{len(answer.data)} bytes came through a window of {already}"


def _expect_id(answer: GrpcAnswer, request_id: str) -> None:
    answer.expect_ok()
    response = proto.ModelInferResponse.FromString(answer.messages[0].payload)
    assert response.id == request_id, f"the response has another id, of {len(response.id)} characters"


@requirement("serving.grpc.flow-control")
@pytest.mark.parametrize("opened_by", ["WINDOW_UPDATE", "SETTINGS"])
def test_closed_window_is_opened(raw_http2: Connect, opened_by: str) -> None:
    """A response waits while its stream's window is 0, and goes on when it is opened."""
    connection = raw_http2(settings=CLOSED)
    stream = connection.start()
    _expect_no_data(connection, connection.streams[stream])
    if opened_by == "SETTINGS":
        connection.settings({INITIAL_WINDOW_SIZE: WINDOW})
    else:
        connection.window_update(stream, 1_000)
    connection.answer(stream).expect_ok()


@requirement("serving.grpc.flow-control")
def test_window_of_one_byte(raw_http2: Connect) -> None:
    """A response goes through a window that is opened by one byte after the other."""
    connection = raw_http2(settings={INITIAL_WINDOW_SIZE: 1}, auto_window=False)
    stream = connection.start()
    answer = connection.streams[stream]
    seen: list[int] = []
    while connection.wait(lambda: answer.finished or len(answer.data) > len(seen)) and not answer.finished:
        seen.append(len(answer.data))
        connection.window_update(stream, 1)
    answer.expect_ok()
    assert seen == list(range(1, len(seen) + 1)), "more came than one byte at a time"


@requirement("serving.grpc.flow-control")
@pytest.mark.parametrize("window", [1, 3, 5])
def test_large_response_begins_in_a_tiny_window(raw_http2: Connect, model: Model, window: int) -> None:
    """The first bytes of a large response, of which five are gRPC's prefix, go through a window of few bytes."""
    connection = raw_http2(settings={INITIAL_WINDOW_SIZE: window}, auto_window=False)
    connection.window_update(0, 4 * LARGE)
    stream = connection.start(INFER, model.request(id="t" * LARGE))
    answer = connection.streams[stream]
    for times in range(1, 5):
        expected = times * window
        assert connection.wait(lambda: len(answer.data) == expected), f"{len(answer.data)} bytes came, not {expected}"  # noqa: B023
        connection.window_update(stream, window)
    connection.window_update(stream, 4 * LARGE)
    _expect_id(connection.answer(stream), "t" * LARGE)


@requirement("serving.grpc.flow-control")
def test_window_of_the_connection(raw_http2: Connect, model: Model) -> None:
    """A response larger than the connection's window waits for it, although its stream's window is open."""
    connection = raw_http2(settings={INITIAL_WINDOW_SIZE: 1 << 20}, auto_window=False)
    stream = connection.start(INFER, model.request(id="c" * LARGE))
    answer = connection.streams[stream]
    assert connection.wait(lambda: len(answer.data) == WINDOW), f"{len(answer.data)} bytes came, not {WINDOW}"
    _expect_no_data(connection, answer, WINDOW)
    connection.window_update(0, LARGE)
    _expect_id(connection.answer(stream), "c" * LARGE)


@requirement(
    "serving.grpc.flow-control", look_at="SETTINGS that make the window of a stream negative (RFC 9113, 6.9.2)"
)
def test_window_is_made_smaller(raw_http2: Connect, model: Model) -> None:
    """A window that SETTINGS make negative stays closed until WINDOW_UPDATE has brought it above 0."""
    connection = raw_http2(auto_window=False)
    connection.window_update(0, 4 * LARGE)
    stream = connection.start(INFER, model.request(id="n" * LARGE))
    answer = connection.streams[stream]
    assert connection.wait(lambda: len(answer.data) == WINDOW), f"{len(answer.data)} bytes came, not {WINDOW}"
    connection.settings({INITIAL_WINDOW_SIZE: 0})
    connection.wait(lambda: connection.settings_acks > 1)
    connection.window_update(stream, WINDOW)
    _expect_no_data(connection, answer, WINDOW)
    connection.window_update(stream, 2 * LARGE)
    _expect_id(connection.answer(stream), "n" * LARGE)


@requirement("serving.grpc.stalled-stream", look_at="that a response without a window holds up nothing but itself")
def test_stalled_stream_holds_up_no_other(raw_http2: Connect, model: Model) -> None:
    """While the responses of some calls have no window, other calls of the connection are answered."""
    connection = raw_http2(settings=CLOSED)
    stalled = [connection.start(INFER, model.request(id=f"stalled {number}")) for number in range(8)]
    for number in range(8):
        stream = connection.open(INFER)
        connection.window_update(stream, WINDOW)
        connection.upload(stream, prefixed(model.request(id=f"open {number}")))
        _expect_id(connection.answer(stream), f"open {number}")
    for number, stream in enumerate(stalled):
        connection.window_update(stream, WINDOW)
        _expect_id(connection.answer(stream), f"stalled {number}")


@requirement(
    "serving.grpc.stalled-stream", look_at="what is freed when a call is reset whose response waits for a window"
)
def test_stalled_stream_is_reset(raw_http2: Connect) -> None:
    """A call whose response waits for a window can be reset, and the connection goes on."""
    connection = raw_http2(settings=CLOSED)
    streams = [connection.start() for _ in range(20)]
    for stream in streams:
        connection.reset(stream)
    stream = connection.open()
    connection.window_update(stream, WINDOW)
    connection.upload(stream, prefixed(b""))
    connection.answer(stream).expect_ok("the call after them")


@requirement(
    "serving.grpc.receive-window", look_at="WINDOW_UPDATE as a message is read, for the stream and the connection"
)
def test_large_request(raw_http2: Connect, model: Model) -> None:
    """A message of 1 MiB is taken within the windows that the server opens, and returned."""
    connection = raw_http2()
    _expect_id(connection.call(INFER, model.request(id="L" * (1 << 20))), "L" * (1 << 20))


@requirement("serving.grpc.receive-window")
def test_many_requests(raw_http2: Connect, model: Model) -> None:
    """A connection takes far more bytes in its course than its first window."""
    connection = raw_http2()
    for _ in range(8):
        connection.call(INFER, model.request(id="m" * 50_000)).expect_ok("a call with 50,000 bytes")


@requirement("serving.grpc.receive-window", look_at="the window that data of refused and reset calls has taken")
def test_refused_data_gives_its_window_back(raw_http2: Connect) -> None:
    """Data of calls that are refused or reset does not use up the window of the connection."""
    connection = raw_http2()
    for number in range(12):
        path = "/no.such.Service/Method" if number % 2 else INFER
        stream = connection.open(path)
        connection.upload(stream, prefixed(b"x" * 40_000, length=80_000), end_stream=False)
        connection.reset(stream)
    connection.call().expect_ok("the call after them")
