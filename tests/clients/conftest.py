"""Real instances for clients that others wrote: `python -m anyserve` on free ports, one per test module.

A module names its app in `APP`, as the command line takes it; None is a bare agent.
The clients run here or in processes of their own; nothing of anyserve is replaced.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEFAULT_APP = "catalog:app"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


class Instance:
    """One running anyserve, ready. Its log lines are kept, for the message of a failure."""

    def __init__(self, app: str | None) -> None:
        # Of its own, and short: a Unix socket's path has at most 107 bytes.
        self._socket_dir = tempfile.mkdtemp(prefix="as-", dir="/tmp")
        command = [sys.executable, "-m", "anyserve", *([app] if app else [])]
        options = {"host": "127.0.0.1", "port": 0, "management-port": 0, "grace": 5, "log-format": "json"}
        options |= {"app-dir": HERE / "apps", "socket-dir": self._socket_dir}
        self._process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env={name: value for name, value in os.environ.items() if not name.startswith("ANYSERVE_")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: list[str] = []
        # Reads to the end, or a full pipe would stop the instance in the middle of a log line.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            serving = self._wait_for("serving")
            self._wait_for("ready")
        except BaseException:
            self.kill()
            raise
        self.address: str = serving["address"]
        self.management: str = serving["management"]

    def stop(self) -> None:
        """Stops it as a service manager does; fails the test if that did not go well."""
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            status = -1
        self.kill()
        assert status == 0, f"the instance did not stop cleanly ({status}):\n{self.log}"

    def kill(self) -> None:
        """Ends it with all its workers, however it is."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(STOP_SECONDS)
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it has written so far."""
        return "".join(self._seen)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in pipe:
                self._seen.append(line)
                self._lines.put(line)
        self._lines.put(None)

    def _wait_for(self, event: str) -> dict[str, Any]:
        give_up = time.monotonic() + READY_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no event {event!r} in {READY_SECONDS:.0f} s:\n{self.log}")
            if line is None:
                pytest.fail(f"the instance ended with status {self._process.wait()}:\n{self.log}")
            fields = _fields(line)
            if fields.get("event") == event:
                return fields


def _fields(line: str) -> dict[str, Any]:
    """A log line's fields; none for a line that is no JSON (a warning of a library, say)."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


@pytest.fixture(scope="module")
def instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """The module's instance."""
    running = Instance(getattr(request.module, "APP", DEFAULT_APP))
    yield running
    running.stop()


@pytest.fixture
def own_instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An instance of the test's own, which it may stop."""
    running = Instance(getattr(request.module, "APP", DEFAULT_APP))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def address(instance: Instance) -> str:
    """HOST:PORT of the module's instance."""
    return instance.address


@pytest.fixture(scope="session")
def proto_dir() -> Path:
    """The protocol's files, as anyone who generates a client would take them."""
    return ROOT / "proto"


@pytest.fixture(scope="session")
def scripts_dir() -> Path:
    """Programs that run in processes of their own, without anyserve in them."""
    return HERE / "scripts"
