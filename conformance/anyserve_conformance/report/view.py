"""What the page shows, computed before the template sees it: tallies, findings, requirements, sentences."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from anyserve_conformance.report import text
from anyserve_conformance.report.model import Case, Outcome, Run, Verdict
from anyserve_conformance.report.transcript_view import ShownTranscript, show_transcripts

AREAS = {
    "serving": "the client port",
    "route": "capabilities, queries, names, ranking",
    "manage": "the management port",
    "frame": "agent and worker, to the byte",
    "stream": "streams",
    "queue": "waiting for a worker",
    "lifecycle": "start, readiness, crash, stop",
}


class Status(StrEnum):
    """How a case is shown, the worst first: the outcomes, and failures that do not count apart."""

    FAIL = "fail"
    UNEXPECTED_PASS = "unexpected-pass"
    ERROR = "error"
    UNCOUNTED_FAIL = "uncounted-fail"
    EXPECTED_FAIL = "expected-fail"
    PASS = "pass"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not-applicable"

    @property
    def label(self) -> str:
        return "fail, not counted" if self is Status.UNCOUNTED_FAIL else self.value.replace("-", " ")


_WORST_FIRST = {status: rank for rank, status in enumerate(Status)}


def status_of(case: Case) -> Status:
    if case.outcome is Outcome.FAIL and not case.counts:
        return Status.UNCOUNTED_FAIL
    return Status(case.outcome.value)


@dataclass(frozen=True)
class Tally:
    """How many cases ended how."""

    counts: Counter[Status]

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def parts(self) -> list[tuple[Status, int]]:
        """For a bar: the worst first, without what is absent."""
        return [(status, self.counts[status]) for status in Status if self.counts[status]]


@dataclass(frozen=True)
class ShownCase:
    """A case of one run, with where the page tells of it."""

    run: int
    case: Case
    status: Status
    anchor: str
    transcript: ShownTranscript | None

    @property
    def found(self) -> bool:
        """Whether it is told in full among the findings."""
        return self.transcript is not None


@dataclass(frozen=True)
class Requirement:
    name: str
    area: str
    keyword: str
    sentence: str
    page: str
    rows: list[ShownCase]
    cells: list[Cell | None]

    @property
    def differs(self) -> bool:
        """Whether the subjects do not all do the same."""
        return len({cell and cell.worst.status for cell in self.cells}) > 1


@dataclass(frozen=True)
class Cell:
    """A requirement on one subject: the worst of its cases."""

    worst: ShownCase
    passed: int
    total: int


@dataclass(frozen=True)
class Area:
    name: str
    title: str
    tallies: list[Tally]
    requirements: list[Requirement]


@dataclass(frozen=True)
class ShownRun:
    run: Run
    name: str
    headline: str
    details: list[str]
    tally: Tally
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A group of findings under one heading."""

    key: str
    title: str
    explanation: str
    cases: list[ShownCase]
    open: bool


@dataclass(frozen=True)
class Page:
    runs: list[ShownRun]
    areas: list[Area]
    sections: list[Section]
    headline: str
    profiles: list[str]
    keywords: list[str]
    statuses: list[Status]


OPEN_AT_MOST = 12
"""More findings than this in a section are folded, so that the page opens as a list."""

_SECTIONS = (
    ("failures", "Failures", "", (Status.FAIL, Status.UNEXPECTED_PASS)),
    (
        "errors",
        "Errors of the suite",
        "Not the subject's fault: the suite itself broke in these cases.",
        (Status.ERROR,),
    ),
    (
        "advice",
        "Recommendations not followed",
        "SHOULD requirements. They count only with --strict.",
        (Status.UNCOUNTED_FAIL,),
    ),
    ("known", "Known failures", "Listed as known failing, with the reason.", (Status.EXPECTED_FAIL,)),
)
_FOUND = {status for *_, statuses in _SECTIONS for status in statuses}


def page_of(runs: Sequence[Run]) -> Page:
    cases = _shown_cases(runs)
    present = {shown.status for shown in cases}
    return Page(
        runs=[_shown_run(run, name) for run, name in zip(runs, distinct_names(runs), strict=True)],
        areas=_areas(cases, len(runs)),
        sections=_sections(cases),
        headline=_headline(runs),
        profiles=sorted({shown.case.profile for shown in cases}),
        keywords=[word for word in ("MUST", "SHOULD", "MAY") if any(shown.case.keyword == word for shown in cases)],
        statuses=[status for status in Status if status in present],
    )


def _headline(runs: Sequence[Run]) -> str:
    good = sum(run.verdict is Verdict.CONFORMS for run in runs)
    return f"{good} of {len(runs)} subjects {'conforms' if good == 1 else 'conform'}."


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """The subjects' names as column heads; the second of the same name gets a number."""
    seen: Counter[str] = Counter()
    names = []
    for run in runs:
        seen[run.subject.name] += 1
        times = seen[run.subject.name]
        names.append(run.subject.name if times == 1 else f"{run.subject.name} ({times})")
    return names


def _shown_cases(runs: Sequence[Run]) -> list[ShownCase]:
    cases = [(number, case, status_of(case)) for number, run in enumerate(runs) for case in run.cases]
    transcripts = iter(show_transcripts([case.transcript for _, case, status in cases if status in _FOUND]))
    shown = []
    for number, case, status in cases:
        anchor = re.sub(r"\s", "-", text.visible(f"case/{number + 1}/{case.id}"))
        transcript = next(transcripts) if status in _FOUND else None
        shown.append(ShownCase(run=number, case=case, status=status, anchor=anchor, transcript=transcript))
    return shown


