"""The suite's options, outcomes and exit statuses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from support.suite import AGENT, CASES, ROOT, cases, outcomes, run

RUN_MUTANT = Path(__file__).with_name("run_mutant.py")
SERVING = str(CASES / "agent_serving")
KSERVE = str(CASES / "kserve_core")
PLAIN = "frame.request.plain"
PLAIN_CASE = "frame.request.plain/nothing-is-added-for-a-registration-without-capability"
CONTENT_TYPE = "serving.grpc.other-content-type"


def suite(
    *options: str, directory: Path, launch: str = AGENT, where: str = SERVING
) -> subprocess.CompletedProcess[str]:
    """The suite on an agent that it launches, with a report."""
    return run(where, "--launch", launch, "--report", str(directory), "-q", *options)


def test_a_subject_that_conforms(tmp_path: Path) -> None:
    done = suite("--requirement", PLAIN, directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcomes(cases(tmp_path)) == {"pass"}
    assert "conforms" in done.stdout


def test_a_subject_that_does_not(tmp_path: Path) -> None:
    launch = AGENT.replace("-m anyserve", f"{RUN_MUTANT} annotated-without-capability anyserve")
    done = suite("--requirement", PLAIN, "--subject-name", "a mutant", directory=tmp_path, launch=launch)
    assert done.returncode == 1, done.stdout + done.stderr
    (failed,) = (record for record in cases(tmp_path) if record["id"] == PLAIN_CASE)
    assert failed["outcome"] == "fail"
    assert failed["keyword"] == "MUST"
    assert {entry["event"] for entry in failed["transcript"]} >= {"sent", "received"}
    for told in ("a mutant does not conform", PLAIN_CASE, failed["sentence"], "If this fails, look at"):
        assert told in done.stdout, f"{told!r} is not told"


def test_reports(tmp_path: Path) -> None:
    done = suite("--requirement", PLAIN, "--subject-name", "some <agent>", directory=tmp_path)
    assert done.returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in (lines[0], lines[-1])] == ["run", "end"]
    assert lines[0]["subject"] == {"kind": "agent", "name": "some <agent>", "command": AGENT}
    assert lines[-1]["exit"] == 0
    assert lines[-1]["counts"] == {"pass": len(lines) - 2}
    assert PLAIN_CASE in (tmp_path / "report.html").read_text()
    assert len(list(ET.parse(tmp_path / "junit.xml").iter("testcase"))) == len(lines) - 2


@pytest.mark.parametrize(("options", "status"), [((), 0), (("--strict",), 1)], ids=["counted-not", "strict"])
def test_a_failed_should(tmp_path: Path, options: tuple[str, ...], status: int) -> None:
    """The reference agent serves wrong content types, which grpcio does not let it refuse."""
    done = suite("--requirement", CONTENT_TYPE, *options, directory=tmp_path, where=KSERVE)
    assert done.returncode == status, done.stdout + done.stderr
    failed = [record for record in cases(tmp_path) if record["outcome"] == "fail"]
    assert failed
    assert {record["keyword"] for record in failed} == {"SHOULD"}
    assert {record["counts"] for record in failed} == {bool(options)}


def test_expected_failures(tmp_path: Path) -> None:
    first = tmp_path / "first"
    suite("--requirement", CONTENT_TYPE, directory=first, where=KSERVE)
    known = tmp_path / "known.txt"
    failed = [record["id"] for record in cases(first) if record["outcome"] == "fail"]
    known.write_text("# reviewed\n" + "".join(f"{case}  grpcio serves them\n" for case in failed))
    second = tmp_path / "second"
    options = ("--requirement", CONTENT_TYPE, "--strict", "--known-failing", str(known))
    done = suite(*options, directory=second, where=KSERVE)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = [record for record in cases(second) if record["outcome"] == "expected-fail"]
    assert [record["id"] for record in expected] == failed
    assert all("grpcio serves them" in record["reason"] for record in expected)


def test_an_unexpected_pass(tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text(f"{PLAIN_CASE}  was broken once\n")
    done = suite("--requirement", PLAIN, "--known-failing", str(known), directory=tmp_path / "report")
    assert done.returncode == 1, done.stdout + done.stderr
    (record,) = (r for r in cases(tmp_path / "report") if r["id"] == PLAIN_CASE)
    assert record["outcome"] == "unexpected-pass"
    assert "was broken once" in done.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no.such/case  reason\n", "no.such/case"),
        (f"{PLAIN_CASE}\n", "no reason"),
        (f"{PLAIN_CASE} a\n{PLAIN_CASE} b\n", "twice"),
        (None, "No such file"),
    ],
    ids=["unknown-case", "no-reason", "twice", "no-file"],
)
def test_a_bad_list_of_known_failures(tmp_path: Path, text: str | None, told: str) -> None:
    known = tmp_path / "known.txt"
    if text is not None:
        known.write_text(text)
    done = suite("--requirement", PLAIN, "--known-failing", str(known), directory=tmp_path / "report")
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stdout + done.stderr


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What was said, which must be one line."""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(lines) == 1, done.stdout + done.stderr
    return lines[0]


