"""One run of the suite as frozen values, and what it says about its subject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ReportError(ValueError):
    """A report that cannot be read or written; the message is one line and names the file."""


class Outcome(StrEnum):
    """How a case ended, the worst first."""

    FAIL = "fail"
    UNEXPECTED_PASS = "unexpected-pass"
    ERROR = "error"
    EXPECTED_FAIL = "expected-fail"
    PASS = "pass"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not-applicable"


class Verdict(StrEnum):
    CONFORMS = "conforms"
    DOES_NOT = "does-not"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Subject:
    kind: str
    name: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a transcript: bytes sent or received by the suite, or a note."""

    at: float
    who: str
    event: str
    what: str
    decoded: str
    data: bytes
    size: int
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Case:
    id: str
    requirements: tuple[str, ...]
    keyword: str
    area: str
    profile: str
    title: str
    sentence: str
    page: str
    outcome: Outcome
    counts: bool
    reason: str
    look_at: str
    seconds: float
    source: str
    transcript: tuple[Event, ...]

    @property
    def against(self) -> bool:
        """Whether this case by itself says that the subject does not conform."""
        return self.counts and self.outcome in (Outcome.FAIL, Outcome.UNEXPECTED_PASS)


@dataclass(frozen=True, kw_only=True)
class End:
    seconds: float
    exit: int


@dataclass(frozen=True, kw_only=True)
class Run:
    suite: str
    subject: Subject
    started: datetime
    profiles: tuple[str, ...]
    patience: float
    strict: bool
    options: Mapping[str, object]
    cases: tuple[Case, ...]
    end: End | None
    """None when the run was broken off."""

    @property
    def counts(self) -> Counter[Outcome]:
        return Counter(case.outcome for case in self.cases)

    @property
    def verdict(self) -> Verdict:
        if any(case.against for case in self.cases):
            return Verdict.DOES_NOT
        if (
            self.end is None
            or self.end.exit not in (0, 1)
            or not self.counts[Outcome.PASS]
            or self.counts[Outcome.ERROR]
        ):
            return Verdict.UNDECIDED
        return Verdict.CONFORMS if self.end.exit == 0 else Verdict.DOES_NOT
