"""What a server costs with all the processes that it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.subjects import Subject
from support.processes import marked

__all__ = ["Resident", "Tree", "members"]


@dataclass(frozen=True, slots=True)
class Resident:
    """Memory of a tree of processes, in bytes."""

    processes: int
    rss: int
    """The sum of what each has resident: shared pages count once for each process."""
    pss: int
    """The same with each shared page counted once."""


@dataclass(frozen=True, slots=True)
class Tree(Subject):
    """A running server, measured with its children."""

    _used: dict[int, float] = field(default_factory=dict, repr=False)
    """CPU seconds by process, of those too that have ended since."""

    def cpu_seconds(self) -> float:
        for pid in members(self.pid, self.process.mark):
            try:
                self._used[pid] = machine.cpu_seconds(pid)
            except OSError:  # it has just ended
                continue
        return sum(self._used.values())

    def resident(self) -> Resident:
        """What it holds now."""
        rss = pss = processes = 0
        for pid in members(self.pid, self.process.mark):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            except OSError:  # it has just ended
                continue
            sizes = {line.split()[0]: int(line.split()[1]) << 10 for line in rollup}
            rss, pss, processes = rss + sizes["Rss:"], pss + sizes["Pss:"], processes + 1
        return Resident(processes, rss, pss)


def members(root: int, mark: str) -> set[int]:
    """A process, its descendants, and whatever bears its mark.

    Either alone is not enough: a daemon loses its parent, and a process that sets its title overwrites its environment.
    """
    parents = {pid: parent for pid in _numbers() if (parent := _parent(pid))}
    found = {root, *marked(mark)}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _numbers() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return None