def test_a_dead_target() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound, and not listening: nobody else gets it
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        done = run("conformance", "--target", address, "-q")
    assert done.returncode == 2
    assert address in one_line(done)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "no subject"),
        (("--target", "nowhere"), "HOST:PORT"),
        (("--target", "localhost:99999"), "HOST:PORT"),
        (("--target", "localhost:1", "--launch", AGENT), "one subject at a time"),
        (("--launch", "anyserve --port {port}"), "{management_port}"),
        (("--worker", "worker"), "{management}"),
        (("--launch", AGENT, "--profile", "everything"), "everything"),
        (("--launch", AGENT, "--patience", "0"), "--patience"),
        (("--launch", AGENT, "--model", "echo"), "--model"),
        (("--launch", AGENT, "--model", "echo=INPUT0:FP31:4"), "FP31"),
        (("--launch", AGENT, "--option", "queue-size"), "NAME=VALUE"),
    ],
)
def test_bad_flags(options: tuple[str, ...], told: str) -> None:
    done = run("conformance", "-q", *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in one_line(done)


@pytest.mark.parametrize("kind", ["--launch", "--worker"])
def test_a_subject_that_does_not_come_up(tmp_path: Path, kind: str) -> None:
    command = "false {port} {management_port}" if kind == "--launch" else "false {management}"
    where, name = (SERVING, PLAIN) if kind == "--launch" else (str(CASES / "worker"), "frame.reply.unary")
    done = run(where, kind, command, "--requirement", name, "--report", str(tmp_path), "-q")
    assert done.returncode == 1, done.stdout + done.stderr
    assert outcomes(cases(tmp_path)) == {"fail"}
    assert "false" in done.stdout


def test_the_suites_own_fault(tmp_path: Path) -> None:
    """An exception that no subject can cause is an error of the suite: exit status 2."""
    plugin = tmp_path / "breaks.py"
    plugin.write_text(
        "from anyserve_conformance.agent import Agent\n"
        "def name(self, base='model'):\n    raise KeyError('a slip in the suite')\n"
        "Agent.name = name\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", SERVING, "--launch", AGENT, "--requirement", PLAIN, "-q"),
            *("-p", "breaks", "--report", str(tmp_path / "report")),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'conformance'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert outcomes(cases(tmp_path / "report")) == {"error"}
    assert "a slip in the suite" in done.stdout


def listed(*options: str) -> list[list[str]]:
    """The catalogue as fields."""
    done = run("conformance", "--list", "-q", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 4]


def test_the_list_touches_no_target() -> None:
    entries = listed()
    assert {profile for _, _, profile, _, _ in entries} == {
        "kserve-core",
        "agent-serving",
        "agent-management",
        "agent-streaming",
        "worker",
    }
    assert any(name == PLAIN for name, *_ in entries)
    assert all(keyword in {"MUST", "SHOULD", "MAY"} for _, keyword, *_ in entries)


def test_the_list_of_one_profile() -> None:
    assert {profile for _, _, profile, _, _ in listed("--profile", "worker")} == {"worker"}


def test_the_list_of_some_requirements() -> None:
    entries = listed("--requirement", "queue.*")
    assert entries
    assert all("queue." in f"{name} {title}" for name, _, _, _, title in entries)  # a title ends with further names


def test_nothing_chosen_is_no_success() -> None:
    done = run("conformance", "--launch", AGENT, "--requirement", "no.such.requirement", "-q")
    assert done.returncode == 2, done.stdout + done.stderr


def test_own_command(tmp_path: Path) -> None:
    """`anyserve-conformance` does the same without the user's pytest configuration."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise SystemExit('the conftest of another project')\n")

    def command(*arguments: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "anyserve_conformance", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "conformance")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = command("--launch", AGENT, "--requirement", PLAIN, "--profile", "agent-serving")
    assert done.returncode == 0, done.stdout + done.stderr
    assert command("--no-such-option", "--list").returncode == 2
    assert command().returncode == 2
    helped = command("--help")
    assert helped.returncode == 0
    for flag in ("--target", "--launch", "--worker", "--known-failing", "--report", "--list", "matrix"):
        assert flag in helped.stdout
