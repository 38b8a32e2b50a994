"""`make bench-peers` itself: whole trees of processes are measured and ended, and what fails is told, not left out."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.measuring import Measured
from benchmarks.peers import environments, rounds
from benchmarks.peers.catalogue import PEERS, Command, Peer, Start, chosen
from benchmarks.peers.environments import NotInstalled, environment
from benchmarks.peers.questions import http_octets, tensor
from benchmarks.peers.results import Bound, report_cases, report_servers
from benchmarks.peers.rounds import Case, Found, measure_in_turns
from benchmarks.peers.trees import Resident, Tree, members
from benchmarks.report import Report
from support.processes import Running, eventually

SERVER = textwrap.dedent("""
    import http.server, os, subprocess, sys

    port, answer = int(sys.argv[1]), sys.argv[2]
    if answer == "end":
        sys.exit("no licence")
    subprocess.Popen(["sleep", "600"], env={})  # has no mark, and outlives its parent

    class Echo(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        answered = 0

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if answer == "wrong" or answer == "later wrong" and Echo.answered >= 2:
                body = body[:10]
            Echo.answered += 1
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Echo).serve_forever()
""")
CASE = Case("echo", tensor(64), 1)


def fake(answer: str) -> Peer:
    """A server that answers right (`right`), wrong (`wrong`, `later wrong`), or ends at once (`end`)."""

    def command(start: Start) -> Command:
        return Command([sys.executable, "-c", SERVER, str(start.port), answer])

    return Peer(answer, answer, "anyserve", http_octets("/"), command, "")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("not installed here: nghttp2-client")
    monkeypatch.setattr(rounds, "SECONDS", 0.02)


def measured(peer: Peer, *, times: int = 1) -> Found:
    return measure_in_turns({peer: Path(sys.prefix)}, [CASE], lambda _: None, rounds=times)[peer]


@pytest.mark.usefixtures("quick")
def test_every_round_has_its_figures_and_a_cold_start() -> None:
    found = measured(fake("right"), times=2)
    assert not found.failures
    assert [len(values) for values in (found.cases["echo"].rate, found.cases["echo"].cpu, found.cold_starts)] == [2] * 3
    assert all(value > 0 for value in (*found.cases["echo"].rate, *found.cases["echo"].cpu, *found.cold_starts))
    assert found.resident is not None
    assert found.resident.processes == 2
    assert found.resident.rss >= found.resident.pss > 0


@pytest.mark.usefixtures("quick")
def test_nothing_that_a_server_started_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    trees: list[set[int]] = []
    monkeypatch.setattr(rounds, "members", lambda *who: trees.append(members(*who)) or trees[-1])
    measured(fake("right"))
    (pids,) = trees
    assert len(pids) == 2
    eventually(lambda: not any(alive(pid) for pid in pids), "the tree has ended")


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.usefixtures("quick")
def test_a_wrong_answer_under_load_is_told_and_has_no_figures() -> None:
    found = measured(fake("later wrong"))
    assert "not 64 each" in found.failures["echo"]
    assert not found.cases


def test_a_server_that_never_answers_right_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "START_SECONDS", 1.5)
    found = measured(fake("wrong"), times=2)
    assert "no right answer in 2 s: 10 bytes" in found.failures["start"]
    assert not found.cases
    assert not found.cold_starts


def test_a_server_that_ends_is_told_with_its_last_words() -> None:
    assert measured(fake("end")).failures == {"start": "it ended with 1: no licence"}


def test_a_tree_has_what_lost_its_parent_and_what_lost_its_environment() -> None:
    process = Running(["sh", "-c", "env -i sleep 600 & sh -c 'sleep 600 &'; echo started; wait"])
    try:
        eventually(lambda: process.printed, "it has started both")
        tree = Tree("sh", process, 0)
        assert len(members(process.pid, process.mark)) == 3
        assert tree.resident().processes == 3
    finally:
        for pid in members(process.pid, process.mark) - {process.pid}:
            os.kill(pid, signal.SIGKILL)
        process.kill_all()


def test_cpu_of_children_that_have_ended_stays_counted() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(1, flush=True)\ntime.sleep(600)"
    process = Running(["sh", "-c", f"{sys.executable} -c '{burn}'; sleep 600"])
    try:
        eventually(lambda: process.printed, "the child has worked")
        tree = Tree("sh", process, 0)
        assert tree.cpu_seconds() > 0.2
        (child,) = members(process.pid, process.mark) - {process.pid}
        os.kill(child, signal.SIGKILL)
        eventually(lambda: not alive(child), "the child has ended")
        assert tree.cpu_seconds() > 0.2
    finally:
        process.kill_all()


@pytest.mark.slow
def test_an_environment_is_made_once_and_failures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "SERVERS", tmp_path / "servers")
    monkeypatch.setattr(environments, "DIRECTORY", tmp_path / "build")
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    wanted = tmp_path / "servers" / "some" / "requirements.txt"
    wanted.parent.mkdir(parents=True)
    said: list[str] = []

    wanted.write_text("./no-such-directory\n")
    with pytest.raises(NotInstalled, match="no-such-directory"):
        environment("some", said.append)
    wanted.write_text("# nothing\n")
    place = environment("some", said.append)
    assert (place / "bin" / "python").exists()
    lines = len(said)
    assert environment("some", said.append) == place
    assert len(said) == lines, "it was made again"


def test_what_could_not_be_measured_is_listed_with_the_reason() -> None:
    report = Report("peers")
    works, fails, missing = (replace(fake("right"), name=name) for name in ("works", "fails", "missing"))
    good = Found({"echo": Measured([10.0], [1.0], [1.0], [1.0])}, [0.5], Resident(1, 2 << 20, 1 << 20))
    bad = Found({"echo": Measured([5.0], [1.0], [1.0], [1.0])}, [0.5], failures={"large": "it broke"})
    found = {works: good, fails: bad}
    report_cases(report, found, [Bound("echo", "rate", "fails", "works", 0.4), Bound("echo", "cpu", "works", "?", 1)])
    report_servers(report, "Servers:", found, {works: "some 1", fails: "some 2"}, {missing: "not installed: no wheel"})
    assert [(aim.value, aim.met) for aim in report.aims] == [(0.5, False)]
    text = report.text()
    assert "- fails: large: it broke" in text
    assert "- missing: not installed: no wheel" in text
    assert "| works | some 1 | HTTP/1.1, raw bytes | 1 | 2 (1) | 0.50 (0.50–0.50) |" in text


def test_versions_are_those_of_the_environment() -> None:
    assert environments.version(Path(sys.prefix), "grpcio") == metadata.version("grpcio")


def test_some_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_PEERS", raising=False)
    assert chosen("echo") == [peer for peer in PEERS if "echo" in peer.models]
    monkeypatch.setenv("BENCH_PEERS", "mosec,grpc_aio")
    assert {peer.home for peer in chosen("magika")} == {"native", "mosec"}
    monkeypatch.setenv("BENCH_PEERS", "mosek")
    with pytest.raises(AssertionError, match="mosek: not among"):
        chosen("echo")
