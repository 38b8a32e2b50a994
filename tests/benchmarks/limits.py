"""What no server on this machine can beat, measured as a server is: see `native/limits.cpp`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import ROUNDS, SECONDS, Measured

__all__ = ["limits"]


def limits(program: Path, size: int, at_once: int) -> Iterator[tuple[str, Measured]]:
    """A ping-pong of so many messages of that size at once, and one copy of each."""
    for what, name in (("ping-pong", "Unix-socket ping-pong"), ("memcpy", "memcpy")):
        found = Measured()
        for _ in range(ROUNDS):
            command = [program, what, str(size), str(at_once), str(SECONDS / 2)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            for values, value in zip((found.rate, found.cpu, found.p50, found.p99), done.stdout.split(), strict=True):
                values.append(float(value))
        yield name, found
