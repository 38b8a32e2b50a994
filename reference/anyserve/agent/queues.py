"""Who gets a worker's next free place: limits, choice within a tier, and the bounded queues. Pure policy.

No sockets, no clock, no tasks: a `Ticket` that has to wait carries a callback,
and whoever frees a place or changes the registry makes the callback run. Deadlines
are the caller's, who withdraws the ticket. Rules: spec `queue.*` and
`route.rank.*`, wire.md sections 2 and 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from anyserve.agent.registry import Registration, Route

__all__ = ["Admission", "NothingLeft", "QueueFull", "Slot", "Ticket"]

ModelKey = tuple[str, str, str]
QueueKey = tuple[ModelKey, ...]
"""A queue is named by the models among which its requests may go."""
LaneKey = tuple[tuple[str, str, str, str], ...]
"""Those of a queue that may use the same places: one takes no streams, another has tried a worker in vain."""
Pool = ModelKey | None
"""What shares a limit: a registration that states its `max_concurrency` has a pool of its own, all others of a
worker share one (`frame.connections.limit`)."""


class QueueFull(Exception):
    """The queue that a request would wait in has no room."""


class NothingLeft(Exception):
    """No registration is left that a request could go to or wait for."""


@dataclass(slots=True, eq=False)
class WorkerLoad:
    """How busy one worker is."""

    worker_id: str
    in_flight: int = 0
    last_chosen: int = 0
    used: dict[Pool, int] = field(default_factory=dict)
    """Exchanges in flight per pool."""
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to run one exchange of `registration`; given back with `Admission.release`."""

    registration: Registration
    load: WorkerLoad


@dataclass(slots=True, eq=False)
class Ticket:
    """One request that wants a slot.

    Args:
        resolve: the route of its target as it is now.
        granted: set before the ticket waits; called once when it gets its slot, or with
            None when no registration is left that it could wait for.
        excluded: keys of registrations that this request has tried in vain.
    """

    resolve: Callable[[], Route]
    granted: Callable[[Slot | None], None] = lambda _: None
    excluded: set[tuple[str, str, str, str]] = field(default_factory=set)
    arrival: int = 0
    tier: tuple[Registration, ...] = ()
    queue: QueueKey | None = None
    lane: LaneKey = ()