def _sections(cases: list[ShownCase]) -> list[Section]:
    sections = []
    for key, title, explanation, statuses in _SECTIONS:
        found = [shown for shown in cases if shown.status in statuses]
        if found:
            unfold = len(found) <= OPEN_AT_MOST and key != "known"
            sections.append(Section(key=key, title=title, explanation=explanation, cases=found, open=unfold))
    return sections


def _areas(cases: list[ShownCase], runs: int) -> list[Area]:
    by_area: dict[str, list[ShownCase]] = {}
    for shown in cases:
        by_area.setdefault(shown.case.area, []).append(shown)
    order = list(AREAS)
    names = sorted(by_area, key=lambda name: (order.index(name) if name in AREAS else len(order), name))
    return [
        Area(
            name=name,
            title=AREAS.get(name, ""),
            tallies=[tally(shown for shown in by_area[name] if shown.run == run) for run in range(runs)],
            requirements=_requirements(by_area[name], runs),
        )
        for name in names
    ]


def tally(cases: Iterable[ShownCase]) -> Tally:
    return Tally(Counter(shown.status for shown in cases))


def _requirements(cases: list[ShownCase], runs: int) -> list[Requirement]:
    """A case stands in the list under the first requirement it names, and counts in the matrix for each."""
    listed: dict[str, list[ShownCase]] = {}
    counted: dict[str, list[ShownCase]] = {}
    for shown in cases:
        listed.setdefault(shown.case.requirements[0], []).append(shown)
        for name in shown.case.requirements:
            counted.setdefault(name, []).append(shown)
    requirements = []
    for name in sorted(counted):
        rows = listed.get(name, [])
        stated = rows[0].case if rows else None
        requirements.append(
            Requirement(
                name=name,
                area=cases[0].case.area,
                keyword=stated.keyword if stated else "",
                sentence=stated.sentence if stated else "",
                page=stated.page if stated else "",
                rows=sorted(rows, key=lambda shown: (shown.case.id, shown.run)),
                cells=[_cell([shown for shown in counted[name] if shown.run == run]) for run in range(runs)],
            )
        )
    return requirements


def _cell(cases: list[ShownCase]) -> Cell | None:
    if not cases:
        return None
    worst = min(cases, key=lambda shown: _WORST_FIRST[shown.status])
    passed = sum(shown.status is Status.PASS for shown in cases)
    return Cell(worst=worst, passed=passed, total=len(cases))


def _shown_run(run: Run, name: str) -> ShownRun:
    counts = Counter(status_of(case) for case in run.cases)
    ending = {
        Verdict.CONFORMS: "conforms",
        Verdict.DOES_NOT: "does not conform",
        Verdict.UNDECIDED: "is not judged",
    }[run.verdict]
    return ShownRun(run=run, name=name, headline=ending, details=details(run), tally=Tally(counts), facts=_facts(run))


def details(run: Run) -> list[str]:
    """Why the verdict is what it is, in sentences."""
    counts = Counter(status_of(case) for case in run.cases)
    failed, unexpected, passed = counts[Status.FAIL], counts[Status.UNEXPECTED_PASS], counts[Status.PASS]
    said = []
    if failed:
        said.append(f"Of {_cases(len(run.cases))}, {failed:,} {'fails' if failed == 1 else 'fail'}.")
    if unexpected:
        said.append(f"{_cases(unexpected, 'passes', 'pass')} though listed as known failing.")
    if run.end is None:
        said.append(f"The run was broken off after {_cases(len(run.cases))}.")
    elif run.end.exit not in (0, 1) and not counts[Status.ERROR]:
        said.append(f"The suite could not do its work (exit status {run.end.exit}).")
    if counts[Status.ERROR]:
        said.append(f"{_cases(counts[Status.ERROR], 'ends', 'end')} in an error of the suite itself.")
    if not said:
        said.append(f"{_cases(passed, 'passes', 'pass')}." if passed else "No case was decided, so nothing is known.")
    if known := counts[Status.EXPECTED_FAIL]:
        said.append(f"{known:,} known {'failure is' if known == 1 else 'failures are'} set aside.")
    if advice := counts[Status.UNCOUNTED_FAIL]:
        said.append(f"{advice:,} {'recommendation is' if advice == 1 else 'recommendations are'} not followed.")
    return said


def _cases(count: int, one: str = "", many: str = "") -> str:
    """`1 case fails`, `2 cases fail`."""
    return f"{count:,} case {one}".rstrip() if count == 1 else f"{count:,} cases {many}".rstrip()


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = [
        (f"{run.subject.kind.capitalize()}", run.subject.command),
        ("Profiles", ", ".join(run.profiles)),
        ("Started", f"{run.started.day} {run.started:%B %Y, %H:%M %Z}"),
        ("Took", text.duration(run.end.seconds) if run.end else "broken off"),
        ("Suite", f"anyserve-conformance {run.suite}"),
        ("Patience", f"{run.patience:g}×"),
        ("Strict", "yes: SHOULD counts" if run.strict else "no: SHOULD does not count"),
    ]
    if run.options:
        options = (
            f"{key} = {value if isinstance(value, str) else json.dumps(value)}" for key, value in run.options.items()
        )
        facts.append(("Options", ", ".join(options)))
    return facts
