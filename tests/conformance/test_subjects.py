"""Our own subjects pass the suite, in all profiles, SHOULDs included, but for what is listed with a reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyserve.control.agents import available_implementations
from anyserve.worker.loops import available_worker_io
from anyserve_conformance.launch import reserved_ports
from support.suite import ROOT, agent_command, conforms

HERE = Path(__file__).parent
GRPCIO = HERE / "control_known_failing.txt"
REFERENCE = HERE / "reference_known_failing.txt"
START = 30.0


PROFILES = ["kserve-core", "agent-serving", "agent-management", "agent-streaming"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("implementation", sorted(available_implementations()))
@pytest.mark.parametrize("profile", PROFILES)
def test_agent(profile: str, implementation: str, tmp_path: Path) -> None:
    known = [GRPCIO, REFERENCE] if (profile, implementation) == ("kserve-core", "reference") else []
    conforms(
        f"{implementation}-{profile}",
        *("--launch", agent_command(implementation), "--profile", profile),
        directory=tmp_path,
        known_failing=known,
    )


@pytest.mark.timeout(600)
@pytest.mark.skipif("native" not in available_implementations(), reason="the native agent is not in this installation")
@pytest.mark.parametrize("profile", PROFILES)
def test_native_agent_with_several_threads(profile: str, tmp_path: Path) -> None:
    launch = f"{agent_command('native')} --io-threads 3"
    conforms(f"native-3-threads-{profile}", "--launch", launch, "--profile", profile, directory=tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("loop", available_worker_io())
def test_python_worker(loop: str, tmp_path: Path) -> None:
    worker = f"{sys.executable} -m anyserve.worker worker_app:app --app-dir {HERE} --worker-io {loop}"
    conforms(
        f"python-worker-{loop}",
        *("--worker", f"{worker} --management {{management}} --socket-dir {{socket_dir}}"),
        directory=tmp_path,
    )


@pytest.fixture
def control_server() -> Iterator[str]:
    """The address of a plain grpcio server."""
    with reserved_ports(1) as (port,):
        command = [sys.executable, str(HERE / "control_server.py"), "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("serving on "), "the control server does not serve"
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(START)


@pytest.mark.timeout(600)
def test_control_server(control_server: str, tmp_path: Path) -> None:
    """A case that fails here is wrong, or the list says why grpcio fails it."""
    conforms(
        "grpcio",
        *("--target", control_server, "--profile", "kserve-core", "--model", "identity=INPUT0:FP32:4"),
        directory=tmp_path,
        known_failing=[GRPCIO],
    )
