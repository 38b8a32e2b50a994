"""The HTML page: one file, nothing loaded from elsewhere, readable without JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anyserve_conformance.report import text
from anyserve_conformance.report.model import ReportError, Run
from anyserve_conformance.report.view import Page, page_of

MAX_RUNS = 20


def write_html(runs: Sequence[Run], path: Path) -> None:
    """Writes the page of one run, or of several with a matrix of requirements and subjects.

    Raises:
        ReportError: there is no run, or there are too many, or the file cannot be written.
    """
    if not 1 <= len(runs) <= MAX_RUNS:
        raise ReportError(f"{path}: a page shows 1 to {MAX_RUNS} runs, not {len(runs)}")
    try:
        path.write_text(render(page_of(runs)), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}") from error


def render(page: Page) -> str:
    environment = Environment(
        loader=PackageLoader("anyserve_conformance.report"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        shown.__name__: shown for shown in (text.breakable, text.duration, text.prose, text.shorten, text.size)
    }
    script = _source(environment, "page.js")
    return environment.get_template("page.html.j2").render(
        page=page,
        several=len(page.runs) > 1,
        style=Markup(_source(environment, "page.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _finalize(value: object) -> object:
    """Every text that the template prints comes through here, before it is escaped."""
    return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
