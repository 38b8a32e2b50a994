"""What benchmarks found: shown, and written to build/benchmarks as JSON and Markdown."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import machine, plots
from benchmarks.measuring import Measured

__all__ = ["Aim", "Report"]

COLUMNS = ("case", "subject", "per second", "CPU µs each", "p50 µs", "p99 µs", "of the CPU")
AIM_COLUMNS = ("aim", "at most", "measured", "")


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure that should be at most so much."""

    text: str
    limit: float
    value: float
    unit: str = "×"

    @property
    def met(self) -> bool:
        return self.value <= self.limit


@dataclass(slots=True)
class Report:
    """Collects cases, aims and notes in the order in which they come.

    Args:
        name: of the files.
    """

    name: str
    cases: dict[str, dict[str, Measured]] = field(default_factory=dict)
    aims: list[Aim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def case(self, name: str, measured: Mapping[str, Measured]) -> None:
        """What was measured of several subjects under one load."""
        self.cases[name] = dict(measured)

    def aim(self, text: str, limit: float, value: float, unit: str = "×") -> None:
        """A figure against its aim."""
        self.aims.append(Aim(text, limit, value, unit))

    def note(self, text: str) -> None:
        """A figure without an aim, or what could not be measured."""
        self.notes.append(text)

    def text(self) -> str:
        """Both tables, in Markdown that is readable as it is."""
        rows = [
            (
                case,
                subject,
                _spread(found.rate, 0),
                _spread(found.cpu, 2),
                _median(found.p50),
                _median(found.p99),
                ", ".join(f"{process} {statistics.median(used):.2f}" for process, used in found.shares.items()),
            )
            for case, subjects in self.cases.items()
            for subject, found in subjects.items()
        ]
        aims = [
            (aim.text, _figure(aim.limit, aim.unit), _figure(aim.value, aim.unit), "met" if aim.met else "missed")
            for aim in self.aims
        ]
        parts = [_about(), *([_table(COLUMNS, rows)] if rows else [])]
        parts += [_table(AIM_COLUMNS, aims)] if aims else []
        return "\n\n".join([*parts, *self.notes]) + "\n"

    def write(self, directory: Path) -> list[Path]:
        """Writes NAME.md and NAME.json, and where matplotlib is installed NAME.svg and NAME.png; returns the files."""
        directory.mkdir(parents=True, exist_ok=True)
        files = [directory / f"{self.name}.{ending}" for ending in ("md", "json")]
        files[0].write_text(self.text())
        content = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine.description(),
            "cases": {case: {name: asdict(found) for name, found in each.items()} for case, each in self.cases.items()},
            "aims": [asdict(aim) | {"met": aim.met} for aim in self.aims],
            "notes": self.notes,
        }
        files[1].write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        if self.cases and plots.available():
            files += plots.draw(self.name, _about(), self.cases, directory)
        return files


def _about() -> str:
    """When, and on what machine."""
    described = ", ".join(f"{key} {value}" for key, value in machine.description().items())
    return f"{datetime.date.today().isoformat()}; {described}"


def _spread(values: Sequence[float], digits: int) -> str:
    """The median, and between which values it lies."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}–{high})"


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f}"


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in lines
    )
