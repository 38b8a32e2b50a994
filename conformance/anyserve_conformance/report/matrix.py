"""Several reports merged into one page: requirement × subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anyserve_conformance.report.page import write_html
from anyserve_conformance.report.reading import read_run


def merge(paths: Sequence[Path], output: Path) -> None:
    """Writes the page of all these reports.

    Raises:
        ReportError: one of them cannot be read, or the page cannot be written.
    """
    write_html([read_run(path) for path in paths], output)
