"""What a case came to, and the file that says so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["OUTCOMES", "Known", "KnownFailing", "Recorder", "exit_status", "read_known_failing"]

OUTCOMES = ("pass", "fail", "expected-fail", "unexpected-pass", "skipped", "not-applicable", "error")

CONFORMS, DOES_NOT, COULD_NOT = 0, 1, 2


@dataclass(frozen=True)
class Known:
    """One case that is expected to fail."""

    reason: str
    where: str
    sometimes: bool
    """It may pass as well."""


KnownFailing = Mapping[str, Known]


def read_known_failing(*paths: Path) -> KnownFailing:
    """Reads lists: `case-id  reason` a line, `#` before comments; `?case-id` may pass as well.

    Raises:
        ValueError: a line has no reason, or a case stands twice.
        OSError: a file cannot be read.
    """
    found: dict[str, Known] = {}
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            text, where = line.strip(), f"{path}:{number}"
            if not text or text.startswith("#"):
                continue
            case, _, reason = text.partition(" ")
            if not reason.strip():
                raise ValueError(f"{where}: {case} has no reason behind it")
            name = case.removeprefix("?")
            if name in found:
                raise ValueError(f"{where}: {name} stands twice")
            found[name] = Known(reason.strip(), where, case.startswith("?"))
    return found


def exit_status(records: Iterable[Mapping[str, Any]]) -> int:
    """0 conforms, 1 does not, 2 the suite could not do its work."""
    status = CONFORMS
    seen = False
    for record in records:
        seen = True
        if record["outcome"] == "error":
            return COULD_NOT
        if record["outcome"] == "unexpected-pass" or (record["outcome"] == "fail" and record["counts"]):
            status = DOES_NOT
    return status if seen else COULD_NOT


class Recorder:
    """Collects the records of a run and writes report.jsonl as they come."""

    def __init__(self, directory: Path | None, run: Mapping[str, Any]) -> None:
        self.run = dict(run)
        self.cases: list[dict[str, Any]] = []
        self.directory = directory
        self._file = None
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = (directory / "report.jsonl").open("w", encoding="utf-8")
            self._write({"kind": "run", **self.run})

    def add(self, record: dict[str, Any]) -> None:
        """One case."""
        self.cases.append(record)
        self._write({"kind": "case", **record})

    def end(self, seconds: float, status: int) -> None:
        """The end of the run."""
        counts = Counter(record["outcome"] for record in self.cases)
        self._write({"kind": "end", "counts": dict(counts), "seconds": round(seconds, 2), "exit": status})
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record, ensure_ascii=True) + "\n")
            self._file.flush()
