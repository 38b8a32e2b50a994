"""Calls of batch handlers of which the agent has not been told: counted here, told with heartbeats. Pure.

Rules: spec `manage.heartbeat.batches`.
"""

from __future__ import annotations

from collections.abc import Iterable

from anyserve._proto import worker_management_pb2 as pb

__all__ = ["CallCounts"]

AT_ONCE = 256
"""Entries of one heartbeat; with the longest names they fill half of the greatest management message."""


class CallCounts:
    """Counts by listed name, version and size of the batch."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], tuple[int, int]] = {}

    def add(self, model_name: str, model_version: str, size: int, ns: int, *, calls: int = 1) -> None:
        """Counts calls for `size` requests each, or rows, which took `ns` in all."""
        key = (model_name, model_version, size)
        count, spent = self._counts.get(key, (0, 0))
        self._counts[key] = (count + calls, spent + ns)

    def take(self) -> list[pb.BatchStatistics]:
        """What is to be told now; the rest is for the next time."""
        keys = tuple(self._counts)[:AT_ONCE]
        return [_message(key, *self._counts.pop(key)) for key in keys]

    def give_back(self, untold: Iterable[pb.BatchStatistics]) -> None:
        """Counts again what was taken and has not reached the agent."""
        for told in untold:
            self.add(told.model_name, told.model_version, told.batch_size, told.compute_ns, calls=told.count)


def _message(key: tuple[str, str, int], count: int, ns: int) -> pb.BatchStatistics:
    model_name, model_version, size = key
    return pb.BatchStatistics(
        model_name=model_name, model_version=model_version, batch_size=size, count=count, compute_ns=ns
    )
