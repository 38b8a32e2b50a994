"""The C++ worker library as its users have it: installed, found by CMake, and under the sanitizers."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from anyserve.control.agents import available_implementations
from support.command import Instance, started
from support.native_build import ROOT, sanitized
from support.processes import Running, eventually
from support.suite import conforms

pytestmark = pytest.mark.timeout(1800)

EXAMPLE = ROOT / "examples" / "cpp_worker"
SUITE_WORKER = Path(__file__).with_name("suite_worker")
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}

Build = Callable[[Path], Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds the project in a directory against the installed library; returns the program, which has its name."""
    directory = sanitized("asan", "ANYSERVE_WORKER_PACKAGE=ON", target="worker")
    prefix = tmp_path_factory.mktemp("prefix")
    _run("cmake", "--install", str(directory), "--component", "worker", "--prefix", str(prefix))

    def build(source: Path) -> Path:
        built = tmp_path_factory.mktemp(source.name)
        _run(
            *("cmake", "-S", str(source), "-B", str(built), f"-DCMAKE_PREFIX_PATH={prefix}"),
            *(f"-DCMAKE_CXX_COMPILER={'clang++' if shutil.which('clang++') else 'c++'}", "-DCMAKE_BUILD_TYPE=Debug"),
            f"-DCMAKE_CXX_FLAGS={SANITIZERS}",
        )
        _run("cmake", "--build", str(built))
        return built / source.name

    return build


@pytest.fixture(scope="module")
def example(build: Build) -> Path:
    """The worker of examples/cpp_worker."""
    return build(EXAMPLE)


def test_it_conforms(build: Build, tmp_path: Path) -> None:
    settings = ["ANYSERVE_MANAGEMENT={management}", "ANYSERVE_SOCKET_DIR={socket_dir}"]
    settings += [f"{name}={value}" for name, value in OPTIONS.items()]
    conforms(
        "cpp-library-worker",
        *("--worker", shlex.join(["env", *settings, str(build(SUITE_WORKER))])),
        directory=tmp_path,
    )


def test_the_example_does_what_its_readme_shows(example: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run_example.py"), "--worker", str(example)],
        env={key: value for key, value in os.environ.items() if not key.startswith("ANYSERVE_")} | OPTIONS,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    shown = (EXAMPLE / "README.md").read_text("utf-8")
    assert f"$ python examples/cpp_worker/run_example.py --worker build/cpp_worker/cpp_worker\n{done.stdout}" in shown


class Mixed:
    """An instance whose app has a worker in Python, and workers in C++ beside it."""

    def __init__(self, instance: Instance, program: Path) -> None:
        self.instance = instance
        self._program = program

    def add(self) -> Running:
        """One more worker in C++, once it is registered."""
        before = self.count()
        env = {"ANYSERVE_MANAGEMENT": self.instance.management, "ANYSERVE_SOCKET_DIR": self.instance.socket_dir}
        worker = Running([str(self._program)], env={**env, **OPTIONS})
        eventually(lambda: self.count() > before, "the registration of a worker in C++")
        return worker

    def count(self) -> int:
        return len(self.instance.client.workers())

    def ask(self, number: int = 1) -> str:
        """Who has served a request; its reply is checked."""
        vectors = np.full((number, 4), number, dtype=np.float32)
        reply = self.instance.client.infer("normalize", {"vectors": vectors}).tensors()
        np.testing.assert_allclose(reply["vectors"], np.full((number, 4), 0.5))
        return str(reply["served_by"][0].decode())

    def asked(self, count: int) -> set[str]:
        """Who has served any of so many requests at once, of different sizes: above all, none has failed."""
        with ThreadPoolExecutor(16) as threads:
            return set(threads.map(self.ask, [1 + 20 * (number % 100) for number in range(count)]))


@pytest.fixture(params=available_implementations())
def mixed(request: pytest.FixtureRequest, example: Path) -> Iterator[Mixed]:
    with started("examples.cpp_worker.app:app", f"--impl={request.param}", directory=ROOT) as instance:
        instance.wait_log("ready")
        yield Mixed(instance, example)
        assert instance.stop() == 0, instance.stderr


def test_workers_in_both_languages_share_a_capability(mixed: Mixed) -> None:
    assert mixed.asked(20) == {"Python"}
    with ExitStack() as running:
        first, second = mixed.add(), mixed.add()
        running.callback(first.kill_all)
        running.callback(second.kill_all)
        assert mixed.asked(200) == {"Python", "C++"}

        first.signal(signal.SIGKILL)
        eventually(lambda: mixed.count() == 2, "the end of the worker that was killed")
        assert mixed.asked(200) == {"Python", "C++"}

        second.signal(signal.SIGTERM)
        assert second.wait() == 0, second.stderr
        assert mixed.count() == 1
        assert mixed.asked(20) == {"Python"}

        third = mixed.add()
        running.callback(third.kill_all)
        assert mixed.asked(200) == {"Python", "C++"}
        primes = [reply.tensors()["primes"] for reply in mixed.instance.client.stream("primes", {})]
        assert np.concatenate(primes)[[0, -1]].tolist() == [2, 97]
        third.signal(signal.SIGINT)
        assert third.wait() == 0, third.stderr


def test_a_worker_in_cpp_goes_on_for_those_that_a_python_worker_leaves(mixed: Mixed) -> None:
    with ExitStack() as running:
        worker = mixed.add()
        running.callback(worker.kill_all)
        mixed.instance.kill_worker(mixed.instance.worker_pid())
        assert mixed.ask() == "C++"
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.stderr


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8_000:]}\n{done.stderr[-8_000:]}"
