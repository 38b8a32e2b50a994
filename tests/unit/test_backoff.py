"""The waits before a worker is started anew."""

from __future__ import annotations

from anyserve.control.backoff import FIRST, LONGEST, STABLE_AFTER, Backoff


def test_twice_as_long_each_time_up_to_the_longest() -> None:
    backoff = Backoff()
    assert [backoff.after(1.0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_the_first_again_after_a_worker_that_was_stable() -> None:
    backoff = Backoff()
    waits = [backoff.after(ran) for ran in (0.0, 0.0, STABLE_AFTER - 0.1, STABLE_AFTER, 0.0)]
    assert waits == [0.5, 1, 2, 0.5, 1]


def test_the_numbers_are_those_of_the_specification() -> None:
    assert (FIRST, LONGEST, STABLE_AFTER) == (0.5, 30.0, 60.0)