class Admission:
    """Grants slots to tickets and keeps the rest waiting, first come first served per queue.

    A request waits in the queue of its best match: better-ranked but busy is waited
    for, not skipped (`route.rank.before-load`).

    Args:
        queue_size: how many tickets may wait in one queue.
        default_max_concurrency: exchanges at once over all registrations of a worker that state no number.
    """

    def __init__(self, queue_size: int, default_max_concurrency: int) -> None:
        self._queue_size = queue_size
        self._default_max_concurrency = default_max_concurrency
        self._loads: dict[str, WorkerLoad] = {}
        self._queues: dict[QueueKey, dict[LaneKey, deque[Ticket]]] = {}
        self._arrivals = 0
        self._choices = 0

    @property
    def waiting(self) -> int:
        """How many tickets wait, over all queues."""
        return sum(self.depths().values())

    def depths(self) -> dict[QueueKey, int]:
        """How many tickets wait, per queue that has any."""
        return {key: self._depth(key) for key in self._queues}

    def in_flight(self, worker_id: str) -> int:
        """How many exchanges a worker runs."""
        load = self._loads.get(worker_id)
        return load.in_flight if load else 0

    def submit(self, ticket: Ticket) -> Slot | None:
        """Asks for a slot: returned at once if one is free, else the ticket waits (None).

        Raises:
            NothingLeft: no registration is left that the ticket could wait for.
            QueueFull: the ticket would have to wait and its queue has no room.
        """
        ticket.tier = self._tier(ticket)
        slot = self._take(ticket.tier)  # overtakes nobody: who waits cannot use what is free, see `_serve`
        if slot is not None:
            return slot
        if self._depth(_queue_key(ticket.tier)) >= self._queue_size:
            raise QueueFull(f"{self._queue_size} requests are waiting already (--queue-size)")
        self._arrivals += 1
        ticket.arrival = self._arrivals
        self._enqueue(ticket)
        return None

    def withdraw(self, ticket: Ticket) -> None:
        """Takes a waiting ticket out of its queue; does nothing to one that no longer waits."""
        if ticket.queue is None:
            return
        lanes = self._queues[ticket.queue]
        lanes[ticket.lane].remove(ticket)
        if not lanes[ticket.lane]:
            del lanes[ticket.lane]
        if not lanes:
            del self._queues[ticket.queue]
        ticket.queue = None

    def release(self, slot: Slot) -> None:
        """Gives a slot back, and hands it to the first ticket that can use it."""
        load, pool = slot.load, _pool(slot.registration)
        load.in_flight -= 1
        load.used[pool] -= 1
        if not load.used[pool]:
            del load.used[pool]
        if load.gone and not load.in_flight:
            self._loads.pop(load.worker_id, None)
        self._serve()

    def forget_worker(self, worker_id: str) -> None:
        """A worker has no registration left; what it still runs counts should it come back."""
        load = self._loads.get(worker_id)
        if load is not None:
            load.gone = True
            if not load.in_flight:
                del self._loads[worker_id]

    def reconsider(self) -> None:
        """After a change of the registry: gives every waiting ticket its new tier and queue, in order of arrival."""
        tickets = sorted((ticket for lane in self._lanes() for ticket in lane), key=_arrival)
        self._queues.clear()
        for ticket in tickets:
            ticket.queue = None
            try:
                ticket.tier = self._tier(ticket)
            except NothingLeft:
                ticket.granted(None)
            else:
                self._enqueue(ticket)  # it was accepted once, so it is not refused now
        self._serve()

    def _enqueue(self, ticket: Ticket) -> None:
        ticket.queue = _queue_key(ticket.tier)
        ticket.lane = tuple(registration.key for registration in ticket.tier)
        self._queues.setdefault(ticket.queue, {}).setdefault(ticket.lane, deque()).append(ticket)

    def _lanes(self) -> Iterator[deque[Ticket]]:
        return (lane for lanes in self._queues.values() for lane in lanes.values())

    def _depth(self, key: QueueKey) -> int:
        return sum(map(len, self._queues.get(key, {}).values()))

    def _serve(self) -> None:
        """Grants free slots to the heads of the lanes, earliest arrival first, until none fits."""
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        for ticket in sorted((lane[0] for lane in self._lanes()), key=_arrival):
            # All in a lane may use the same places, so that what the head cannot use the rest cannot either.
            slot = self._take(ticket.tier)
            if slot is not None:
                self.withdraw(ticket)
                ticket.granted(slot)
                return True
        return False

    def _tier(self, ticket: Ticket) -> tuple[Registration, ...]:
        for tier in ticket.resolve().tiers:
            if not ticket.excluded:
                return tier
            left = tuple(r for r in tier if r.key not in ticket.excluded)
            if left:
                return left
        raise NothingLeft

    def _take(self, tier: tuple[Registration, ...]) -> Slot | None:
        """The free registration with the fewest exchanges in flight; among equals the one chosen longest ago."""
        best: tuple[int, int] | None = None
        chosen: Slot | None = None
        for registration in tier:
            load = self._load(registration.worker_id)
            limit = registration.max_concurrency or self._default_max_concurrency
            if load.used.get(_pool(registration), 0) >= limit:
                continue
            rank = (load.in_flight, load.last_chosen)
            if best is None or rank < best:
                best, chosen = rank, Slot(registration, load)
        if chosen is not None:
            self._choices += 1
            load, pool = chosen.load, _pool(chosen.registration)
            load.last_chosen = self._choices
            load.in_flight += 1
            load.used[pool] = load.used.get(pool, 0) + 1
        return chosen

    def _load(self, worker_id: str) -> WorkerLoad:
        load = self._loads.get(worker_id)
        if load is None:
            load = self._loads[worker_id] = WorkerLoad(worker_id)
        load.gone = False
        return load


def _pool(registration: Registration) -> Pool:
    return registration.model_key if registration.max_concurrency else None


def _queue_key(tier: tuple[Registration, ...]) -> QueueKey:
    return tuple(sorted({registration.model_key for registration in tier}))


def _arrival(ticket: Ticket) -> int:
    return ticket.arrival
