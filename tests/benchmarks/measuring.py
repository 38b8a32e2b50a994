"""Interleaved rounds of load on several subjects, and what each request cost them.

The rounds of all subjects take turns, so that a busy neighbour slows all of them, and ratios are taken within a round.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.load import Load, percentile, run
from benchmarks.subjects import Subject

__all__ = ["ROUNDS", "SECONDS", "Measured", "Trial", "measure", "measure_once", "ratio", "requests_for", "rotated"]

SECONDS = float(os.environ.get("BENCH_SECONDS", "1"))
"""How long one subject is loaded in one round, about."""
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))


@dataclass(frozen=True, slots=True)
class Trial:
    """A load on a subject.

    Args:
        subject: who gets it.
        load: what it is.
        data_bytes: of one answer's body; a failed request would have another length.
        units: what one request counts for: the tokens of a stream.
        least: requests of a round.
    """

    subject: Subject
    load: Load
    data_bytes: int
    units: int = 1
    least: int = 8


@dataclass(slots=True)
class Measured:
    """One figure a round."""

    rate: list[float] = field(default_factory=list)
    """Units per second."""
    cpu: list[float] = field(default_factory=list)
    """Microseconds of the subject's CPU per unit."""
    p50: list[float] = field(default_factory=list)
    """Microseconds per request."""
    p99: list[float] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=dict)
    """Of `cpu`, what each of the subject's processes has used, by their names; empty if it is one."""


def measure(trials: Mapping[str, Trial], *, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, Measured]:
    """Loads every subject once a round, in an order that rotates.

    Raises:
        AssertionError: a request failed, or its answer had not the right length.
    """
    counts = {name: requests_for(trial, seconds) for name, trial in trials.items()}
    measured = {name: Measured() for name in trials}
    for number in range(rounds):
        for name in rotated(list(trials), number):
            measure_once(trials[name], counts[name], measured[name])
    return measured


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over the rounds of what one has to the other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def requests_for(trial: Trial, seconds: float) -> int:
    """As many as the subject answers in that time: found by a growing load, which is the warm-up too."""
    if trial.load.per_second is not None:
        return max(int(trial.load.per_second * seconds), trial.load.connections)
    least = max(trial.least, trial.load.connections * trial.load.streams)
    count = least
    while (outcome := run(trial.subject.port, trial.load, count)).seconds < min(0.2, seconds):
        count *= 4
    return max(int(outcome.rate * seconds), least)


def measure_once(trial: Trial, requests: int, into: Measured) -> None:
    """One round of a trial."""
    before, shares = trial.subject.cpu_seconds(), trial.subject.cpu_shares()
    # A paced load opens its connections in the beginning.
    skip = trial.load.connections / 1000 if trial.load.per_second is not None else 0.0
    outcome = run(trial.subject.port, trial.load, requests, skip=skip)
    used = trial.subject.cpu_seconds() - before
    shares = {process: seconds - shares[process] for process, seconds in trial.subject.cpu_shares().items()}
    assert outcome.data_bytes == requests * trial.data_bytes, (
        f"{trial.subject.name}: {requests} answers are {outcome.data_bytes} bytes, not {trial.data_bytes} each"
    )
    into.rate.append(outcome.rate * trial.units)
    into.cpu.append(used / (requests * trial.units) * 1e6)
    for process, seconds in shares.items():
        into.shares.setdefault(process, []).append(seconds / (requests * trial.units) * 1e6)
    into.p50.append(percentile(outcome.latencies, 50))
    into.p99.append(percentile(outcome.latencies, 99))


def rotated(names: list[str], by: int) -> list[str]:
    """The order of a round."""
    by %= len(names)
    return names[by:] + names[:by]
