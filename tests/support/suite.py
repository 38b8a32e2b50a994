"""Runs the conformance suite as its users do: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["AGENT", "CASES", "ROOT", "agent_command", "cases", "conforms", "outcomes", "run"]

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "conformance" / "anyserve_conformance" / "cases"
SECONDS = 600.0


def agent_command(implementation: str) -> str:
    """The command that launches one of our agents."""
    return f"{sys.executable} -m anyserve --impl {implementation} --port {{port}} --management-port {{management_port}}"


AGENT = agent_command("reference")


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


def conforms(name: str, *options: str, directory: Path, known_failing: Sequence[Path] = ()) -> None:
    """Runs the suite with `--strict`, and expects that nothing fails but what is known to.

    With CONFORMANCE_REPORTS in the environment the report is kept there, under `name`.

    Raises:
        AssertionError: the subject does not conform, or the suite could not tell.
    """
    lists = [f"--known-failing={path}" for path in known_failing]
    kept = os.environ.get("CONFORMANCE_REPORTS")
    report = Path(kept, name) if kept else directory / "report"
    done = run(
        *("conformance", *options, "--strict", *lists, "--subject-name", name),
        *("--report", str(report), "--patience", "2", "-q", "--durations=5"),
    )
    print(done.stdout)  # the table of a run in CI's log
    assert done.returncode == 0, f"{name}: exit status {done.returncode}\n{done.stdout[-20_000:]}{done.stderr[-4_000:]}"


def cases(directory: Path) -> list[dict[str, Any]]:
    """The records of a run's report."""
    report = directory / "report.jsonl"
    records = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record["kind"] == "case"]


def outcomes(records: Sequence[dict[str, Any]]) -> set[str]:
    """The outcomes that there are."""
    return {record["outcome"] for record in records}
