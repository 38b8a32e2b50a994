"""Dynamic batching: which requests a handler gets together, and when. Pure policy.

No clock, no tasks, no I/O: time is a parameter, and whoever drives `Batches` asks again at `wake_at`.
`worker/batching.py` does that.

A batch that could start waits for more requests only while more can be expected. Clients that await one reply
before they send the next request cannot send more than they have had under way at once before, so as soon as as
many are under way again, nothing else can come. That number is learnt without a setting: it rises with each
request that is more than was expected, and a wait in vain lowers it to what was there. So a single client never
waits, 64 clients fill their batches, and what changes costs one wait.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from anyserve.wire import MAX_CONCURRENCY

__all__ = ["Batch", "Batches", "Started", "Ticket"]

MAX_WAIT_MS = 60_000
MAX_RUNNING = 64

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Batch:
    """How requests are put together for one call of a handler.

    Args:
        max_size: requests in one call, or rows of stacked tensors; 1 to 1024.
        max_wait_ms: how long a call that could begin waits for more requests while more can be expected.
        concurrency: calls at once, 1 to 64; those of a function that is not `async def` have a thread each.

    Raises:
        ValueError: a number is out of its range.
    """

    max_size: int = 32
    max_wait_ms: float = 5.0
    concurrency: int = 1

    def __post_init__(self) -> None:
        for name, most in (("max_size", MAX_CONCURRENCY), ("concurrency", MAX_RUNNING)):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"Batch: {name} must be 1 to {most}, got {value!r}")
        if not isinstance(self.max_wait_ms, int | float) or not 0 <= self.max_wait_ms <= MAX_WAIT_MS:
            raise ValueError(f"Batch: max_wait_ms must be 0 to {MAX_WAIT_MS}, got {self.max_wait_ms!r}")

    @property
    def places(self) -> int:
        """Exchanges at once that fill the next calls while `concurrency` of them run."""
        return min(MAX_CONCURRENCY, self.max_size * (self.concurrency + 1))


@dataclass(slots=True, eq=False)
class Ticket(Generic[Item]):
    """One request that waits.

    Attributes:
        item: what was submitted.
        group: only items of one group go into one call.
        size: how much of `max_size` it takes.
        since: when it came.
        deadline: when it fails if it still waits.
        arrival: its place in the order.
    """

    item: Item
    group: Hashable
    size: int
    since: float
    deadline: float
    arrival: int


class Started(NamedTuple, Generic[Item]):
    """What `Batches.start` has taken out of the queue.

    Attributes:
        batch: to be run now, in order; its end is told by `ended`. Empty if all that waited here has expired.
        expired: whose deadline has passed.
    """

    batch: Sequence[Item]
    expired: Sequence[Item]


@dataclass(slots=True, eq=False)
class _Group(Generic[Item]):
    tickets: deque[Ticket[Item]] = field(default_factory=deque)
    size: int = 0
    due: bool = False
    """It starts as soon as a place is free, full or not."""

    @property
    def head(self) -> Ticket[Item]:
        return self.tickets[0]


class Batches(Generic[Item]):
    """The requests of one handler that wait, and how many run.

    Args:
        limits: of a batch, and how many run at once.
        places: how many requests can be under way, `max_concurrency` of the registration.
    """

    def __init__(self, limits: Batch, places: int) -> None:
        self._limits = limits
        self._places = places
        self._groups: dict[Hashable, _Group[Item]] = {}
        self._arrivals = 0
        self._waiting = 0
        self._running = 0
        self._running_batches = 0
        self._expected = 0
        self._free_since = -math.inf  # when the last of the places for batches became free

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._waiting

    def submit(
        self, item: Item, *, now: float, group: Hashable = None, size: int = 1, deadline: float = math.inf
    ) -> Ticket[Item]:
        """Puts a request at the end of the queue.

        Raises:
            ValueError: it would fit into no batch.
        """
        if not 1 <= size <= self._limits.max_size:
            raise ValueError(f"size must be 1 to {self._limits.max_size}, got {size}")
        self._arrivals += 1
        ticket = Ticket(item, group, size, now, deadline, self._arrivals)
        queue = self._groups.setdefault(group, _Group())
        queue.tickets.append(ticket)
        queue.size += size
        self._waiting += 1
        self._expected = max(self._expected, self._under_way)
        return ticket

    def withdraw(self, ticket: Ticket[Item]) -> None:
        """Takes a request out of the queue; does nothing to one that no longer waits."""
        queue = self._groups.get(ticket.group)
        if queue is not None and ticket in queue.tickets:
            queue.tickets.remove(ticket)
            self._left(ticket, queue)

    def start(self, now: float) -> Started[Item] | None:
        """The batch that is to be run now, if there is one; ask until there is none."""
        if not self._waiting or self._running_batches >= self._limits.concurrency:
            return None
        self._judge(now)
        ready = [queue for queue in self._groups.values() if queue.due or queue.size >= self._limits.max_size]
        if not ready:
            return None
        chosen = min(ready, key=_arrival)
        # A full group may pass an older one that still waits, but once: a steady flow of full ones would starve it.
        for queue in self._groups.values():
            queue.due |= queue.head.arrival < chosen.head.arrival
        started = self._take(chosen, now)
        self._running += len(started.batch)
        self._running_batches += bool(started.batch)
        return started

    def ended(self, size: int, now: float) -> None:
        """A batch of so many requests has ended."""
        if self._running_batches == self._limits.concurrency:
            self._free_since = now
        self._running_batches -= 1
        self._running -= size

    def wake_at(self) -> float | None:
        """When to ask `start` again though nothing has changed; None: not before something has.

        What waits while all places for batches are taken waits for these, not for more requests: its time counts
        from when one became free. Else a batch that outlasts `max_wait_ms` would split its clients in two
        halves which then take turns, each with half a batch.
        """
        if not self._waiting or self._running_batches >= self._limits.concurrency:
            return None
        oldest = min(queue.head.since for queue in self._groups.values())
        return max(oldest, self._free_since) + self._limits.max_wait_ms / 1000

    @property
    def _under_way(self) -> int:
        return self._waiting + self._running

    def _judge(self, now: float) -> None:
        """Whether what waits has waited enough, because nothing else can come or in vain."""
        wake_at = self.wake_at()
        if self._under_way < min(self._expected, self._places):
            if wake_at is None or now < wake_at:
                return
            self._expected = self._under_way
        for queue in self._groups.values():
            queue.due = True

    def _take(self, queue: _Group[Item], now: float) -> Started[Item]:
        """The head of a group, as much as fits."""
        batch: list[Item] = []
        expired: list[Item] = []
        room = self._limits.max_size
        while queue.tickets and (queue.head.size <= room or queue.head.deadline <= now):
            ticket = queue.tickets.popleft()
            self._left(ticket, queue)
            if ticket.deadline <= now:
                expired.append(ticket.item)
            else:
                batch.append(ticket.item)
                room -= ticket.size
        queue.due = False  # the rest of a full one may fill the next
        return Started(batch, expired)

    def _left(self, ticket: Ticket[Item], queue: _Group[Item]) -> None:
        queue.size -= ticket.size
        self._waiting -= 1
        if not queue.tickets:
            del self._groups[ticket.group]


def _arrival(queue: _Group[Item]) -> int:
    return queue.head.arrival
