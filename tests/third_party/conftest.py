"""Builds the workers of `examples/third_party`, once for all of pytest-xdist's processes, and starts them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from live import Instance, Worker, eventually

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "examples" / "third_party"
BUILD_SECONDS = 600.0


@pytest.fixture(scope="session", params=["node", "cpp"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What starts the worker, without its options. Skips where there is nothing to build it with."""
    lacks, make = {"node": (_node_lacks, _install_node), "cpp": (_cpp_lacks, _build_cpp)}[request.param]
    if missing := lacks():
        pytest.skip(f"the worker in {request.param} needs {missing}")
    base = tmp_path_factory.getbasetemp()
    # A process of pytest-xdist has a directory of its own beside those of the others.
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"third_party_{request.param}"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make(directory)


@pytest.fixture
def start_instance() -> Iterator[Callable[..., Instance]]:
    """Starts instances with the options given by name."""
    started: list[Instance] = []

    def start(**options: str) -> Instance:
        started.append(Instance(**options))
        return started[-1]

    yield start
    for running in started:
        running.close()


@pytest.fixture
def instance(start_instance: Callable[..., Instance]) -> Instance:
    """An instance with a bare agent."""
    return start_instance()


@pytest.fixture
def start_worker(command: list[str]) -> Iterator[Callable[..., Worker]]:
    """Starts workers at the management port of an instance; settings are environment variables."""
    started: list[Worker] = []

    def start(instance: Instance, **settings: str) -> Worker:
        started.append(Worker(command, instance.management, settings))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.fixture
def worker(start_worker: Callable[..., Worker], instance: Instance) -> Worker:
    """A worker that the instance serves."""
    started = start_worker(instance)
    eventually(instance.served, "a worker's registration")
    return started


@cache
def _node_lacks() -> str:
    if missing := [program for program in ("node", "npm") if shutil.which(program) is None]:
        return f"{' and '.join(missing)} on PATH"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    return "" if int(version.removeprefix("v").split(".")[0]) >= 20 else f"Node.js 20 or later, not {version.strip()}"


@cache
def _cpp_lacks() -> str:
    programs = ("cmake", "c++", "make", "protoc", "grpc_cpp_plugin", "pkg-config")
    if missing := [program for program in programs if shutil.which(program) is None]:
        return f"{', '.join(missing)} on PATH"
    found = subprocess.run(["pkg-config", "--exists", "grpc++", "protobuf"], timeout=60, check=False)
    return "" if found.returncode == 0 else "the libraries gRPC++ and protobuf, known to pkg-config"


def _install_node(directory: Path) -> list[str]:
    """A copy of the sources, where they are in the repository, since Node.js looks for packages beside them."""
    copy = directory / "examples" / "third_party"
    if not (directory / "done").exists():
        shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("node_modules", "build"), dirs_exist_ok=True)
        shutil.copytree(ROOT / "proto", directory / "proto", dirs_exist_ok=True)
        _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(copy / "node"))
        (directory / "done").touch()
    return ["node", str(copy / "node" / "worker.js")]


def _build_cpp(directory: Path) -> list[str]:
    build = directory / "build"
    # Debug: half of the time goes into optimizing generated code.
    _run("cmake", "-S", str(SOURCES / "cpp"), "-B", str(build), "-DCMAKE_BUILD_TYPE=Debug")
    _run("cmake", "--build", str(build), "--parallel", "2")
    return [str(build / "worker")]


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert ended.returncode == 0, f"{' '.join(command)}:\n{ended.stdout}\n{ended.stderr}"
