"""The kill table as a report of its own: which case noticed which mutant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mutants import MUTANTS, Mutant

from anyserve_conformance import __version__, report
from anyserve_conformance.requirement import catalogue

__all__ = ["note_kill", "write_table"]


def note_kill(directory: Path, mutant: Mutant, killers: Sequence[dict[str, Any]], seconds: float) -> None:
    """Keeps what a run said of one mutant; no killers: it survived."""
    requirement = catalogue()[mutant.requirement]
    first = killers[0] if killers else None
    record = {
        "kind": "case",
        "id": f"{mutant.requirement}/{mutant.name}",
        "requirements": [mutant.requirement],
        "keyword": requirement.keyword,
        "area": requirement.area,
        "profile": first["profile"] if first else "worker" if mutant.subject == "worker" else "agent-serving",
        "title": f"In {mutant.module}, {_short(mutant.old)} becomes {_short(mutant.new)}",
        "sentence": requirement.sentence,
        "page": requirement.page,
        "outcome": "pass" if first else "fail",
        "counts": True,
        "reason": f"killed by {first['id']}: {first['reason']}" if first else "no case of this requirement noticed it",
        "look_at": "the cases of this requirement: none of them notices the change",
        "seconds": round(seconds, 2),
        "source": "tests/suite_selftest/mutants.py",
        "transcript": [],
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{mutant.name}.json").write_text(json.dumps(record), encoding="utf-8")


def write_table(directory: Path, output: Path) -> None:
    """report.jsonl and report.html of all that was noted."""
    notes = [directory / f"{name}.json" for name in MUTANTS]
    cases = [json.loads(path.read_text(encoding="utf-8")) for path in notes if path.exists()]
    counts: dict[str, int] = {}
    for case in cases:
        counts[case["outcome"]] = counts.get(case["outcome"], 0) + 1
    run = {
        "kind": "run",
        "suite": __version__,
        "subject": {"kind": "agent", "name": "the suite, by mutants,", "command": "tests/suite_selftest"},
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "profiles": sorted({case["profile"] for case in cases}),
        "patience": 1.0,
        "strict": True,
        "options": {},
    }
    seconds = round(sum(case["seconds"] for case in cases), 2)
    end = {"kind": "end", "counts": counts, "seconds": seconds, "exit": 1 if counts.get("fail") else 0}
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in (run, *cases, end)]
    (output / "report.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report.write_html([report.read_run(output / "report.jsonl")], output / "report.html")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else f"{line[:57]}...") if line else "nothing"
