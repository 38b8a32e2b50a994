"""Real instances for clients that others wrote: `python -m anyserve` on free ports, one per test module.

A module names its app in `APP`, as the command line takes it; None is a bare agent.
The clients run here or in processes of their own, without anything of anyserve.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.processes import Running, short_directory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEFAULT_APP = "catalog:app"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


class Instance(Running):
    """One running anyserve. Its log lines are shown with a failed test."""

    def __init__(self, app: str | None, socket_dir: str) -> None:
        command = [sys.executable, "-m", "anyserve", *([app] if app else [])]
        options = {"host": "127.0.0.1", "port": 0, "management-port": 0, "grace": 5, "log-format": "json"}
        options |= {"app-dir": HERE / "apps", "socket-dir": socket_dir}
        super().__init__([*command, *(f"--{name}={value}" for name, value in options.items())])

    @property
    def address(self) -> str:
        """HOST:PORT for clients."""
        return str(self.wait_log("serving")["address"])

    @property
    def management(self) -> str:
        """HOST:PORT for workers."""
        return str(self.wait_log("serving")["management"])

    def stop(self) -> None:
        """Stops it as a service manager does; fails the test if that did not go well."""
        self.signal(signal.SIGTERM)
        assert self.wait(STOP_SECONDS) == 0, self.stderr
        assert not self.leftovers(5.0), "processes are left"


@contextmanager
def ready(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """Starts an instance with the module's app."""
    with short_directory() as socket_dir:
        instance = Instance(getattr(request.module, "APP", DEFAULT_APP), socket_dir)
        try:
            instance.wait_log("ready", timeout=READY_SECONDS)
            yield instance
        finally:
            instance.kill_all()


@pytest.fixture(scope="module")
def instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """The module's instance."""
    with ready(request) as running:
        yield running
        running.stop()


@pytest.fixture
def own_instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An instance of the test's own, which it may stop."""
    with ready(request) as running:
        yield running


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
