"""Each mutant fails the suite, on a case of the requirement that it breaks; unmutated subjects pass these cases."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
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
        return ["--worker", f"{run} anyserve.worker {app} --management {{management}} --socket-dir {{socket_dir}}"]
    return ["--launch", f"{run} anyserve --port {{port}} --management-port {{management_port}}"]


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
    status, records = run_suite(
        mutant.subject, mutant.name, [mutant.requirement], tmp_path, "--patience", PATIENCE, "--maxfail=1"
    )
    killers = [r["id"] for r in records if r["outcome"] == "fail" and mutant.requirement in r["requirements"]]
    outcomes = {r["id"]: f"{r['outcome']}: {r['reason'][:300]}" for r in records if r["outcome"] != "pass"}
    assert killers, f"no case of {mutant.requirement} failed: status {status}, {len(records)} cases, {outcomes}"
    assert status == 1, f"exit status {status}: {outcomes}"
    if directory := os.environ.get("SELFTEST_KILLS"):
        kill = {"mutant": mutant.name, "requirement": mutant.requirement, "killed_by": killers, "old": mutant.old}
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / f"{mutant.name}.json").write_text(json.dumps(kill))


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_applies(mutant: Mutant) -> None:
    """The text that a mutant replaces stands in the code, once."""
    spec = importlib.util.find_spec(mutant.module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    compile(mutant.applied(source), spec.origin, "exec")
