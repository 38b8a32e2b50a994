"""An implementation's Admission at work with its Registry, for tests that ask and see who gets what."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from support.policies import Policy

__all__ = ["Desk"]


class Desk:
    """An Admission with a Registry, and the grants of each named ticket.

    Args:
        policy: the implementation.
        queue_size: how many may wait in one queue.
    """

    def __init__(self, policy: Policy, *, queue_size: int = 10) -> None:
        self.policy = policy
        self.registry = policy.Registry(max_workers=100, max_registrations=100)
        self.admission = policy.Admission(queue_size, default_max_concurrency=2)
        self.grants: dict[str, Any] = {}
        """The slot of each request that has one, and None for each that was told that nothing is left for it."""
        self.tickets: dict[str, Any] = {}
        self.waiting: list[str] = []
        """Who waits, in order of arrival."""
        self.told: list[tuple[str, str | None]] = []
        """Who has waited and was told, in order, and which worker it got."""

    def add(self, worker: str, limit: int = 1, priority: int = 0, type_: str = "x", *, stream: bool = False) -> Any:
        """Registers a worker for a type, with so many places or, with a limit of 0, those that all of these share."""
        capability = self.policy.Capability({"type": type_})
        added = self.policy.Registration(worker, "/s", "m", "", capability, limit, stream=stream, priority=priority)
        self.registry.register(added)
        self._changed(worker)
        return added

    def remove(self, worker: str) -> None:
        """Removes all that a worker has registered."""
        self.registry.unregister_worker(worker)
        self._changed(worker)

    def _changed(self, worker: str) -> None:
        if not self.registry.of_worker(worker):
            self.admission.forget_worker(worker)
        self.admission.reconsider()

    def ask(
        self, name: str, type_: str = "x", excluded: Collection[Any] = (), *, unary_only: bool = False
    ) -> str | None:
        """Asks for a slot; the worker that gave it at once, or None if the ticket waits.

        Args:
            name: of the request.
            type_: pattern of the type that it wants.
            excluded: the registrations that it has tried in vain.
            unary_only: it takes no streams.
        """
        target = self.policy.Target(query=self.policy.Query.parse((("type", type_),)), unary_only=unary_only)
        ticket = self.policy.ticket(self.registry, target, lambda slot: self._tell(name, slot), excluded)
        self.tickets[name] = ticket
        slot = self.admission.submit(ticket)
        if slot is None:
            self.waiting.append(name)
            return None
        self.grants[name] = slot
        return self.worker_of(name)

    def _tell(self, name: str, slot: Any) -> None:
        self.waiting.remove(name)
        self.grants[name] = slot
        self.told.append((name, self.worker_of(name)))

    def withdraw(self, name: str) -> None:
        """A request does not wait any more."""
        self.admission.withdraw(self.tickets[name])
        if name in self.waiting:
            self.waiting.remove(name)

    def release(self, name: str) -> None:
        """A request gives its slot back."""
        self.admission.release(self.grants.pop(name))

    def worker_of(self, name: str) -> str | None:
        """The worker on which a request has a slot."""
        slot = self.grants.get(name)
        worker_id: str | None = slot and slot.registration.worker_id
        return worker_id

    @property
    def running(self) -> list[str]:
        """Who has a slot."""
        return [name for name, slot in self.grants.items() if slot is not None]
