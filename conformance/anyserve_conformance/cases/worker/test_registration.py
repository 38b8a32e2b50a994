"""How a worker comes to an agent and stays."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from grpc import StatusCode

from anyserve_conformance import proto
from anyserve_conformance.requirement import requirement, skipped
from anyserve_conformance.scripted_agent import ScriptedAgent, WorkerUnderTest

LOOK_AT = "the worker's talk with the management port"
LaunchWorker = Callable[..., WorkerUnderTest]
HEARTBEAT_TIMEOUT = 10.0
"""Seconds: the agent's default, which a worker may count on."""


def names(agent: ScriptedAgent) -> list[str]:
    """The names of the calls so far."""
    return [call.name for call in list(agent.calls)]


@requirement("lifecycle.worker.listen", "frame.connections.listen")
def test_listens_before_it_registers(launch_worker: LaunchWorker, patience: Any) -> None:
    """When the first registration comes, the worker's socket takes connections already."""
    agent = ScriptedAgent(patience)
    seen: list[str] = []

    def connect(request: Any) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(request.worker_address.removeprefix("unix://"))
                seen.append("")
            except OSError as error:
                seen.append(str(error))
        return proto.RegisterModelResponse(success=True)

    agent.answers["RegisterModel"] = connect
    launch_worker(agent=agent)
    assert seen, "nothing was registered"
    assert not any(seen), f"the socket did not take a connection when RegisterModel came: {next(s for s in seen if s)}"


@requirement("frame.connections.listen")
def test_what_it_registers(worker: WorkerUnderTest) -> None:
    """Registrations name an id, a unix:// address of at most 107 bytes, and a model or capability."""
    registrations = worker.registrations()
    assert registrations
    assert len({(r.worker_id, r.worker_address) for r in registrations}) == 1, "several ids or addresses"
    for registration in registrations:
        assert registration.worker_id, "worker_id is empty"
        assert registration.worker_address.startswith("unix:///")
        assert len(registration.worker_address.encode()) <= len("unix://") + 107, "the socket's path is too long"
        assert registration.model_name or registration.capability, "neither a model name nor a capability"


@requirement("lifecycle.worker.register")
def test_everything_before_the_first_heartbeat(worker: WorkerUnderTest) -> None:
    """All registrations come before the first heartbeat, and none after it."""
    calls = names(worker.agent)
    first = calls.index("Heartbeat")
    assert calls[:first].count("RegisterModel") == len(worker.registrations())
    worker.agent.wait_for("Heartbeat", 2)
    assert "RegisterModel" not in names(worker.agent)[first:], "it registered after its first heartbeat"


@requirement("lifecycle.worker.heartbeat")
def test_heartbeats_often_enough(worker: WorkerUnderTest) -> None:
    """Heartbeats come at least three times within the agent's timeout, with the worker's id."""
    seen = len(worker.agent.named("Heartbeat"))
    first = worker.agent.wait_for("Heartbeat", seen + 1)
    third = worker.agent.wait_for("Heartbeat", seen + 3, within=HEARTBEAT_TIMEOUT)
    assert third.at - first.at < HEARTBEAT_TIMEOUT * 2 / 3 * worker.patience.factor
    assert first.request.worker_id == worker.registrations()[0].worker_id, "the heartbeat has another worker_id"


@requirement("lifecycle.worker.again")
def test_registers_again_when_it_is_unknown(launch_worker: LaunchWorker, patience: Any) -> None:
    """After a heartbeat that is answered with `healthy = false`, everything is registered again."""
    worker = launch_worker()
    first = len(worker.registrations())
    worker.agent.answers["Heartbeat"] = lambda _: proto.HeartbeatResponse(healthy=False)
    worker.agent.wait_for("RegisterModel", first + 1)
    worker.agent.answers["Heartbeat"] = lambda _: proto.HeartbeatResponse(healthy=True)
    worker.agent.wait_for("RegisterModel", 2 * first)
    assert len(worker.registrations()) == first, "it registered something else the second time"
    worker.serves()


@requirement("lifecycle.worker.again")
def test_an_agent_that_restarts(launch_worker: LaunchWorker) -> None:
    """When the agent is gone for a moment and then knows nothing, the worker registers again at the same place."""
    worker = launch_worker()
    first = len(worker.registrations())
    worker.agent.stop()
    known: set[str] = set()

    def register(request: Any) -> Any:
        known.add(request.worker_id)
        return proto.RegisterModelResponse(success=True)

    worker.agent.answers["RegisterModel"] = register
    worker.agent.answers["Heartbeat"] = lambda request: proto.HeartbeatResponse(healthy=request.worker_id in known)
    worker.agent.start()
    worker.agent.wait_for("RegisterModel", 2 * first)
    worker.serves()


