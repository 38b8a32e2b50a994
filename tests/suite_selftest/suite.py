"""Runs the suite as its users do: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CASES = ROOT / "conformance" / "anyserve_conformance" / "cases"
AGENT = f"{sys.executable} -m anyserve --port {{port}} --management-port {{management_port}}"
SECONDS = 240.0


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`pytest ARGUMENTS…`."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def cases(directory: Path) -> list[dict[str, Any]]:
    """The records of a run's report."""
    report = directory / "report.jsonl"
    records = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record["kind"] == "case"]


def outcomes(records: Sequence[dict[str, Any]]) -> set[str]:
    """The outcomes that there are."""
    return {record["outcome"] for record in records}
