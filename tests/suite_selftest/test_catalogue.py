"""What the suite says of itself: requirements, coverage, reasons, vectors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anyserve_conformance import coverage, extract, vectors
from anyserve_conformance.requirement import catalogue
from support.suite import ROOT

SPEC = ROOT / "docs" / "spec"
DOCUMENTED_FORM = re.compile(r"^```\n(\^`.*)\n```$", re.MULTILINE)


def test_the_form_is_the_documented_one() -> None:
    (form,) = DOCUMENTED_FORM.findall((SPEC / "README.md").read_text(encoding="utf-8"))
    assert form == extract.REQUIREMENT.pattern


def test_requirements_are_those_of_the_pages() -> None:
    assert list(catalogue()) == [entry["name"] for entry in extract.extract(SPEC)]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("`frame.length.odd` The sender must do it.", "not in the form"),
        ("`frame.length.odd` The sender MUST do it", "not in the form"),
        ("`frame.length.odd` The sender MUST do it and MAY do that.", "more than one keyword"),
        ("`frame.length.odd` Somebody MUST do it.", "not in the form"),
        ("Somebody SHOULD do it.", "not in the form"),
        ("`frame.length.format` The sender MUST do it.", "stands twice"),
        ("`frame.length.odd` The sender MUST do it.\nAnd on.", "between empty lines"),
    ],
)
def test_lines_that_are_nearly_requirements(tmp_path: Path, line: str, told: str) -> None:
    for page in extract.PAGES:
        (tmp_path / f"{page}.md").write_text((SPEC / f"{page}.md").read_text(encoding="utf-8"))
    with (tmp_path / "framing.md").open("a") as page_file:
        page_file.write(f"\n{line}\n")
    with pytest.raises(ValueError, match=told):
        extract.extract(tmp_path)


def test_the_coverage_table_is_up_to_date() -> None:
    assert (SPEC / "coverage.md").read_text(encoding="utf-8") == coverage.page(), (
        "run: anyserve-conformance coverage -o docs/spec/coverage.md"
    )


def test_reasons_name_tests_that_exist() -> None:
    for requirement, reason in coverage.untested().items():
        for path in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / path).exists(), f"untested.md: {requirement}: there is no {path}"


def test_a_must_without_case_and_reason_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "untested", dict)
    with pytest.raises(ValueError, match="has no case and no reason"):
        coverage.page()


def test_a_reason_beside_a_case_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {**coverage.untested(), "frame.length.format": "too hard"}
    monkeypatch.setattr(coverage, "untested", lambda: reasons)
    with pytest.raises(ValueError, match=r"frame\.length\.format has cases"):
        coverage.page()


def test_vectors_name_requirements() -> None:
    names = {vector.requirement for name in vectors.FILES for vector in vectors.load(name)}
    assert names <= {*catalogue()}
    assert len(names) > 100