@requirement("lifecycle.worker.retry")
def test_starts_before_the_agent(launch_worker: LaunchWorker, patience: Any) -> None:
    """A worker that finds no agent goes on trying until there is one."""
    agent = ScriptedAgent(patience)
    agent.start()
    agent.stop()
    worker = launch_worker(agent=agent, registered=False)
    time.sleep(1.0)  # the time without an agent is what is tested
    assert worker.program.running, f"the worker gave up: {worker.program.output()}"
    agent.start()
    agent.wait_for("RegisterModel", within=6)


@requirement("lifecycle.worker.refused", "manage.register.refused")
@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"])
def test_ends_when_it_is_refused(launch_worker: LaunchWorker, patience: Any, code: str) -> None:
    """A worker that is refused for good ends with an exit status other than 0."""
    agent = ScriptedAgent(patience)
    agent.refuse["RegisterModel"] = (StatusCode[code], "not you")
    worker = launch_worker(agent=agent, registered=False)
    assert worker.program.wait() != 0, "the exit status is 0"


@requirement("manage.register.refused")
@pytest.mark.parametrize("how", ["status", "success"])
def test_no_heartbeats_of_a_worker_that_is_not_registered(launch_worker: LaunchWorker, patience: Any, how: str) -> None:
    """Neither an error status nor `success = false` counts as registered: no heartbeat follows."""
    agent = ScriptedAgent(patience)
    if how == "status":
        agent.refuse["RegisterModel"] = (StatusCode.INVALID_ARGUMENT, "not you")
    else:
        agent.answers["RegisterModel"] = lambda _: proto.RegisterModelResponse(success=False, message="not you")
    worker = launch_worker(agent=agent, registered=False)
    agent.wait_for("RegisterModel", alive=lambda: worker.program.running or bool(agent.calls))
    patience.while_nothing(lambda: "Heartbeat" in names(agent), "a heartbeat came without a registration", for_=0.5)


@requirement("lifecycle.worker.orphan")
def test_ends_without_an_agent(launch_worker: LaunchWorker) -> None:
    """A worker ends by itself when no agent has answered for its orphan timeout."""
    worker = launch_worker({"orphan-timeout": 1})
    worker.agent.stop()
    worker.program.wait(within=30)
    assert not os.path.exists(worker.path), "the socket's file is left"


@requirement("lifecycle.worker.socket")
def test_only_its_own_user(worker: WorkerUnderTest) -> None:
    """Other users cannot connect: the socket or its directory has no permissions for them."""
    mode = os.stat(worker.path).st_mode
    directory = os.stat(os.path.dirname(worker.path)).st_mode
    others = stat.S_IRWXG | stat.S_IRWXO
    assert not mode & (stat.S_IWGRP | stat.S_IWOTH) or not directory & others, "any user can connect to the socket"


@requirement("lifecycle.worker.socket")
def test_a_peer_of_another_user(worker: WorkerUnderTest) -> None:
    """A connection from another user than its own and root is closed without an answer."""
    if os.geteuid() != 0:
        skipped("needs root, to become another user")
    os.chmod(os.path.dirname(worker.path), 0o711)  # the check of the peer is what is left
    mode = stat.S_IMODE(os.stat(worker.path).st_mode)
    os.chmod(worker.path, 0o666)
    script = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])\n"
        "s.sendall(bytes.fromhex(sys.argv[2]))\n"
        "try: print(len(s.recv(4)))\n"
        "except OSError: print(0)"
    )
    try:
        request = worker.request("echo", raw=b"x")
        data = len(request.SerializeToString()).to_bytes(4, "big") + request.SerializeToString()
        done = subprocess.run(
            [sys.executable, "-c", script, worker.path, data.hex()],
            capture_output=True,
            text=True,
            check=False,
            timeout=worker.patience(30),
        )
    finally:
        os.chmod(worker.path, mode)
        os.chmod(os.path.dirname(worker.path), 0o700)
    assert done.stdout.strip() == "0" or "BrokenPipe" in done.stderr or "Reset" in done.stderr, (
        f"a peer of another user was answered: {done.stdout} {done.stderr}"
    )


@requirement("lifecycle.worker.relisten")
def test_a_socket_that_was_removed(launch_worker: LaunchWorker) -> None:
    """A worker whose socket's file has been removed listens anew at the same address."""
    worker = launch_worker()
    os.unlink(worker.path)
    worker.patience.until(lambda: os.path.exists(worker.path), "the socket's file to be there again")
    worker.serves()
