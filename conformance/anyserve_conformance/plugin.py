"""The pytest plugin: options, which cases run, what a case came to."""

from __future__ import annotations

import fnmatch
import gc
import os
import shlex
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import hypothesis
import pytest
from google.protobuf.message import DecodeError

from anyserve_conformance import __version__, summary
from anyserve_conformance.launch import CannotStart
from anyserve_conformance.paths import CASES
from anyserve_conformance.patience import Patience
from anyserve_conformance.requirement import NotApplicable, Requirement, catalogue
from anyserve_conformance.results import COULD_NOT, KnownFailing, Recorder, exit_status, read_known_failing
from anyserve_conformance.subjects import PROFILES, BadOption, Settings, Subjects, parse_address, parse_model
from anyserve_conformance.transcript import Transcript

pytest_plugins = ["anyserve_conformance.fixtures"]

SETTINGS = pytest.StashKey[Settings]()
SUBJECTS = pytest.StashKey[Subjects]()
CHOSEN_PROFILES = pytest.StashKey[tuple[str, ...]]()
KNOWN = pytest.StashKey[KnownFailing]()
TRANSCRIPT = pytest.StashKey[Transcript]()
STARTED = pytest.StashKey[float]()

# What goes wrong between suite and subject is the subject's failure; everything else is the suite's own.
SUBJECT_FAILURES = (AssertionError, grpc.RpcError, DecodeError, EOFError, OSError, CannotStart)

