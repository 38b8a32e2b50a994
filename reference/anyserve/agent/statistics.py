"""Counts of what was served, per model: the source of ModelStatistics. Pure but for the time of day."""

from __future__ import annotations

import time
from dataclasses import dataclass

from anyserve.agent.registry import Registration

__all__ = ["Count", "ModelCounts", "Statistics"]

MAX_SIZES = 1024
"""Sizes of batches that are kept of a model (`serving.statistics.sizes`)."""
MOST = (1 << 64) - 1


@dataclass(slots=True)
class Count:
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Counts one that took `ns`."""
        self.count += 1
        self.ns += ns

    def add_told(self, count: int, ns: int) -> None:
        """Counts what a worker tells; a sum stays at the greatest that the wire has (`serving.statistics.sums`)."""
        self.count = min(MOST, self.count + count)
        self.ns = min(MOST, self.ns + ns)


class ModelCounts:
    """The counts of one model name and version."""

    __slots__ = ("batches", "calls", "compute", "fail", "last_inference_ms", "queue", "rejected", "success")

    def __init__(self) -> None:
        self.success = Count()
        self.fail = Count()
        self.queue = Count()
        self.compute = Count()
        self.calls = Count()
        """What workers told of calls for several requests at once."""
        self.batches: dict[int, Count] = {}
        """The same by the size of the batch."""
        self.rejected = 0
        self.last_inference_ms = 0


class Statistics:
    """Counts per (model name, version).

    Args:
        max_models: how many are kept; beyond, the one first counted is forgotten.
    """

    def __init__(self, max_models: int) -> None:
        self._max_models = max_models
        self._models: dict[tuple[str, str], ModelCounts] = {}

    def of(self, model_name: str, model_version: str) -> ModelCounts:
        """The counts of a model; all zero if it has served nothing."""
        return self._models.get((model_name, model_version)) or ModelCounts()

    def exchanged(self, registration: Registration, *, succeeded: bool, queue_ns: int, compute_ns: int) -> None:
        """Counts one exchange."""
        counts = self._counts(registration)
        counts.queue.add(queue_ns)
        counts.last_inference_ms = time.time_ns() // 1_000_000
        if succeeded:
            counts.compute.add(compute_ns)
            counts.success.add(queue_ns + compute_ns)
        else:
            counts.fail.add(queue_ns + compute_ns)

    def rejected(self, registration: Registration) -> None:
        """Counts one request that found its queue full."""
        self._counts(registration).rejected += 1

    def batched(self, registration: Registration, size: int, count: int, ns: int) -> None:
        """Counts calls for `size` requests each, of which a worker tells."""
        counts = self._counts(registration)
        counts.calls.add_told(count, ns)
        if size in counts.batches or len(counts.batches) < MAX_SIZES:
            counts.batches.setdefault(size, Count()).add_told(count, ns)

    def _counts(self, registration: Registration) -> ModelCounts:
        key = (registration.listed_name, registration.listed_version)
        counts = self._models.get(key)
        if counts is None:
            if len(self._models) >= self._max_models:
                del self._models[next(iter(self._models))]  # the oldest
            counts = self._models[key] = ModelCounts()
        return counts
