"""JUnit XML, as CI machines read it: a testsuite for each profile."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from anyserve_conformance.report import text
from anyserve_conformance.report.model import Case, Outcome, ReportError, Run
from anyserve_conformance.report.transcript_view import ShownEvent, ShownTranscript, show_transcripts

MESSAGE = 500
REASON = 8_000


def write_junit(run: Run, path: Path) -> None:
    """Writes the run: what counts against the subject is a failure, the suite's own fault an error, the rest of what
    did not pass is skipped with its reason.

    Raises:
        ReportError: the file cannot be written.
    """
    tree = ET.ElementTree(_testsuites(run))
    ET.indent(tree)
    try:
        tree.write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}") from error


def _testsuites(run: Run) -> ET.Element:
    root = ET.Element("testsuites", name=text.visible(f"anyserve-conformance {run.suite}: {run.subject.name}"))
    transcripts = show_transcripts([case.transcript for case in run.cases])
    testcases = {case.id: _testcase(case, shown) for case, shown in zip(run.cases, transcripts, strict=True)}
    for profile in dict.fromkeys([*run.profiles, *(case.profile for case in run.cases)]):
        cases = [case for case in run.cases if case.profile == profile]
        seconds = sum(case.seconds for case in cases)
        root.append(_testsuite(run, profile, [testcases[case.id] for case in cases], seconds))
    if problem := _broken(run):
        broken = ET.Element("testcase", classname="run", name="the run did its work", time="0")
        _child(broken, "error", "run", problem)
        root.append(_testsuite(run, "run", [broken], 0))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.attrib[key]) for suite in root)))
    root.set("time", f"{run.end.seconds if run.end else sum(case.seconds for case in run.cases):.3f}")
    return root


def _broken(run: Run) -> str:
    """A machine that counts failures alone must not take a run that did not do its work for a good one."""
    if run.end is None:
        return f"the run was broken off after {len(run.cases)} cases"
    if run.end.exit not in (0, 1):
        return f"the suite could not do its work (exit status {run.end.exit})"
    return ""


def _testsuite(run: Run, name: str, testcases: list[ET.Element], seconds: float) -> ET.Element:
    suite = ET.Element(
        "testsuite",
        name=text.visible(name),
        tests=str(len(testcases)),
        failures=str(sum(testcase.find("failure") is not None for testcase in testcases)),
        errors=str(sum(testcase.find("error") is not None for testcase in testcases)),
        skipped=str(sum(testcase.find("skipped") is not None for testcase in testcases)),
        time=f"{seconds:.3f}",
        timestamp=run.started.isoformat(timespec="seconds"),
    )
    properties = ET.SubElement(suite, "properties")
    for key, value in (
        ("subject", run.subject.name),
        ("kind", run.subject.kind),
        ("command", run.subject.command),
        ("patience", f"{run.patience:g}"),
        ("strict", str(run.strict).lower()),
    ):
        ET.SubElement(properties, "property", name=key, value=text.visible(value))
    suite.extend(testcases)
    return suite


def _testcase(case: Case, transcript: ShownTranscript) -> ET.Element:
    element = ET.Element(
        "testcase",
        classname=text.visible(f"{case.profile}.{case.requirements[0]}"),
        name=text.visible(case.id),
        time=f"{case.seconds:.3f}",
    )
    match case.outcome:
        case Outcome.PASS:
            pass
        case Outcome.FAIL | Outcome.UNEXPECTED_PASS if case.against:
            _child(element, "failure", case.keyword, _message(case), _body(case, transcript))
        case Outcome.ERROR:
            _child(element, "error", "suite", _message(case), _body(case, transcript))
        case Outcome.FAIL | Outcome.UNEXPECTED_PASS:
            _child(element, "skipped", case.outcome, f"does not count: {_message(case)}")
        case _:
            _child(element, "skipped", case.outcome, f"{case.outcome}: {_message(case)}")
    return element


def _child(parent: ET.Element, tag: str, kind: str, message: str, body: str | None = None) -> None:
    child = ET.SubElement(parent, tag, type=kind, message=text.visible(message))
    child.text = text.visible(body) if body else None


def _message(case: Case) -> str:
    if case.outcome is Outcome.UNEXPECTED_PASS:
        return text.shorten(f"passes, and is listed as known failing: {case.reason}", MESSAGE)
    return text.shorten(case.reason, MESSAGE)


def _body(case: Case, transcript: ShownTranscript) -> str:
    lines = [
        case.title,
        "",
        f"{case.requirements[0]}: {case.sentence}",
        "",
        text.shorten(case.reason, REASON),
        "",
        f"If this fails, look at {case.look_at}",
        f"Source: {case.source}",
        "",
        *_conversation(transcript),
    ]
    return "\n".join(lines)


def _conversation(transcript: ShownTranscript) -> Iterator[str]:
    for shown in transcript.head:
        yield from _event(shown)
    if transcript.left_out:
        yield f"… {transcript.left_out} events are left out …"
    for shown in transcript.tail:
        yield from _event(shown)


def _event(shown: ShownEvent) -> Iterator[str]:
    event = shown.event
    yield f"{text.duration(event.at)}  {event.who}  {event.event}: {event.what} ({text.size(event.size)})"
    for line in shown.decoded.splitlines():
        yield f"    {line}"
    for row in shown.rows:
        yield f"    {row.offset}  {row.hex:<23}  {row.ascii}"
    if shown.bytes_left_out:
        yield f"    … {text.size(shown.bytes_left_out)} more"
