"""What would be served if every worker that the instance keeps running were there. Pure: no I/O, no clock.

A worker that has crashed is started anew, one that was dropped may come back: until
then its requests have nowhere to go, but a client does well to try again. Rules: spec
`lifecycle.crash.unavailable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from anyserve.agent.registry import Registration, Registry, RegistryFull, Target

__all__ = ["Absent"]


class Absent:
    """The registrations of workers that have gone unasked, until they or others in their place are back.

    Args:
        max_workers: of how many workers.
        max_registrations: how many of all of them; what is beyond is not remembered.
    """

    def __init__(self, *, max_workers: int, max_registrations: int) -> None:
        self._places: dict[str, str] = {}  # by the worker that is there, or was there last
        self._registry = Registry(max_workers=max_workers, max_registrations=max_registrations)  # "workers" are places

    def keep(self, place: str, worker_id: str | None) -> None:
        """The instance keeps a worker running at a place, and now it is this one; None: it does so no longer."""
        self._places = {worker: p for worker, p in self._places.items() if p != place}
        if worker_id is None:
            self._registry.unregister_worker(place)
        else:
            self._places[worker_id] = place

    def gone(self, worker_id: str, registrations: Iterable[Registration]) -> None:
        """A worker has gone, with what it had registered; nothing unless it is kept."""
        place = self._places.get(worker_id)
        if place is not None:
            with suppress(RegistryFull):
                for registration in registrations:
                    self._registry.register(replace(registration, worker_id=place))

    def there(self, worker_id: str) -> None:
        """A worker has registered all that it serves: what was there before it at its place is forgotten."""
        place = self._places.get(worker_id)
        if place is not None and self._registry.of_worker(place):
            self._registry.unregister_worker(place)

    def serves(self, target: Target) -> bool:
        """Whether one of the absent workers would serve it."""
        return len(self._registry) > 0 and bool(self._registry.resolve(target).tiers)
