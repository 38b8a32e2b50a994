"""The HTML page: read from files that may be bad, complete, harmless; `test_report_in_browser.py` opens it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import samples
from parsed_page import page_of, parse

from anyserve_conformance import report
from anyserve_conformance.report import reading, text, view
from anyserve_conformance.report.model import Outcome, Verdict

TEMPLATES = Path(reading.__file__).parent / "templates"


def test_reads_what_was_written(tmp_path: Path) -> None:
    run = report.read_run(samples.write(tmp_path / "report.jsonl", samples.likely()))
    assert run.subject.name == "reference agent"
    assert (run.patience, run.strict, run.started.isoformat()) == (1.0, False, "2026-11-24T08:00:00+00:00")
    assert run.counts[Outcome.FAIL] == 3
    assert run.counts.total() == len(run.cases) == 21
    first = run.cases[0]
    assert first.id == "frame.length.limit/closes-without-waiting"
    assert first.transcript[3].data == b"\x7f\xff\xff\xff"
    assert run.end is not None
    assert run.end.exit == 1


def test_fields_that_it_does_not_know_are_left_alone(tmp_path: Path) -> None:
    records = [{**record, "later": [1]} for record in samples.good()]
    assert len(report.read_run(samples.write(tmp_path / "report.jsonl", records)).cases) == 13


Change = Callable[[list[samples.Record]], object]

BAD: dict[str, tuple[Change, str]] = {
    "no run first": (lambda r: r.pop(0), ":1: the first line does not describe a run"),
    "unknown kind": (lambda r: r[1].update(kind="cases"), ":2: 'kind' is 'cases', not one of case, end"),
    "unknown outcome": (lambda r: r[1].update(outcome="passed"), ":2: 'outcome' is 'passed'"),
    "unknown keyword": (lambda r: r[1].update(keyword="must"), ":2: 'keyword' is 'must'"),
    "unknown kind of subject": (lambda r: r[0]["subject"].update(kind="cat"), ":1: 'subject': 'kind' is 'cat'"),
    "nothing named": (lambda r: r[2].pop("sentence"), ":3: has no 'sentence'"),
    "number for a text": (lambda r: r[1].update(title=3), ":2: 'title' is not a text"),
    "text for a flag": (lambda r: r[1].update(counts="yes"), ":2: 'counts' is not true or false"),
    "flag for a number": (lambda r: r[1].update(seconds=True), ":2: 'seconds' is not a number"),
    "endless number": (lambda r: r[1].update(seconds=1e300), ":2: 'seconds' is out of range"),
    "negative number": (lambda r: r[1].update(seconds=-1), ":2: 'seconds' is out of range"),
    "not a number": (lambda r: r[1].update(seconds=float("nan")), ":2: is not JSON"),
    "no requirement": (lambda r: r[1].update(requirements=[]), ":2: 'requirements' is not a list of 1 to 100"),
    "a requirement of two kinds": (lambda r: r[1].update(requirements=["a", 1]), ":2: 'requirements' holds something"),
    "long id": (lambda r: r[1].update(id="x" * 1001), ":2: 'id' is empty or longer"),
    "bad hex": (lambda r: r[1].update(transcript=[samples.event(0, "a", "b", hex="0g")]), ":2: transcript[0]: 'hex'"),
    "unknown event": (lambda r: r[1].update(transcript=[samples.event(0, "a", "b", kind="lost")]), "[0]: 'event' is"),
    "no list of events": (lambda r: r[1].update(transcript={}), ":2: 'transcript' is not a list"),
    "no time": (lambda r: r[0].update(started="yesterday"), ":1: 'started' is not a time"),
    "no time zone": (lambda r: r[0].update(started="2026-11-24T08:00:00"), ":1: 'started' has no time zone"),
    "a case twice": (lambda r: r.insert(1, r[1]), ":3: the case 'serving.infer.response/"),
    "a lost line": (lambda r: r.pop(3), ":14: counts 13 cases by outcome, and the lines above do not agree: 12"),
    "more behind the end": (lambda r: r.append(r[1]), ":16: stands behind the end"),
    "nothing at all": (lambda r: r.clear(), ": is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_error(name: str, tmp_path: Path) -> None:
    change, said = BAD[name]
    records = json.loads(json.dumps(samples.good()))
    change(records)
    path = samples.write(tmp_path / "report.jsonl", records)
    with pytest.raises(report.ReportError) as caught:
        report.read_run(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"{}\n", b"3\n", b'{"kind": "run"', b"1" * 5000], ids=repr
)
def test_what_is_no_report_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_bytes(content)
    with pytest.raises(report.ReportError, match=r"report\.jsonl:1: (is not|has no)"):
        report.read_run(path)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(report.ReportError, match="No such file"):
        report.read_run(tmp_path / "report.jsonl")
    with pytest.raises(report.ReportError, match="No such file"):
        report.write_html([_good(tmp_path)], tmp_path / "nowhere" / "report.html")


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MAX_LINE_BYTES", 400, r":2: is longer than"),
        ("MAX_FILE_BYTES", 4000, r"jsonl: is larger than"),
        ("MAX_CASES", 12, "more than 12 cases"),
    ],
)
def test_files_lines_and_cases_are_bounded(
    limit: str, value: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = samples.write(tmp_path / "report.jsonl", samples.good())
    monkeypatch.setattr(reading, limit, value)
    with pytest.raises(report.ReportError, match=said):
        report.read_run(path)


def _good(tmp_path: Path) -> report.Run:
    return report.read_run(samples.write(tmp_path / "good.jsonl", samples.good()))


def test_a_page_has_one_run_at_least_and_not_too_many(tmp_path: Path) -> None:
    for count in (0, 21):
        with pytest.raises(report.ReportError, match=f"not {count}"):
            report.write_html([_good(tmp_path)] * count, tmp_path / "report.html")


PASS, FAIL = samples.case(0, "one"), samples.case(6, "two", "fail")
ADVICE, KNOWN = samples.case(4, "three", "fail"), samples.case(5, "four", "expected-fail")
ERROR, UNEXPECTED = samples.case(1, "five", "error"), samples.case(3, "six", "unexpected-pass")
SKIPPED = samples.case(9, "seven", "skipped")


@pytest.mark.parametrize(
    ("cases", "exit_status", "verdict", "said"),
    [
        ([PASS], 0, Verdict.CONFORMS, "1 case passes."),
        ([PASS, ADVICE, KNOWN], 0, Verdict.CONFORMS, "1 known failure is set aside. 1 recommendation is not followed."),
        ([PASS, FAIL], 1, Verdict.DOES_NOT, "Of 2 cases, 1 fails."),
        ([PASS, UNEXPECTED], 1, Verdict.DOES_NOT, "1 case passes though listed as known failing."),
        ([PASS, FAIL, ERROR], 2, Verdict.DOES_NOT, "Of 3 cases, 1 fails. 1 case ends in an error of the suite itself."),
        ([PASS, ERROR], 2, Verdict.UNDECIDED, "1 case ends in an error of the suite itself."),
        ([PASS], 2, Verdict.UNDECIDED, "The suite could not do its work (exit status 2)."),
        ([SKIPPED], 0, Verdict.UNDECIDED, "No case was decided, so nothing is known."),
        ([PASS], None, Verdict.UNDECIDED, "The run was broken off after 1 case."),
        ([FAIL], None, Verdict.DOES_NOT, "Of 1 case, 1 fails. The run was broken off after 1 case."),
    ],
)
def test_the_verdict_is_one_sentence_with_its_reasons(
    cases: list[samples.Record], exit_status: int | None, verdict: Verdict, said: str, tmp_path: Path
) -> None:
    records = samples.whole(samples.head(), cases, exit_status)
    if exit_status is None:
        records.pop()
    run = report.read_run(samples.write(tmp_path / "report.jsonl", records))
    assert run.verdict is verdict
    assert said in " ".join(view.details(run))
    heading = parse(page_of(tmp_path, records)).all("h1")[0].text
    ending = {"conforms": "conforms.", "does-not": "does not conform.", "undecided": "is not judged."}[verdict]
    assert heading == f"reference agent {ending}"


def test_the_page_says_what_was_tested(tmp_path: Path) -> None:
    parsed = parse(page_of(tmp_path, samples.likely()))
    facts = dict(zip((one.text for one in parsed.all("dt")), (one.text for one in parsed.all("dd")), strict=True))
    assert facts == {
        "Agent": "anyserve --impl=reference --port {port} --management-port {management_port}",
        "Profiles": "kserve-core, agent-serving, agent-management, agent-streaming",
        "Started": "24 November 2026, 08:00 UTC",
        "Took": "12.3 s",
        "Suite": "anyserve-conformance 0.1.0",
        "Patience": "1×",
        "Strict": "no: SHOULD does not count",
        "Options": "model = echo",
    }


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = page_of(tmp_path, samples.likely(), samples.good())
    parsed = parse(page)
    for element in parsed.elements:
        assert element.tag not in {"iframe", "object", "embed", "base", "img", "form[action]"}
        assert not {"src", "srcset", "action", "formaction", "background", "ping"} & element.attributes.keys()
        assert not [name for name in element.attributes if name.startswith("on")]
        if "href" in element.attributes:
            assert element.attributes["href"].startswith("data:" if element.tag == "link" else "#")
    styles = parsed.all("style")[0].text + "".join(one.attributes.get("style", "") for one in parsed.elements)
    assert "@import" not in styles
    assert "url(" not in styles
    policy = parsed.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    assert policy.startswith("default-src 'none';")


def test_every_link_leads_somewhere(tmp_path: Path) -> None:
    parsed = parse(page_of(tmp_path, samples.likely(), samples.good(), samples.likely()))
    ids = [one.attributes["id"] for one in parsed.elements if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    links = [one.attributes["href"][1:] for one in parsed.all("a")]
    assert len(links) > 50
    assert set(links) <= set(ids)


def test_every_failure_is_told_in_full(tmp_path: Path) -> None:
    records = samples.likely()
    parsed = parse(page_of(tmp_path, records))
    told = {one.attributes["id"].removeprefix("case/1/"): one.text for one in parsed.classed("details", "finding")}
    failing = [r for r in records if r["kind"] == "case" and r["outcome"] not in ("pass", "skipped", "not-applicable")]
    assert told.keys() == {record["id"] for record in failing}
    for record in failing:
        words = told[record["id"]]
        for key in ("id", "title", "sentence", "reason", "look_at", "source", "page", "profile"):
            assert record[key].replace("`", "") in words, key
        for event in record["transcript"]:
            assert event["who"] in words
            assert event["what"] in words
            assert event["decoded"] in words
            for at in range(0, len(event["hex"]), 24):
                assert event["hex"][at : at + 23] in words
    assert "7f ff ff ff" in told["frame.length.limit/closes-without-waiting"]
    assert "→ sentModelInfer request" in told["frame.length.limit/closes-without-waiting"]
    assert "772 bytes more, not shown" in told["frame.request.verbatim/unknown-fields-and-their-order-are-kept"]


def test_long_transcripts_are_folded_and_short_ones_are_not(tmp_path: Path) -> None:
    parsed = parse(page_of(tmp_path, samples.likely()))
    folded = parsed.classed("details", "long")
    assert [one.text.split("\n")[0] for one in folded] == ["decoded text and bytes", "bytes"]
    assert "open" not in folded[0].attributes
    assert all("7f ff ff ff" not in one.text for one in folded)


def test_every_case_is_in_the_table_with_what_the_filters_need(tmp_path: Path) -> None:
    records = samples.likely()
    parsed = parse(page_of(tmp_path, records))
    rows = {
        next(one.text for one in parsed.within(row) if one.attributes.get("class") == "id"): row
        for row in parsed.classed("tr", "case")
    }
    cases = [record for record in records if record["kind"] == "case"]
    assert rows.keys() == {record["id"] for record in cases}
    for record in cases:
        row = rows[record["id"]]
        outcome = record["outcome"] if record["counts"] else "uncounted-fail"
        expected = {"area": record["area"], "profile": record["profile"], "keyword": record["keyword"]}
        expected |= {"outcome": outcome, "run": "0"}
        assert {key: row.attributes[f"data-{key}"] for key in expected} == expected
        assert record["title"] in row.text
    for finding in parsed.classed("details", "finding"):
        assert {"data-area", "data-profile", "data-keyword", "data-outcome"} <= finding.attributes.keys()
    names = {
        one.attributes["name"] for one in parsed.elements if one.tag in ("select", "input") and "name" in one.attributes
    }
    assert names == {"q", "outcome", "area", "profile", "keyword"}
    values = {one.attributes.get("value", one.text) for one in parsed.all("option")}
    assert {"frame", "agent-serving", "SHOULD", "uncounted-fail"} <= values


def test_without_javascript_nothing_is_hidden_but_what_needs_it(tmp_path: Path) -> None:
    parsed = parse(page_of(tmp_path, samples.likely(), samples.good()))
    hidden = [one for one in parsed.elements if "hidden" in one.attributes]
    assert {one.tag for one in hidden} == {"form", "button", "label", "p"}
    assert [one.attributes["id"] for one in hidden if one.tag == "p"] == ["nothing"]


def test_a_run_without_cases_says_so(tmp_path: Path) -> None:
    parsed = parse(page_of(tmp_path, samples.whole(samples.head(), [], 2)))
    assert parsed.all("h1")[0].text == "reference agent is not judged."
    assert [one.text for one in parsed.classed("p", "nothing")] == ["No case ran."]
    assert not parsed.all("form")


def test_many_findings_are_folded_into_a_list(tmp_path: Path) -> None:
    few = parse(page_of(tmp_path, samples.likely())).classed("details", "finding")
    many = parse(page_of(tmp_path, samples.large(40, "fail"))).classed("details", "finding")
    assert sum("open" in one.attributes for one in few) == 5  # all but the known failure
    assert sum("open" in one.attributes for one in many if "SHOULD" not in one.attributes["data-keyword"]) == 0


def test_bytes_of_strangers_do_no_harm(tmp_path: Path) -> None:
    page = page_of(tmp_path, samples.hostile())
    parsed = parse(page)
    assert len(parsed.all("script")) == 1
    assert parsed.all("script")[0].text == (TEMPLATES / "page.js").read_text()
    assert not parsed.all("img")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    shown = text.visible(samples.HOSTILE)
    assert r"\x00\x1b[31m \u202egnp.exe\u202c \ud800" in shown
    finding = parsed.classed("details", "finding")[0]
    assert finding.text.count(shown) > 5
    assert finding.attributes["data-area"] == shown
    assert len(page) < 200_000
    assert re.search(r"29\d\d events are left out here", finding.text)


def test_a_full_run_of_failures_stays_small(tmp_path: Path) -> None:
    page = page_of(tmp_path, samples.large(500, "fail"))
    assert len(page) < 16 << 20
    assert page.count('<details class="finding') == 500


def test_the_end_of_a_long_transcript_is_kept(tmp_path: Path) -> None:
    transcript = [samples.event(i, "client 1", f"message {i}", bytes(1024), "sent") for i in range(1000)]
    failing = samples.case(6, "long", "fail", transcript=transcript)
    parsed = parse(page_of(tmp_path, samples.whole(samples.head(), [failing])))
    told = parsed.classed("ol", "transcript")[0].text
    assert "message 0" in told
    assert "message 999" in told
    assert "message 500" not in told
    assert re.search(r"9\d\d events are left out here", told)


def test_sentences_show_their_keyword_and_code(tmp_path: Path) -> None:
    parsed = parse(page_of(tmp_path, samples.good()))
    words = [one.text for one in parsed.classed("strong", "keyword")]
    assert {"MUST", "MUST NOT", "MAY"} == set(words)
    assert "--heartbeat-timeout" in [one.text for one in parsed.all("code")]
    assert str(text.prose("a `b` <c> `d", "MUST")) == "a `b` &lt;c&gt; `d"


def _colours(block: str) -> dict[str, tuple[float, ...]]:
    found = re.findall(r"--([\w-]+): #([0-9a-f]{6});", block)
    return {name: tuple(int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, value in found}


def _luminance(colour: tuple[float, ...]) -> float:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(mode: str) -> None:
    light, dark = (TEMPLATES / "page.css").read_text().split("@media (prefers-color-scheme: dark)")
    colours = _colours(light if mode == "light" else dark.split("* {")[0])
    assert len(colours) >= 20
    for ink in ("ink", "quiet", "link", "pass", "fail", "amber", "violet", "grey"):
        for paper in ("paper", "card", "sunk", "fail-wash"):
            low, high = sorted((_luminance(colours[ink]), _luminance(colours[paper])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{ink} on {paper}"
