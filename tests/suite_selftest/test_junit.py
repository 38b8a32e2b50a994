"""JUnit XML: well-formed whatever stands in the report, and what counts is a failure."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import samples

from anyserve_conformance import report
from anyserve_conformance.report.junit import write_junit


def junit(directory: Path, records: list[samples.Record]) -> ET.Element:
    run = report.read_run(samples.write(directory / "report.jsonl", records))
    write_junit(run, directory / "junit.xml")
    return ET.parse(directory / "junit.xml").getroot()


def numbers(element: ET.Element) -> tuple[int, ...]:
    return tuple(int(element.attrib[key]) for key in ("tests", "failures", "errors", "skipped"))


def test_a_testsuite_for_each_profile(tmp_path: Path) -> None:
    root = junit(tmp_path, samples.likely())
    assert numbers(root) == (21, 3, 1, 4)
    assert {suite.attrib["name"]: numbers(suite) for suite in root} == {
        "kserve-core": (4, 0, 1, 0),
        "agent-serving": (12, 3, 0, 1),
        "agent-management": (3, 0, 0, 2),
        "agent-streaming": (2, 0, 0, 1),
    }
    for suite in root:
        assert suite.attrib["timestamp"] == "2026-11-24T08:00:00+00:00"
        assert suite.find("properties/property[@name='subject']").attrib["value"] == "reference agent"  # type: ignore[union-attr]
        assert len(suite.findall("testcase")) == int(suite.attrib["tests"])


def test_each_outcome_is_what_a_machine_makes_of_it(tmp_path: Path) -> None:
    root = junit(tmp_path, samples.likely())
    marks = {case.attrib["name"]: [(one.tag, one.attrib["type"]) for one in case] for case in root.iter("testcase")}
    for record in samples.likely():
        if record["kind"] != "case":
            continue
        expected = {
            "pass": [],
            "fail": [("failure", "MUST")] if record["counts"] else [("skipped", "fail")],
            "unexpected-pass": [("failure", "MUST")],
            "error": [("error", "suite")],
        }.get(record["outcome"], [("skipped", record["outcome"])])
        assert marks[record["id"]] == expected, record["id"]


def test_a_failure_says_what_the_page_says(tmp_path: Path) -> None:
    record = samples.likely()[1]
    root = junit(tmp_path, samples.likely())
    case = next(one for one in root.iter("testcase") if one.attrib["name"] == record["id"])
    assert case.attrib["classname"] == "agent-serving.frame.length.limit"
    failure = case.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == record["reason"]
    assert failure.text is not None
    for key in ("title", "sentence", "reason", "look_at", "source"):
        assert record[key] in failure.text
    assert "3.4 ms  worker 1  sent: frame header, length 2,147,483,647 (4 bytes)\n    0000  7f ff ff ff" in failure.text


def test_why_a_case_was_skipped_is_said(tmp_path: Path) -> None:
    root = junit(tmp_path, samples.likely())
    messages = {one.attrib["message"] for one in root.iter("skipped")}
    assert "skipped: the subject declares no streaming model" in messages
    assert "expected-fail: issue 12: a stopped process keeps its socket" in messages
    assert 'does not count: the message is "invalid argument", without the key "Type!"' in messages


def test_what_xml_forbids_is_replaced(tmp_path: Path) -> None:
    root = junit(tmp_path, samples.hostile())
    written = (tmp_path / "junit.xml").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\u202e]", written)
    assert r"\x00\x1b[31m \u202egnp.exe\u202c \ud800" in root[0].attrib["name"]
    assert len(written) < 200_000


def test_a_run_that_did_not_do_its_work_is_an_error(tmp_path: Path) -> None:
    broken = junit(tmp_path, samples.good()[:-1])
    assert numbers(broken) == (14, 0, 1, 0)
    error = broken.find("testsuite[@name='run']/testcase/error")
    assert error is not None
    assert error.attrib["message"] == "the run was broken off after 13 cases"
    idle = junit(tmp_path, samples.whole(samples.head(), [], 2))
    assert numbers(idle) == (1, 0, 1, 0)
