"""Rounds in which all servers take turns, each started anew.

One runs at a time: what the others do while they are idle does not count.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.measuring import ROUNDS, SECONDS, Measured, Trial, measure_once, requests_for, rotated
from benchmarks.peers.catalogue import Peer, Start
from benchmarks.peers.questions import Ask, Question, WrongAnswer
from benchmarks.peers.trees import Resident, Tree, members
from benchmarks.subjects import free_port
from support.processes import Running, short_directory

__all__ = ["Case", "Found", "measure_in_turns"]

START_SECONDS = 90.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.005


class NotStarted(Exception):
    """A server ended, or gave no right answer in time."""


@dataclass(frozen=True, slots=True)
class Case:
    """One load of all servers.

    Args:
        name: in the table.
        question: what is asked.
        at_once: requests at a time: streams of one connection, or connections of HTTP/1.1.
    """

    name: str
    question: Question
    at_once: int


@dataclass(slots=True)
class Found:
    """What was found of one server."""

    cases: dict[str, Measured] = field(default_factory=dict)
    cold_starts: list[float] = field(default_factory=list)
    """Seconds from exec to the first right answer, one a round."""
    resident: Resident | None = None
    """After all cases of the last round."""
    failures: dict[str, str] = field(default_factory=dict)
    """What could not be measured: the case, or `start`, and why."""

    def fail(self, what: str, why: object) -> None:
        """Figures of rounds before a failure are dropped."""
        self.failures.setdefault(what, str(why))
        self.cases.pop(what, None)


def measure_in_turns(
    peers: Mapping[Peer, Path], cases: Sequence[Case], say: Callable[[str], None], *, rounds: int = ROUNDS
) -> dict[Peer, Found]:
    """Measures all servers with all cases, which ask the same model.

    Args:
        peers: with the environment of each.
        cases: see `Case`. The first one's question is also what a cold start answers.
        say: takes a line that tells how far it is.
        rounds: how many.
    """
    found = {peer: Found() for peer in peers}
    for number in range(rounds):
        for peer in _in_order(list(peers), number):
            if "start" in found[peer].failures:
                continue
            say(f"round {number + 1} of {rounds}: {peer.name}")
            try:
                _one_round(peer, peers[peer], cases, found[peer])
            except NotStarted as error:
                found[peer].cases.clear()
                found[peer].fail("start", error)
    return found


def _in_order(peers: list[Peer], number: int) -> list[Peer]:
    by_name = {peer.name: peer for peer in peers}
    return [by_name[name] for name in rotated(list(by_name), number)]


def _one_round(peer: Peer, environment: Path, cases: Sequence[Case], found: Found) -> None:
    with short_directory() as home, short_directory() as bodies:
        asks = [peer.form.build(case.question, Path(bodies)) for case in cases]
        start = Start(environment, free_port(), cases[0].question.model, Path(home))
        with _started(peer, start, asks[0], found) as tree:
            for case, ask in zip(cases, asks, strict=True):
                if case.name in found.failures:
                    continue
                try:
                    _measure(peer, tree, case, ask, found)
                except (
                    WrongAnswer,
                    AssertionError,
                    OSError,
                    http.client.HTTPException,
                    subprocess.SubprocessError,
                ) as e:
                    found.fail(case.name, f"{type(e).__name__}: {e}")
            found.resident = tree.resident()


def _measure(peer: Peer, tree: Tree, case: Case, ask: Ask, found: Found) -> None:
    data_bytes = ask.once(tree.port)
    many = {"connections": case.at_once} if peer.form.http1 else {"streams": case.at_once}
    trial = Trial(tree, replace(ask.load, **many), data_bytes)
    measure_once(trial, requests_for(trial, SECONDS), found.cases.setdefault(case.name, Measured()))


@contextmanager
def _started(peer: Peer, start: Start, ask: Ask, found: Found) -> Iterator[Tree]:
    command = peer.command(start)
    began = time.monotonic()
    env = {"HOME": str(start.directory), **command.env}  # some leave files there
    process = Running(command.arguments, cwd=start.directory, env=env)
    try:
        _first_answer(process, start.port, ask, began + START_SECONDS)
        found.cold_starts.append(time.monotonic() - began)
        yield Tree(peer.name, process, start.port)
    finally:
        _end(process)


def _first_answer(process: Running, port: int, ask: Ask, deadline: float) -> None:
    said: object = "it does not listen"
    while time.monotonic() < deadline:
        if not process.running:
            raise NotStarted(f"it ended with {process.status}: {_last_words(process)}")
        with socket.socket() as sock:
            listens = sock.connect_ex(("127.0.0.1", port)) == 0
        if listens:
            try:
                ask.once(port)
            except (WrongAnswer, OSError, http.client.HTTPException) as error:
                said = error
            else:
                return
        time.sleep(POLL_SECONDS)
    raise NotStarted(f"no right answer in {START_SECONDS:.0f} s: {said}; {_last_words(process)}")


def _last_words(process: Running) -> str:
    lines = [line.strip() for line in (*process.printed, *process.lines) if any(map(str.isalpha, line))]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[-1]


def _end(process: Running) -> None:
    """By SIGTERM, as its users end it; what is left of all that it started is killed.

    By file descriptors: a number of a process that has ended may soon be another's.
    """
    descriptors = []
    for pid in members(process.pid, process.mark):
        with contextlib.suppress(ProcessLookupError):
            descriptors.append(os.pidfd_open(pid))
    try:
        if process.running:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while process.running and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        for descriptor in descriptors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        process.kill_all()
