"""How long to wait before a worker is started anew. Pure. Rules: spec `lifecycle.crash.restart`, `.reset`."""

from __future__ import annotations

__all__ = ["FIRST", "LONGEST", "STABLE_AFTER", "Backoff"]

FIRST = 0.5
LONGEST = 30.0
STABLE_AFTER = 60.0
"""A worker that ran so long is no longer in a crash loop: the next wait is the first again."""


class Backoff:
    """The waits of one place, in seconds: twice as long each further time, up to a limit."""

    def __init__(self) -> None:
        self._next = FIRST

    def after(self, ran_for: float) -> float:
        """The wait after a worker that has run for so many seconds."""
        wait = FIRST if ran_for >= STABLE_AFTER else self._next
        self._next = min(wait * 2, LONGEST)
        return wait
