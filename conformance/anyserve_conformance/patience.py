"""How long the suite waits. Cases name seconds of a quiet machine; `--patience` stretches them."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Patience"]

LONG = 15.0
"""Seconds within which everything must happen that must happen at all."""


class Patience:
    """`patience(seconds)` is that many seconds times the factor of `--patience`."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, seconds: float = LONG) -> float:
        return seconds * self.factor

    def until(self, true: Callable[[], bool], what: str, *, within: float = LONG) -> None:
        """Waits until something holds that the subject does at some time.

        Args:
            true: asked again and again, first every 2 ms.
            what: the rest of "waited in vain for …".
            within: seconds, stretched.

        Raises:
            AssertionError: it did not come to hold.
        """
        deadline = time.monotonic() + self(within)
        pause = 0.002
        while not true():
            assert time.monotonic() < deadline, f"waited {self(within):g} s in vain for {what}"
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def while_nothing(self, happens: Callable[[], bool], what: str, *, for_: float = 0.15) -> None:
        """Watches that something does not happen; not stretched: a subject can only be found out by it, never blamed.

        Raises:
            AssertionError: it happened.
        """
        deadline = time.monotonic() + for_
        while time.monotonic() < deadline:
            assert not happens(), what
            time.sleep(0.005)
        assert not happens(), what