FLAGS = (
    ("--target", "HOST:PORT", "a server or agent that is running"),
    ("--management", "HOST:PORT", "the target's management port (default: port 9000 of its host)"),
    ("--management-token", "TOKEN", "the token that the target's management port asks for"),
    ("--launch", "COMMAND", "starts an agent; {port} and {management_port} stand for its ports"),
    ("--worker", "COMMAND", "starts a worker; {management} stands for HOST:PORT, {socket_dir} for a directory"),
    ("--report", "DIR", "writes report.jsonl, junit.xml and report.html there"),
    ("--subject-name", "TEXT", "the subject's name in reports"),
)
LISTS = (
    ("--profile", "NAME", f"runs only this profile; may be repeated: {', '.join(PROFILES)}"),
    ("--requirement", "NAME", "runs only cases of this requirement, or of `frame.*`; may be repeated"),
    ("--model", "MODEL", "an identity model of the target: NAME[@VERSION]=INPUT:DATATYPE:SHAPE[,…]; may be repeated"),
    ("--known-failing", "FILE", "cases that are expected to fail: `case-id  reason` a line; may be repeated"),
    ("--option", "NAME=VALUE", "an option value that the target runs with, such as queue-size=4; may be repeated"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance of a KServe v2 server, an anyserve agent or a worker")
    for flag, metavar, text in FLAGS:
        group.addoption(flag, metavar=metavar, default=None, help=text)
    for flag, metavar, text in LISTS:
        group.addoption(flag, metavar=metavar, action="append", default=[], help=text)
    group.addoption("--list", action="store_true", dest="list_cases", help="lists the cases; touches no target")
    # --strict is pytest's own flag; here it also makes failed SHOULDs count.
    group.addoption("--patience", metavar="FACTOR", type=float, default=1.0, help="stretches all waits (default 1)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requirement(*names, look_at, needs): what a case checks")
    if config.option.tbstyle == "auto":
        config.option.tbstyle = "no"  # the summary tells what failed in the protocol's words
    profile: dict[str, Any] = {
        "database": None,
        "deadline": None,
        "suppress_health_check": list(hypothesis.HealthCheck),
        "report_multiple_bugs": False,
    }
    # Not shrunk: where a failure is a wait in vain, each step would be another.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("conformance", max_examples=25, derandomize=True, phases=phases, **profile)
    hypothesis.settings.register_profile("long", max_examples=2_000, **profile)
    if not config.getoption("--hypothesis-profile", None):
        hypothesis.settings.load_profile("conformance")
    try:
        settings = _settings(config)
        config.stash[KNOWN] = read_known_failing(*map(Path, config.getoption("--known-failing")))
    except (BadOption, ValueError, OSError) as error:
        pytest.exit(str(error), returncode=COULD_NOT)
    config.stash[SETTINGS] = settings
    config.stash[CHOSEN_PROFILES] = _profiles(config, settings)
    subjects = config.stash[SUBJECTS] = Subjects(settings, Patience(settings.patience))
    if not config.getoption("list_cases") and not config.option.collectonly and _is_controller(config):
        try:
            subjects.check()
        except BadOption as error:
            pytest.exit(str(error), returncode=COULD_NOT)


def _settings(config: pytest.Config) -> Settings:
    get = config.getoption
    subjects = [flag for flag in ("--target", "--launch", "--worker") if get(flag)]
    if len(subjects) > 1:
        raise BadOption(f"{' and '.join(subjects)} are given: test one subject at a time")
    if not subjects and not get("list_cases") and not config.option.collectonly:
        raise BadOption("no subject: say --target HOST:PORT, --launch COMMAND or --worker COMMAND (or --list)")
    if not get("--patience") > 0:
        raise BadOption(f"--patience {get('--patience')} is not above 0")
    if unknown := set(get("--profile")) - {*PROFILES}:
        raise BadOption(f"--profile {sorted(unknown)[0]}: there are {', '.join(PROFILES)}")
    options = {}
    for text in get("--option"):
        name, equals, value = text.partition("=")
        if not equals:
            raise BadOption(f"--option {text!r} is not NAME=VALUE")
        options[name.removeprefix("--")] = value
    for flag, placeholders in (("--launch", ("{port}", "{management_port}")), ("--worker", ("{management}",))):
        for placeholder in placeholders:
            if get(flag) and placeholder not in get(flag):
                raise BadOption(f"{flag} {get(flag)!r} does not say {placeholder}")
    target = parse_address(get("--target")) if get("--target") else None
    management = parse_address(get("--management")) if get("--management") else None
    if target and management is None and (not get("--profile") or {*get("--profile")} - {"kserve-core"}):
        management = f"{target.rpartition(':')[0]}:9000"
    if target and management is None and not get("--model"):
        raise BadOption(
            "kserve-core needs to know a model: --model NAME=INPUT:DATATYPE:SHAPE, or --management HOST:PORT"
        )
    models = tuple(parse_model(text) for text in get("--model"))
    return Settings(
        target,
        management,
        get("--management-token"),
        get("--launch"),
        get("--worker"),
        models,
        options,
        get("--patience"),
    )


def _profiles(config: pytest.Config, settings: Settings) -> tuple[str, ...]:
    if chosen := config.getoption("--profile"):
        return tuple(chosen)
    if config.getoption("list_cases") or (settings.kind == "server" and settings.target is None):
        return PROFILES
    return ("worker",) if settings.kind == "worker" else tuple(p for p in PROFILES if p != "worker")


# Which cases run


class Case:
    """What the marks and the place of a test say."""

    def __init__(self, item: pytest.Item) -> None:
        mark = item.get_closest_marker("requirement")
        if mark is None or not mark.args:
            raise BadOption(f"{item.nodeid} names no requirement")
        if unknown := [name for name in mark.args if name not in catalogue()]:
            raise BadOption(f"{item.nodeid} names a requirement that does not exist: {unknown[0]}")
        doc = (getattr(item.obj, "__doc__", None) or "").strip()  # type: ignore[attr-defined]
        module = item.module  # type: ignore[attr-defined]
        self.requirements: tuple[Requirement, ...] = tuple(catalogue()[name] for name in mark.args)
        self.title = doc.splitlines()[0] if doc else ""
        self.look_at = str(mark.kwargs.get("look_at") or getattr(module, "LOOK_AT", ""))
        self.needs: dict[str, Any] = mark.kwargs.get("needs", {})
        if not self.title or not self.look_at:
            raise BadOption(f"{item.nodeid} has no docstring, or nothing to look at")
        self.profile = item.path.parent.name.replace("_", "-")
        name = item.name.removeprefix("test_").replace("_", "-")
        self.id = f"{mark.args[0]}/{name}".replace(" ", "-")
        _, line, _ = item.location
        self.source = f"{item.path.relative_to(CASES.parent)}:{(line or 0) + 1}"

    @property
    def main(self) -> Requirement:
        """The requirement that it is listed under."""
        return self.requirements[0]


CASE = pytest.StashKey[Case]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    foreign = [item for item in items if not item.path.is_relative_to(CASES)]
    mine = [item for item in items if item.path.is_relative_to(CASES)]
    wanted: list[pytest.Item] = []
    ids: dict[str, str] = {}
    try:
        for item in mine:
            case = item.stash[CASE] = Case(item)
            if case.id in ids:
                raise BadOption(f"two cases are named {case.id}: {ids[case.id]} and {item.nodeid}")
            ids[case.id] = item.nodeid
            if _is_wanted(case, config):
                wanted.append(item)
        _check_known_failing(config.stash[KNOWN], set(ids))
    except BadOption as error:
        pytest.exit(str(error), returncode=COULD_NOT)
    config.hook.pytest_deselected(items=[item for item in mine if item not in wanted])
    order = list(catalogue())
    if config.getoption("list_cases"):
        wanted.sort(key=lambda item: order.index(item.stash[CASE].main.name))
    items[:] = foreign + wanted


def _is_wanted(case: Case, config: pytest.Config) -> bool:
    names = config.getoption("--requirement")
    if names and not any(fnmatch.fnmatchcase(r.name, name) for r in case.requirements for name in names):
        return False
    return case.profile in config.stash[CHOSEN_PROFILES]


def _check_known_failing(known: KnownFailing, ids: set[str]) -> None:
    for case, entry in known.items():
        if case not in ids:
            raise BadOption(f"{entry.where}: there is no case {case}")


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("list_cases"):
        summary.print_catalogue([item.stash[CASE] for item in session.items if CASE in item.stash])


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    return True if session.config.getoption("list_cases") else None


# The run


def _is_controller(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    config.stash[STARTED] = time.monotonic()
    if config.getoption("list_cases") or config.option.collectonly or not _is_controller(config):
        return
    settings = config.stash[SETTINGS]
    directory = config.getoption("--report")
    recorder = Recorder(Path(directory) if directory else None, _run_header(config, settings))
    config.pluginmanager.register(Reporter(config, recorder), "conformance-reporter")


def _run_header(config: pytest.Config, settings: Settings) -> dict[str, Any]:
    profiles = config.stash[CHOSEN_PROFILES]
    what = settings.worker or settings.launch or settings.target or ""
    name: str = config.getoption("--subject-name") or os.path.basename((shlex.split(what) or [what])[0])
    return {
        "suite": __version__,
        "subject": {"kind": settings.kind, "name": name, "command": what},
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "profiles": list(profiles),
        "patience": settings.patience,
        "strict": bool(config.option.strict),
        "options": dict(settings.options or {}),
    }


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[TRANSCRIPT] = Transcript()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    case = item.stash.get(CASE, None)
    if case is None or (report.passed and report.when != "call"):
        return report
    record = _record(case, item, call)
    _judge(record, case, item.config)
    if record["outcome"] in {"expected-fail", "fail"} and not record["counts"]:
        report.outcome = "skipped"
        report.wasxfail = record["reason"]
    elif record["outcome"] == "unexpected-pass":
        report.outcome = "failed"
        report.longrepr = record["reason"]
    if record["outcome"] == "error":
        record["reason"] += f"\n\n{call.excinfo.getrepr(style='long')}" if call.excinfo else ""
    report.conformance = record  # type: ignore[attr-defined]
    return report


def _record(case: Case, item: pytest.Item, call: pytest.CallInfo[None]) -> dict[str, Any]:
    outcome, reason = _outcome(call)
    transcript = item.stash.get(TRANSCRIPT, None)
    return {
        "id": case.id,
        "requirements": [r.name for r in case.requirements],
        "keyword": case.main.keyword,
        "area": case.main.area,
        "profile": case.profile,
        "title": case.title,
        "sentence": case.main.sentence,
        "page": case.main.page,
        "outcome": outcome,
        "counts": True,
        "reason": reason,
        "look_at": case.look_at,
        "seconds": round(call.duration, 4),
        "source": case.source,
        "transcript": transcript.entries() if transcript is not None and outcome in {"fail", "error"} else [],
    }


def _outcome(call: pytest.CallInfo[None]) -> tuple[str, str]:
    if call.excinfo is None:
        return "pass", ""
    error = call.excinfo.value
    if isinstance(error, NotApplicable):
        return "not-applicable", str(error.msg)
    if isinstance(error, pytest.skip.Exception):
        return "skipped", str(error.msg)
    if call.when != "teardown" and isinstance(error, SUBJECT_FAILURES):
        return "fail", _reason(error)
    return "error", f"{type(error).__name__}: {error}"


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, grpc.RpcError) and hasattr(error, "code"):
        text = f"the call ended with {error.code().name}: {error.details()}"
    elif not isinstance(error, AssertionError | CannotStart):
        text = f"{type(error).__name__}: {text}"
    text = text.partition("\nassert ")[0]  # what pytest adds for those who read Python
    notes = "\n".join(getattr(error, "__notes__", ()))
    return f"{text}\n{notes}".strip()


def _judge(record: dict[str, Any], case: Case, config: pytest.Config) -> None:
    """Applies --known-failing and --strict."""
    known = config.stash[KNOWN].get(case.id)
    if known is not None and record["outcome"] == "fail":
        record.update(outcome="expected-fail", counts=False, reason=f"{known.reason} | {record['reason']}")
    elif known is not None and record["outcome"] == "pass" and not known.sometimes:
        reason = f"it passes, and is listed as failing because: {known.reason}"
        record.update(outcome="unexpected-pass", reason=reason)
    elif record["outcome"] == "fail" and case.main.keyword != "MUST":
        record["counts"] = bool(config.option.strict)


class Reporter:
    """Takes the records on the controlling process, writes the reports, and decides the exit status."""

    def __init__(self, config: pytest.Config, recorder: Recorder) -> None:
        self._config = config
        self._recorder = recorder
        self._status = COULD_NOT

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = getattr(report, "conformance", None)
        if record is not None:
            self._recorder.add(record)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        interrupted = exitstatus in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR}
        self._status = COULD_NOT if interrupted else exit_status(self._recorder.cases)
        session.exitstatus = self._status
        self._recorder.end(time.monotonic() - self._config.stash[STARTED], self._status)
        if self._recorder.directory is not None:
            summary.write_pages(self._recorder.directory)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        summary.print_summary(terminalreporter, self._recorder, self._status)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (subjects := config.stash.get(SUBJECTS, None)) is not None:
        subjects.close()
    gc.collect()  # grpcio's calls, now: one that is collected when the interpreter ends can wait for ever
