"""How many instructions a pure part takes: counted by callgrind, to the one, however busy the machine is.

`BENCH_TREE` names the tree that is measured (default: this one), by the parts that lie in it, which fit its interfaces;
one that has none yet is measured by the parts of this tree.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.pure.parts import PARTS

__all__ = [
    "CLOCK",
    "NATIVE",
    "REFERENCE",
    "SHIFTS",
    "TREE",
    "missing_tools",
    "native_count",
    "parts_of_the_tree",
    "reference_count",
]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TREE = Path(os.environ.get("BENCH_TREE", ROOT)).resolve()
SOURCES = parts if (parts := TREE / HERE.relative_to(ROOT)).is_dir() else HERE
REFERENCE = tuple(PARTS)
NATIVE = (*REFERENCE, "grpc_message", "request", "reply_filling")
"""Of these three the reference has no pure rooms: grpcio and the dispatcher do their work."""
SHIFTS = (0, 300)
"""The interpreter finds methods in a table by the addresses of their names; where two that a part needs share a place
in it, the part takes some percent more. The least of two counts is one without that."""
TOOLS = {"valgrind": "valgrind", "cmake": "cmake", "c++": "g++"}
CALLGRIND = ("valgrind", "-q", "--tool=callgrind", "--dump-before=getppid")
TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)
SECONDS = 600


class InstructionClock:
    """A clock for pytest-benchmark that stands still but for the instructions that it is told of."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, instructions: float) -> None:
        """That many have passed."""
        self.now += instructions


CLOCK = InstructionClock()


def missing_tools() -> list[str]:
    """What is not installed, by the names of Debian's packages."""
    return [package for tool, package in TOOLS.items() if shutil.which(tool, path=_environment()["PATH"]) is None]


def native_count(part: str) -> float:
    """Instructions of one run of a native part."""
    return _counted(str(_native()), part)


def reference_count(part: str, shift: int) -> float:
    """Instructions of one run of a reference part, with everything moved in memory by `shift`."""
    return _counted(sys.executable, "-S", "-P", str(SOURCES / "parts.py"), str(TREE), part, str(shift))


@functools.cache
def parts_of_the_tree(impl: str) -> tuple[str, ...]:
    """The names of those that it has."""
    return tuple(
        _output(*([str(_native())] if impl == "native" else [sys.executable, str(SOURCES / "parts.py")])).split()
    )


def _counted(*command: str) -> float:
    with tempfile.TemporaryDirectory() as directory:
        repeats = _output(*CALLGRIND, f"--callgrind-out-file={directory}/counts", *command)
        # The first dump is of all before the run, the second of the run.
        totals = TOTALS.search(Path(directory, "counts.2").read_text())
    assert totals, "callgrind told no totals"
    return int(totals[1]) / int(repeats)


@functools.cache
def _native() -> Path:
    """Builds the native parts of the tree; the program."""
    build = ROOT / "build" / "bench-compare" / ("native" if TREE == ROOT else "native-base")
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=_environment()["PATH"]) else []
    # Fresh: what it builds may be another tree than the last time.
    _output("cmake", "--fresh", "-S", str(SOURCES), "-B", str(build), *generator, f"-DANYSERVE_SOURCE={TREE}")
    _output("cmake", "--build", str(build), "--parallel", "2")
    return build / "parts"


def _output(*command: str) -> str:
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def _environment() -> dict[str, str]:
    """Little, and the same each time: the order of sets and where things lie in memory depend on it."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONHASHSEED": "0"}
