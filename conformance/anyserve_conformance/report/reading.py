"""Reads `report.jsonl`. Everything is checked and bounded: the file may come from a stranger."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from anyserve_conformance.report.model import Case, End, Event, Outcome, ReportError, Run, Subject

MAX_FILE_BYTES = 128 << 20
MAX_LINE_BYTES = 8 << 20
MAX_CASES = 20_000
MAX_NAME = 1_000
MAX_LIST = 100

KEYWORDS = ("MUST", "SHOULD", "MAY")
SUBJECT_KINDS = ("agent", "server", "worker")
EVENTS = ("sent", "received", "note")


class _Record:
    """One JSON object, with its place in the file for the message of an error."""

    def __init__(self, value: object, place: str) -> None:
        self.place = place
        if not isinstance(value, dict):
            self.fail("is not a JSON object")
        self._value: dict[str, object] = value

    def fail(self, problem: str) -> NoReturn:
        raise ReportError(f"{self.place}: {problem}")

    def _get(self, key: str) -> object:
        if key not in self._value:
            self.fail(f"has no {key!r}")
        return self._value[key]

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            self.fail(f"{key!r} is not a text")
        return value

    def name(self, key: str) -> str:
        """A text that stands in tables and links, so neither empty nor long."""
        value = self.text(key)
        if not 0 < len(value) <= MAX_NAME:
            self.fail(f"{key!r} is empty or longer than {MAX_NAME} characters")
        return value

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        value = self.text(key)
        if value not in allowed:
            self.fail(f"{key!r} is {value[:40]!r}, not one of {', '.join(allowed)}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not 0 < len(value) <= MAX_LIST:
            self.fail(f"{key!r} is not a list of 1 to {MAX_LIST} names")
        if not all(isinstance(item, str) and 0 < len(item) <= MAX_NAME for item in value):
            self.fail(f"{key!r} holds something that is not a name")
        return tuple(value)

    def number(self, key: str) -> float:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(f"{key!r} is not a number")
        if not 0 <= value <= 1e15 or not math.isfinite(value):
            self.fail(f"{key!r} is out of range")
        return value

    def whole(self, key: str) -> int:
        value = self.number(key)
        if not isinstance(value, int):
            self.fail(f"{key!r} is not a whole number")
        return value

    def flag(self, key: str) -> bool:
        value = self._get(key)
        if not isinstance(value, bool):
            self.fail(f"{key!r} is not true or false")
        return value

    def record(self, key: str) -> _Record:
        return _Record(self._get(key), f"{self.place}: {key!r}")

    def records(self, key: str) -> Iterator[_Record]:
        value = self._value.get(key, [])
        if not isinstance(value, list):
            self.fail(f"{key!r} is not a list")
        return (_Record(item, f"{self.place}: {key}[{i}]") for i, item in enumerate(value))

    def items(self) -> dict[str, object]:
        return self._value


def read_run(path: Path) -> Run:
    """Reads one run.

    Raises:
        ReportError: the file cannot be read, is too large, or is no report; the message is one line.
    """
    records = _records(path)
    first = next(records, None)
    if first is None:
        raise ReportError(f"{path}: is empty")
    if first.choice("kind", ("run", "case", "end")) != "run":
        first.fail("the first line does not describe a run")
    cases: dict[str, Case] = {}
    end: End | None = None
    for record in records:
        kind = record.choice("kind", ("case", "end"))
        if end is not None:
            record.fail("stands behind the end of the run")
        if kind == "end":
            end = _end(record, cases)
            continue
        case = _case(record)
        if case.id in cases:
            record.fail(f"the case {case.id!r} stands here a second time")
        if len(cases) == MAX_CASES:
            record.fail(f"there are more than {MAX_CASES} cases")
        cases[case.id] = case
    return _run(first, tuple(cases.values()), end)


def _records(path: Path) -> Iterator[_Record]:
    total = 0
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                place = f"{path}:{number}"
                total += len(line)
                if len(line) > MAX_LINE_BYTES:
                    raise ReportError(f"{place}: is longer than {MAX_LINE_BYTES >> 20} MiB")
                if total > MAX_FILE_BYTES:
                    raise ReportError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MiB")
                yield _Record(_json(line, place), place)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}") from error


def _json(line: bytes, place: str) -> object:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    try:
        return json.loads(line.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{place}: is not JSON in UTF-8") from error


def _run(record: _Record, cases: tuple[Case, ...], end: End | None) -> Run:
    subject = record.record("subject")
    try:
        started = datetime.fromisoformat(record.text("started"))
    except ValueError:
        record.fail("'started' is not a time in ISO 8601")
    if started.tzinfo is None:
        record.fail("'started' has no time zone")
    return Run(
        suite=record.name("suite"),
        subject=Subject(
            kind=subject.choice("kind", SUBJECT_KINDS), name=subject.name("name"), command=subject.text("command")
        ),
        started=started,
        profiles=record.names("profiles"),
        patience=record.number("patience"),
        strict=record.flag("strict"),
        options=record.record("options").items(),
        cases=cases,
        end=end,
    )


def _case(record: _Record) -> Case:
    return Case(
        id=record.name("id"),
        requirements=record.names("requirements"),
        keyword=record.choice("keyword", KEYWORDS),
        area=record.name("area"),
        profile=record.name("profile"),
        title=record.text("title"),
        sentence=record.text("sentence"),
        page=record.text("page"),
        outcome=Outcome(record.choice("outcome", tuple(Outcome))),
        counts=record.flag("counts"),
        reason=record.text("reason"),
        look_at=record.text("look_at"),
        seconds=record.number("seconds"),
        source=record.text("source"),
        transcript=tuple(_event(event) for event in record.records("transcript")),
    )


def _event(record: _Record) -> Event:
    written = record.text("hex")
    try:
        data = bytes.fromhex(written.removesuffix("…"))
    except ValueError:
        record.fail("'hex' is not hexadecimal")
    size = record.whole("size")
    return Event(
        at=record.number("at"),
        who=record.text("who"),
        event=record.choice("event", EVENTS),
        what=record.text("what"),
        decoded=record.text("decoded"),
        data=data,
        size=size,
        cut=record.flag("cut"),
    )


def _end(record: _Record, cases: dict[str, Case]) -> End:
    """The end states how many cases there were: a file that lost lines is not taken for a whole one."""
    stated = record.record("counts")
    counts = {key: stated.whole(key) for key in stated.items()}
    found = Counter(case.outcome.value for case in cases.values())
    if Counter(counts) != found:
        record.fail(f"counts {sum(counts.values())} cases by outcome, and the lines above do not agree: {len(cases)}")
    return End(seconds=record.number("seconds"), exit=record.whole("exit"))
