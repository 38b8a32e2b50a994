"""Several reports merged into one page."""

from __future__ import annotations

from pathlib import Path

import pytest
import samples
from parsed_page import ParsedPage, parse

from anyserve_conformance import report
from anyserve_conformance.report.matrix import merge


def merged(directory: Path, *runs: list[samples.Record]) -> ParsedPage:
    paths = [samples.write(directory / f"{i}.jsonl", run) for i, run in enumerate(runs)]
    merge(paths, directory / "matrix.html")
    return parse((directory / "matrix.html").read_text(encoding="utf-8"))


def row(parsed: ParsedPage, name: str) -> list[str]:
    """The classes of a requirement's cells."""
    at = next(i for i, one in enumerate(parsed.elements) if one.tag == "th" and one.text.split(" ")[0] == name)
    cells = []
    for element in parsed.elements[at + 1 :]:
        if element.tag in ("tr", "tbody"):
            break
        if element.tag == "td":
            cells.append(f"{element.attributes['class']} {element.text.split()[-1].lstrip('✓')}")
    return cells


def test_each_requirement_meets_each_subject(tmp_path: Path) -> None:
    parsed = merged(tmp_path, samples.likely(), samples.good())
    matrix = parsed.classed("table", "matrix")[0]
    assert [one.text for one in parsed.all("th", scope="col")][3:6] == [
        "Requirement",
        "reference agent",
        "native agent",
    ]
    for record in samples.likely():
        for name in record.get("requirements", []):
            assert name in matrix.text
    assert row(parsed, "frame.length.limit") == ["fail 1/2", "pass pass"]
    assert row(parsed, "serving.infer.response") == ["pass 2/2", "pass 2/2"]
    assert row(parsed, "manage.register.message") == ["uncounted-fail 0/1", "absent tested"]
    assert row(parsed, "manage.loss.timeout") == ["expected-fail 1/2", "pass pass"]
    assert row(parsed, "route.query.twice") == ["unexpected-pass 2/3", "pass 2/2"]
    assert row(parsed, "serving.grpc.content-type") == ["error 1/2", "pass pass"]


def test_a_case_counts_for_every_requirement_that_it_names(tmp_path: Path) -> None:
    parsed = merged(tmp_path, samples.likely(), samples.good())
    assert row(parsed, "frame.scan.depth") == ["fail 0/1", "absent tested"]
    assert row(parsed, "route.query.before-name") == ["pass pass", "pass pass"]


def test_rows_where_the_subjects_differ_are_marked(tmp_path: Path) -> None:
    parsed = merged(tmp_path, samples.likely(), samples.good())
    marked = [one.text.split("\n")[0].split(" ")[0] for one in parsed.all("tr") if "data-differs" in one.attributes]
    assert "frame.length.limit" in marked
    assert "manage.register.message" in marked
    assert "serving.infer.response" not in marked


def test_each_subject_has_its_verdict_and_findings(tmp_path: Path) -> None:
    parsed = merged(tmp_path, samples.likely(), samples.good(), samples.likely("somebody else's"))
    assert parsed.all("h1")[0].text == "1 of 3 subjects conforms."
    assert [one.text for one in parsed.classed("h2", "verdict")] == [
        "reference agent does not conform.",
        "native agent conforms.",
        "somebody else's does not conform.",
    ]
    runs = [one.attributes["data-run"] for one in parsed.classed("details", "finding")]
    assert (runs.count("0"), runs.count("1"), runs.count("2")) == (6, 0, 6)
    assert len(parsed.classed("tr", "case")) == 21 + 13 + 21


def test_subjects_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    parsed = merged(tmp_path, samples.good(), samples.good())
    assert [one.text for one in parsed.classed("h2", "verdict")] == [
        "native agent conforms.",
        "native agent (2) conforms.",
    ]


def test_one_bad_report_is_one_clear_error_and_no_page(tmp_path: Path) -> None:
    good = samples.write(tmp_path / "good.jsonl", samples.good())
    bad = tmp_path / "bad.jsonl"
    bad.write_text("no report\n")
    with pytest.raises(report.ReportError, match=r"bad\.jsonl:1: is not JSON in UTF-8"):
        merge([good, bad], tmp_path / "matrix.html")
    assert not (tmp_path / "matrix.html").exists()
