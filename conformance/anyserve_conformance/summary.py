"""What a run says on the terminal, and the pages that it leaves."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyserve_conformance.results import CONFORMS, COULD_NOT, OUTCOMES, Recorder

if TYPE_CHECKING:
    from anyserve_conformance.plugin import Case

__all__ = ["print_catalogue", "print_summary", "write_pages"]

TOLD = ("error", "fail", "unexpected-pass")
MAX_TOLD = 40


def print_catalogue(cases: Iterable[Case]) -> None:
    """One line a case: requirement, keyword, profile, case, title."""
    for case in cases:
        others = "".join(f" +{r.name}" for r in case.requirements[1:])
        slug = case.id.partition("/")[2]
        print(f"{case.main.name}\t{case.main.keyword}\t{case.profile}\t{slug}\t{case.title}{others}")


def print_summary(terminal: Any, recorder: Recorder, status: int) -> None:
    """Failures in the protocol's words, then counts, then the verdict."""
    told = [r for outcome in TOLD for r in recorder.cases if r["outcome"] == outcome]
    for record in told[:MAX_TOLD]:
        _print_failure(terminal, record)
    if len(told) > MAX_TOLD:
        terminal.write_line(f"… and {len(told) - MAX_TOLD} more; --report DIR writes all of them")
    terminal.section("conformance")
    for line in _table(recorder.cases):
        terminal.write_line(line)
    terminal.write_line(_verdict(recorder, status))


def _print_failure(terminal: Any, record: dict[str, Any]) -> None:
    not_counted = "" if record["counts"] else " (not counted without --strict)"
    terminal.section(f"{record['outcome']}: {record['id']}", sep="-")
    terminal.write_line(f"{record['sentence']}{not_counted}")
    terminal.write_line(f"case: {record['title']} ({record['source']})")
    for line in record["reason"].splitlines() or [""]:
        terminal.write_line(f"  | {line}")
    if record["outcome"] == "fail":
        terminal.write_line(f"If this fails, look at {record['look_at']}.")


def _table(cases: Sequence[dict[str, Any]]) -> list[str]:
    areas = {record["area"]: Counter[str]() for record in cases}
    for record in cases:
        areas[record["area"]][record["outcome"]] += 1
    seen = [outcome for outcome in OUTCOMES if any(counts[outcome] for counts in areas.values())]
    if not seen:
        return []
    lines = ["area       " + "".join(f"{outcome:>16}" for outcome in seen)]
    for area, counts in areas.items():
        lines.append(f"{area:<11}" + "".join(f"{counts[outcome] or '':>16}" for outcome in seen))
    total = Counter(record["outcome"] for record in cases)
    lines.append("all        " + "".join(f"{total[outcome]:>16}" for outcome in seen))
    return lines


def _verdict(recorder: Recorder, status: int) -> str:
    name = recorder.run["subject"]["name"]
    if status == CONFORMS:
        passed = sum(record["outcome"] == "pass" for record in recorder.cases)
        told = f"{name} conforms: {passed} of the {len(recorder.cases)} cases of this run passed, no MUST failed"
        should = sum(record["outcome"] == "fail" for record in recorder.cases)
        return told + (f", {should} cases of SHOULD failed" if should else "")
    if status == COULD_NOT:
        return "the suite could not do its work: no case ran, or it failed itself"
    failed = {name for r in recorder.cases if r["outcome"] == "fail" and r["counts"] for name in r["requirements"][:1]}
    passes = sum(r["outcome"] == "unexpected-pass" for r in recorder.cases)
    what = [f"breaks {len(failed)} requirements"] if failed else []
    what += [f"passes {passes} cases that are listed as failing"] if passes else []
    return f"{name} does not conform: it {' and '.join(what)}"


def write_pages(directory: Path) -> None:
    """junit.xml and report.html beside report.jsonl."""
    report = importlib.import_module("anyserve_conformance.report")
    junit = importlib.import_module("anyserve_conformance.report.junit")
    run = report.read_run(directory / "report.jsonl")
    report.write_html([run], directory / "report.html")
    junit.write_junit(run, directory / "junit.xml")
