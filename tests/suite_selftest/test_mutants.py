"""Each mutant fails the suite, on a case of the requirement that it breaks; unmutated subjects pass these cases."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kill_table import note_kill
from mutants import MUTANTS, Mutant

from support.suite import CASES, ROOT, cases, run

RUN = Path(__file__).with_name("run_mutant.py")
DIRECTORIES = {
    "agent": [str(CASES / name) for name in ("agent_serving", "agent_management", "agent_streaming")],
    "worker": [str(CASES / "worker")],
}
# Mutants wait in vain where the reference would answer: a short patience is enough to tell them apart.
PATIENCE = os.environ.get("SELFTEST_PATIENCE", "0.4")


def command(subject: str, mutant: str) -> list[str]:
    """The suite's options for a mutated subject; `none` is the reference itself."""
    run = f"{sys.executable} {RUN} {mutant}"
    if subject == "worker":
        app = f"worker_app:app --app-dir {ROOT / 'tests' / 'conformance'}"
        # The loop in Python, which is where the mutants are.
        loop = "--worker-io python"
        return [
            "--worker",
            f"{run} anyserve.worker {app} {loop} --management {{management}} --socket-dir {{socket_dir}}",
        ]
    return ["--launch", f"{run} anyserve --impl reference --port {{port}} --management-port {{management_port}}"]


def run_suite(
    subject: str, mutant: str, requirements: list[str], directory: Path, *options: str
) -> tuple[int, list[Any]]:
    """Runs the cases of some requirements; the exit status and the records."""
    chosen = [f"--requirement={name}" for name in requirements]
    done = run(
        *DIRECTORIES[subject],
        *command(subject, mutant),
        *chosen,
        *options,
        "--strict",
        "--report",
        str(directory),
        "-q",
    )
    report = directory / "report.jsonl"
    assert report.exists(), done.stdout + done.stderr
    return done.returncode, cases(directory)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_killed(mutant: Mutant, tmp_path: Path) -> None:
    started = time.monotonic()
    status, records = run_suite(
        mutant.subject, mutant.name, [mutant.requirement], tmp_path, "--patience", PATIENCE, "--maxfail=1"
    )
    killers = [r for r in records if r["outcome"] == "fail" and mutant.requirement in r["requirements"]]
    if kept := os.environ.get("CONFORMANCE_REPORTS"):
        note_kill(Path(kept, "mutants", "notes"), mutant, killers, time.monotonic() - started)
    outcomes = {r["id"]: f"{r['outcome']}: {r['reason'][:300]}" for r in records if r["outcome"] != "pass"}
    assert killers, f"no case of {mutant.requirement} failed: status {status}, {len(records)} cases, {outcomes}"
    assert status == 1, f"exit status {status}: {outcomes}"


@pytest.mark.parametrize("subject", ["agent", "worker"])
def test_unmutated(subject: str, tmp_path: Path) -> None:
    """The same program without a mutation passes all cases that kill mutants, with the patience of everybody."""
    requirements = sorted({mutant.requirement for mutant in MUTANTS.values() if mutant.subject == subject})
    status, records = run_suite(subject, "none", requirements, tmp_path)
    assert status == 0, [f"{r['id']}: {r['reason'][:300]}" for r in records if r["outcome"] in {"fail", "error"}]
    assert len(records) > len(requirements)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_applies(mutant: Mutant) -> None:
    """The text that a mutant replaces stands in the code, once."""
    spec = importlib.util.find_spec(mutant.module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    compile(mutant.applied(source), spec.origin, "exec")
