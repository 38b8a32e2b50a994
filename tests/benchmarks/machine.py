"""What the operating system says of a process: CPU, memory, descriptors. And the limits that many connections need."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "cpu_seconds", "description", "descriptors", "forget_peak", "memory", "room_for_descriptors"]

CPUCLOCK_SCHED = 2


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process, in bytes."""

    now: int
    peak: int


def cpu_seconds(pid: int) -> float:
    """What a process has used so far with all its threads, user and system, to the nanosecond.

    clock_getcpuclockid(3) without the call: Python does not have it, and /proc/PID/stat counts in hundredths.
    """
    return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)


def memory(pid: int) -> Memory:
    """What a process holds, and the most that it has held since its start or `forget_peak`."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    now, peak = (int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
    return Memory(now, peak)


def forget_peak(pid: int) -> None:
    """Begins `Memory.peak` anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def room_for_descriptors(wanted: int) -> int:
    """Raises this process's limit, which those that it starts inherit; returns how many of `wanted` there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard)


def description() -> dict[str, str]:
    """Of this machine, for whoever compares numbers."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cpus": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
