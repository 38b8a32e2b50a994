"""`grpc-timeout`: units, digits, malformed values, and a deadline that passes."""

from __future__ import annotations

import time

import pytest

from anyserve_conformance.raw_grpc import GrpcAnswer, prefixed
from anyserve_conformance.raw_http2 import Connect
from anyserve_conformance.requirement import requirement

LOOK_AT = "the reading of grpc-timeout: 1 to 8 digits, a unit, and no overflow of the product"

DEADLINE_EXCEEDED = 4
CANCEL = 8
CANCELLED = 1


def _deadline_passed(answer: GrpcAnswer) -> bool:
    """As gRPC has it: the status, or RST_STREAM with CANCEL, which clients read as the same."""
    return answer.status in (DEADLINE_EXCEEDED, CANCELLED) or answer.reset == CANCEL


@requirement("serving.grpc.timeout")
@pytest.mark.parametrize("timeout", ["1H", "10M", "100S", "100000m", "90000000u"])
def test_each_unit_is_taken(raw_http2: Connect, timeout: str) -> None:
    """A call with a timeout in this unit is served."""
    raw_http2().call(timeout=timeout).expect_ok(f"a call with grpc-timeout {timeout}")


@requirement("serving.grpc.timeout")
@pytest.mark.parametrize("timeout", ["1n", "99999999n", "1u", "1m"])
def test_short_timeouts_are_taken(raw_http2: Connect, timeout: str) -> None:
    """A call with a very short timeout is served or ends because its deadline has passed."""
    answer = raw_http2().call(timeout=timeout)
    assert answer.ok or _deadline_passed(answer), f"a call with grpc-timeout {timeout} ended with {answer}"


@requirement(
    "serving.grpc.timeout", look_at="the product of number and unit, which must not overflow, nor that of a timer"
)
@pytest.mark.parametrize("unit", ["H", "M"])
def test_one_to_eight_digits_are_taken(raw_http2: Connect, unit: str) -> None:
    """Calls with timeouts of one to eight nines are still there after 0.1 seconds, and are served then."""
    connection = raw_http2()
    streams = {"9" * digits + unit: connection.open(timeout="9" * digits + unit) for digits in range(1, 9)}
    connection.wait(lambda: any(connection.streams[stream].finished for stream in streams.values()), within=0.1)
    for timeout, stream in streams.items():
        connection.upload(stream, prefixed(b""))
        connection.answer(stream).expect_ok(f"a call with grpc-timeout {timeout}")


@requirement("serving.grpc.timeout")
def test_leading_zeros_are_taken(raw_http2: Connect) -> None:
    """A timeout may have zeros in front."""
    raw_http2().call(timeout="00000100S").expect_ok("a call with grpc-timeout 00000100S")


@requirement("serving.grpc.timeout", look_at="which unit each letter stands for: H, M, S are long, m, u, n are short")
def test_does_not_end_before_its_time(raw_http2: Connect) -> None:
    """Calls with a timeout of a minute and more are still there after 0.2 seconds, and are served then."""
    connection = raw_http2()
    streams = {timeout: connection.open(timeout=timeout) for timeout in ("1H", "1M", "60S", "60000m", "60000000u")}
    connection.wait(lambda: any(connection.streams[stream].finished for stream in streams.values()), within=0.2)
    for timeout, stream in streams.items():
        answer = connection.streams[stream]
        assert not answer.finished, f"a call with grpc-timeout {timeout} ended at once with {answer}"
        connection.upload(stream, prefixed(b""))
        connection.answer(stream).expect_ok(f"a call with grpc-timeout {timeout}")


@requirement("serving.grpc.deadline", look_at="what ends a call whose message does not come")
def test_ends_when_the_deadline_passes(raw_http2: Connect) -> None:
    """Calls whose message never comes end when their deadline passes, and not before."""
    connection = raw_http2()
    started = time.monotonic()
    streams = {timeout: connection.open(timeout=timeout) for timeout in ("150m", "150000u", "99999999n")}
    ended: dict[str, float] = {}

    def all_ended() -> bool:
        over = [timeout for timeout, stream in streams.items() if connection.streams[stream].finished]
        ended.update({timeout: time.monotonic() - started for timeout in over if timeout not in ended})
        return len(ended) == len(streams)

    connection.wait(all_ended, within=3)
    for timeout, stream in streams.items():
        answer = connection.streams[stream]
        assert answer.finished, f"a call with grpc-timeout {timeout} did not end"
        assert _deadline_passed(answer), f"a call with grpc-timeout {timeout} ended with {answer}"
        assert ended[timeout] > 0.09, f"a call with grpc-timeout {timeout} ended after {ended[timeout]:.3f} s"


@requirement("serving.grpc.deadline")
def test_goes_on_after_a_deadline(raw_http2: Connect) -> None:
    """The connection goes on after the deadline of one of its calls has passed; late bytes of it are no harm."""
    connection = raw_http2()
    stream = connection.open(timeout="100m")
    other = connection.open(timeout="60S")
    connection.answer(stream, within=3).expect_failed("a call with grpc-timeout 100m")
    connection.data(stream, prefixed(b""), end_stream=True)
    connection.upload(other, prefixed(b""))
    connection.answer(other).expect_ok("another call on the connection")


@requirement("serving.grpc.bad-timeout")
@pytest.mark.parametrize(
    "timeouts",
    [
        pytest.param(["123456789S", "000000010S"], id="nine-digits"),
        pytest.param(["10", "S", ""], id="part-missing"),
        pytest.param(["-10S", "+10S", "1.5S", "0x10S", "abcS"], id="not-digits"),
        pytest.param(["10x", "10s", "10SS"], id="not-a-unit"),
    ],
)
def test_malformed_timeout_fails(raw_http2: Connect, timeouts: list[str]) -> None:
    """Calls with malformed timeouts end with errors, and the connection goes on."""
    connection = raw_http2()
    streams = [connection.start(timeout=timeout) for timeout in timeouts]  # together: some servers delay refusals
    for timeout, stream in zip(timeouts, streams, strict=True):
        connection.answer(stream).expect_failed(f"a call with grpc-timeout {timeout!r}")
    connection.call().expect_ok("the call after them")
