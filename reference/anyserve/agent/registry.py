"""Which worker offers which capability, and which registrations a request means. Pure: no I/O, no clock.

`Registry` holds the registrations; `resolve` answers a `Target` with ranked
tiers. How busy a worker is, and whether it can be reached, is not known here.
Rules: spec `route.*` and `manage.register.*`, wire.md sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from anyserve.capability import Capability, Query, decimal

__all__ = ["Registration", "Registry", "RegistryFull", "Route", "Target", "TensorMetadata"]

ROUTE_CACHE_SIZE = 1024


class RegistryFull(Exception):
    """A limit on workers or registrations is reached; the message names it."""


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """A declared input or output; -1 in `shape` means any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Registration:
    """One capability offered by one worker (RegisterModelRequest)."""

    worker_id: str
    socket_path: str
    model_name: str
    model_version: str
    capability: Capability
    max_concurrency: int
    """Exchanges at once; 0: it states none."""
    annotate: bool = True
    """The worker registered a capability map, so requests to it carry `anyserve_*` parameters."""
    stream: bool = False
    priority: int = 0
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()
    platform: str = ""
    shared_memory: bool = False
    """The worker takes payloads by shared memory."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Registering again with the same key replaces."""
        return (self.worker_id, *self.model_key)

    @property
    def listed_name(self) -> str:
        """The name by which clients find it: its model name, or else the capability's `model`."""
        return self.model_name or self.capability.get("model", "")

    @property
    def listed_version(self) -> str:
        """The version by which clients find it: its model version, or else the capability's `version`."""
        return self.model_version or self.capability.get("version", "")

    @property
    def model_key(self) -> tuple[str, str, str]:
        """What replicas on different workers have in common; names a queue."""
        return (self.model_name, self.model_version, self.capability.encoded)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request asks for: a capability query, or else a model name and version."""

    model_name: str = ""
    model_version: str = ""
    query: Query | None = None
    unary_only: bool = False
    """Registrations that stream their replies are left out: the caller takes exactly one."""

    def streaming_too(self) -> Target:
        """The same target without `unary_only`."""
        return replace(self, unary_only=False)

    def __str__(self) -> str:
        if self.query is not None:
            return f"capability {self.query}"
        version = f" version {self.model_version!r}" if self.model_version else ""
        return f"model {self.model_name!r}{version}"


@dataclass(frozen=True, slots=True)
class Route:
    """The registrations that a target means, best first; those within a tier rank equally."""

    tiers: tuple[tuple[Registration, ...], ...]

    @property
    def registrations(self) -> Iterable[Registration]:
        """All of them, best first."""
        return (registration for tier in self.tiers for registration in tier)


class Registry:
    """All registrations of one agent.

    Args:
        max_workers: how many workers may be registered at once.
        max_registrations: how many registrations all of them may have.
    """

    def __init__(self, *, max_workers: int, max_registrations: int) -> None:
        self._max_workers = max_workers
        self._max_registrations = max_registrations
        self._registrations: dict[tuple[str, str, str, str], Registration] = {}
        self._by_worker: dict[str, dict[tuple[str, str, str, str], Registration]] = {}
        self._routes: dict[Target, Route] = {}  # cleared by every change

    def __len__(self) -> int:
        return len(self._registrations)

    def __iter__(self) -> Iterator[Registration]:
        return iter(self._registrations.values())

    def register(self, registration: Registration) -> Registration | None:
        """Adds a registration, or replaces the one with the same key and returns that.

        Raises:
            RegistryFull: nothing was changed.
        """
        of_worker = self._by_worker.get(registration.worker_id, {})
        replaced = of_worker.get(registration.key)
        if not of_worker and len(self._by_worker) >= self._max_workers:
            raise RegistryFull(f"{self._max_workers} workers are registered already (--max-workers)")
        if replaced is None and len(self._registrations) >= self._max_registrations:
            raise RegistryFull(f"{self._max_registrations} registrations exist already (--max-registrations)")
        self._by_worker.setdefault(registration.worker_id, {})[registration.key] = registration
        self._registrations[registration.key] = registration
        self._routes.clear()
        return replaced

    def unregister(self, worker_id: str, model_name: str, model_version: str) -> list[Registration]:
        """Removes what one worker registered under a name and version, whatever the capability."""
        return self._remove(
            r for r in self.of_worker(worker_id) if (r.model_name, r.model_version) == (model_name, model_version)
        )

    def unregister_worker(self, worker_id: str) -> list[Registration]:
        """Removes everything a worker registered."""
        return self._remove(self.of_worker(worker_id))

    def _remove(self, registrations: Iterable[Registration]) -> list[Registration]:
        removed = list(registrations)
        for registration in removed:
            del self._registrations[registration.key]
            of_worker = self._by_worker[registration.worker_id]
            del of_worker[registration.key]
            if not of_worker:
                del self._by_worker[registration.worker_id]
        self._routes.clear()
        return removed

    def of_worker(self, worker_id: str) -> tuple[Registration, ...]:
        """What a worker has registered; empty for an unknown one."""
        return tuple(self._by_worker.get(worker_id, {}).values())

    def workers(self) -> tuple[str, ...]:
        """The ids of all registered workers."""
        return tuple(self._by_worker)

    def resolve(self, target: Target) -> Route:
        """The registrations that a request for `target` may go to, ranked; no tiers if there are none."""
        route = self._routes.get(target)
        if route is None:
            if len(self._routes) >= ROUTE_CACHE_SIZE:
                self._routes.clear()  # targets are chosen by clients: bounded, and refilled by the busy ones
            route = self._routes[target] = Route(self._rank(target))
        return route

    def named(self, model_name: str, model_version: str = "") -> list[Registration]:
        """The registrations that a model name and version mean (wire.md section 2, rule 2)."""
        by_name = [(r, r.model_version) for r in self._registrations.values() if r.model_name == model_name]
        if model_name and (found := _of_version(by_name, model_version)):
            return found
        by_capability = [
            (r, r.capability.get("version", ""))
            for r in self._registrations.values()
            if r.capability.get("model") == model_name
        ]
        return _of_version(by_capability, model_version)

    def versions(self, model_name: str) -> list[str]:
        """All versions registered under a model name, numbers first, in rising order."""
        found = {r.listed_version for r in self.named_any_version(model_name)}
        return sorted(found - {""}, key=_version_order)

    def named_any_version(self, model_name: str) -> list[Registration]:
        """The registrations of every version of a model name."""
        by_name = [r for r in self._registrations.values() if r.model_name == model_name]
        return by_name or [r for r in self._registrations.values() if r.capability.get("model") == model_name]

    def model_names(self) -> list[str]:
        """The model names of all registrations."""
        return sorted({r.listed_name for r in self._registrations.values()} - {""})

    def _rank(self, target: Target) -> tuple[tuple[Registration, ...], ...]:
        """Groups the matches by rank: most exact keys, then priority, then fewest further keys (`route.rank.*`)."""
        ranked: dict[tuple[int, int, int], list[Registration]] = {}
        for registration, exact in self._matches(target):
            if not (target.unary_only and registration.stream):
                rank = (-exact, -registration.priority, len(registration.capability))
                ranked.setdefault(rank, []).append(registration)
        return tuple(tuple(ranked[rank]) for rank in sorted(ranked))

    def _matches(self, target: Target) -> Iterator[tuple[Registration, int]]:
        if target.query is None:
            yield from ((r, 0) for r in self.named(target.model_name, target.model_version))
            return
        for registration in self._registrations.values():
            exact = target.query.exact_matches(registration.capability)
            if exact is not None:
                yield registration, exact


def _of_version(candidates: list[tuple[Registration, str]], wanted: str) -> list[Registration]:
    """Applies the version rule to (registration, its version) pairs."""
    if wanted:
        return [r for r, version in candidates if version == wanted]
    if any(not version for _, version in candidates):
        return [r for r, version in candidates if not version]
    numbers = [decimal(version) for _, version in candidates]
    known = [number for number in numbers if number is not None]
    if known and len(known) == len(numbers):
        newest = max(known)
        return [r for (r, _), number in zip(candidates, numbers, strict=True) if number == newest]
    return [r for r, _ in candidates]


def _version_order(version: str) -> tuple[bool, Decimal, str]:
    number = decimal(version)
    return (number is None, number or Decimal(0), version)
