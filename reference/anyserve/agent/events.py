"""What happens to registrations and to the agent, told to whoever watches (WatchEvents)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

from anyserve.agent.registry import Registration

__all__ = ["Event", "EventLog", "EventType", "TooManyWatchers", "WatcherTooSlow"]

WATCHER_BUFFER = 1024


class EventType(IntEnum):
    """Numbers of `Event.Type` in worker_management.proto."""

    MODEL_REGISTERED = 1
    MODEL_UNREGISTERED = 2
    WORKER_LOST = 3
    WORKER_UNREGISTERED = 4
    SERVER_READY = 5
    SERVER_DRAINING = 6


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    sequence: int
    time_unix_ms: int
    type: EventType
    worker_id: str = ""
    registration: Registration | None = None
    message: str = ""


class TooManyWatchers(Exception):
    """The limit on watchers is reached."""


class WatcherTooSlow(Exception):
    """A watcher did not take its events; it has missed some."""


_Watcher = asyncio.Queue[Event | WatcherTooSlow | None]
"""What one watcher has to take: events, then why it gets no more, or None."""


class EventLog:
    """Numbers events and hands them to the watchers, none of which can hold up the agent.

    Args:
        max_watchers: how many may watch at once.
    """

    def __init__(self, max_watchers: int) -> None:
        self._max_watchers = max_watchers
        self._watchers: set[_Watcher] = set()
        self._sequence = 0
        self._closed = False

    def publish(
        self, type_: EventType, *, worker_id: str = "", registration: Registration | None = None, message: str = ""
    ) -> None:
        """Tells an event to every watcher."""
        self._sequence += 1
        self.tell(Event(self._sequence, time.time_ns() // 1_000_000, type_, worker_id, registration, message))

    def tell(self, event: Event) -> None:
        """Tells an event that somebody else has numbered."""
        for watcher in tuple(self._watchers):
            if watcher.qsize() < WATCHER_BUFFER:
                watcher.put_nowait(event)
            else:
                self._watchers.discard(watcher)
                watcher.put_nowait(WatcherTooSlow(f"{WATCHER_BUFFER} events were not taken; call WatchEvents again"))

    def close(self) -> None:
        """Ends what the watchers get, behind the events that they have not taken yet."""
        self._closed = True
        while self._watchers:
            self._watchers.pop().put_nowait(None)

    @property
    def sequence(self) -> int:
        """The number of the last event."""
        return self._sequence

    @contextmanager
    def watching(self) -> Iterator[AsyncIterator[Event]]:
        """The events from the moment of entering on.

        Raises:
            TooManyWatchers: on entering.
            WatcherTooSlow: from the iterator, when 1,024 events wait for it.
        """
        if len(self._watchers) >= self._max_watchers:
            raise TooManyWatchers(f"{self._max_watchers} watchers are there already (--max-watchers)")
        queue: _Watcher = asyncio.Queue()
        if self._closed:
            queue.put_nowait(None)
        else:
            self._watchers.add(queue)
        try:
            yield _taken_from(queue)
        finally:
            self._watchers.discard(queue)


async def _taken_from(queue: _Watcher) -> AsyncIterator[Event]:
    while (event := await queue.get()) is not None:
        if isinstance(event, WatcherTooSlow):
            raise event
        yield event
