"""Whom the agent sends requests to: nobody of another user."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, goes_to
from anyserve_conformance.patience import Patience
from anyserve_conformance.requirement import requirement, skipped

LOOK_AT = "the look at SO_PEERCRED after connect(2) and before the first byte"

NOBODY = 65_534
LISTENER = """
import os, signal, socket, sys
signal.alarm(int(sys.argv[3]))
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    print(len(connection.recv(100)), flush=True)
"""
"""Prints how much came on each connection, 0 if it was closed before anything did."""


@dataclass
class Impostor:
    """A process of another user that listens where a worker says that it does."""

    path: Path
    process: subprocess.Popen[str]

    def line(self) -> str:
        """What it prints next; nothing if its time is over."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def impostor(patience: Patience) -> Iterator[Impostor]:
    """The process; needs root, as the only one who may start it."""
    if os.geteuid() != 0:
        skipped("needs root, to start a process of another user")
    with tempfile.TemporaryDirectory(prefix="any") as directory:
        os.chmod(directory, 0o777)  # the other user makes its socket there
        path = Path(directory, "socket")
        command = [sys.executable, "-c", LISTENER, str(path), str(NOBODY), str(int(patience(30)))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            impostor = Impostor(path, process)
            if impostor.line() != "listening":
                skipped(f"cannot start a process of the user id {NOBODY}")
            yield impostor
        finally:
            process.kill()
            process.communicate()


def own_user(agent: Agent) -> None:
    """Skips the case if the agent may be the other user."""
    if agent.place.program is None:
        skipped("needs to know the agent's user: use --launch")


@requirement("manage.peer.uid")
def test_gets_no_byte(agent: Agent, impostor: Impostor) -> None:
    """A socket of another user gets no byte of a request; the request is UNAVAILABLE."""
    own_user(agent)
    worker = agent.listener()
    registration = agent.management.registration(worker, agent.name("m"), worker_address=f"unix://{impostor.path}")
    answer = agent.management.call("RegisterModel", registration).message
    if not answer.success:
        return  # it may have looked at once
    agent.infer(agent.name("m")).expect(grpc.StatusCode.UNAVAILABLE)
    got = impostor.line()
    assert got == "0", f"a process of another user got {got} bytes"


@requirement("manage.peer.uid", "frame.retry.not-taken")
def test_other_match_is_asked(agent: Agent, impostor: Impostor) -> None:
    """A request whose best match is a socket of another user is served by the next one."""
    own_user(agent)
    worker = agent.listener("impostor")
    agent.management.register(worker, agent.name("m"), priority=1, worker_address=f"unix://{impostor.path}")
    agent.worker(agent.name("m"), answer=answers("it"))
    goes_to(agent, agent.name("m"), "it")
    got = impostor.line()
    assert got == "0", f"a process of another user got {got} bytes"
