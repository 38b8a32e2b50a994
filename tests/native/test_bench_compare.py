"""`make bench-compare` can fail: a part that has grown is told, and one that is as it was is let pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPARE = ROOT / "tests" / "benchmarks" / "pure" / "compare.py"
BEGIN = "    reply = StreamReply()\n"
"""Of `scan_stream_reply`."""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed"),
]


def compare(base: Path, directory: Path, tree: Path = ROOT) -> tuple[int, str]:
    """Exit status and output of a comparison of one part of a tree with its base."""
    command = [sys.executable, COMPARE, base, f"--directory={directory}", "-k", "reference and scan_stream"]
    environment = os.environ | {"BENCH_TREE": str(tree)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_part_that_has_grown_fails_the_comparison(tmp_path: Path) -> None:
    package = tmp_path / "slower" / "reference" / "anyserve"
    shutil.copytree(ROOT / "reference" / "anyserve", package, ignore=shutil.ignore_patterns("__pycache__", "_proto"))
    scan = (package / "scan.py").read_text()
    assert BEGIN in scan
    (package / "scan.py").write_text(scan.replace(BEGIN, f"{BEGIN}    sum(range(100))\n"))

    status, shown = compare(ROOT, tmp_path, tmp_path / "slower")
    assert status == 1, shown
    assert "Performance has regressed" in shown

    status, shown = compare(tmp_path / "base.json", tmp_path)
    assert status == 0, shown
    assert "1 passed" in shown
