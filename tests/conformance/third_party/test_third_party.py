"""The suite against servers that are not ours: what they fail is known, and nothing else.

Tests the servers that are installed in this environment, and needs one at least.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyserve_conformance.launch import reserved_ports
from support.suite import conforms

HERE = Path(__file__).parent
GRPCIO_FAILS = HERE.parent / "control_known_failing.txt"  # both servers are on grpcio
PACKAGES = ("mlserver", "kserve")
START, RUN, STOP = 60.0, 300.0, 30.0  # seconds


def installed() -> list[str]:
    return [package for package in PACKAGES if importlib.util.find_spec(package)]


def test_some_server_is_installed() -> None:
    assert installed(), f"none of {' and '.join(PACKAGES)} is installed here"


@pytest.fixture(params=installed())
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Path, int]]:
    """The directory of a server that runs, and its port."""
    directory = HERE / f"{request.param}_identity"
    with reserved_ports(1) as (port,):
        command = [sys.executable, str(directory / "serve.py"), "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        killer = threading.Timer(START, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            killer.cancel()
            assert line == f"serving on 127.0.0.1:{port}\n", f"{directory.name} says {line!r}"
            yield directory, port
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP) == 0
        finally:
            killer.cancel()
            process.kill()
            process.communicate()


@pytest.mark.timeout(START + RUN + STOP)
def test_fails_what_is_known_and_nothing_else(server: tuple[Path, int], tmp_path: Path) -> None:
    directory, port = server
    conforms(
        directory.name,
        *("--profile", "kserve-core", "--target", f"127.0.0.1:{port}", f"@{HERE / 'models.args'}"),
        directory=tmp_path,
        known_failing=[GRPCIO_FAILS, directory / "known_failing.txt"],
    )
