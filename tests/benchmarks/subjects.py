"""The processes that benchmarks measure, and those that stand behind them: started, found ready, and ended."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from anyserve import rpc
from anyserve._proto import worker_management_pb2 as management
from benchmarks import machine
from support.command import started
from support.processes import Running, eventually, short_directory

__all__ = [
    "FILE_BYTES",
    "ROOT",
    "Subject",
    "agent",
    "built_peers",
    "echo_worker",
    "free_port",
    "grpcio_server",
    "implementations",
    "nghttpd",
    "peer",
    "served",
]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).with_name("native")
BUILD = ROOT / "build" / "benchmarks" / "native"
BUILD_SECONDS = 1800
FILE_BYTES = 100
"""Of the file that nghttpd serves."""
TOOLS = {
    "h2load": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "cmake": "cmake",
    "c++": "g++",
    "pkg-config": "pkgconf",
}
MANAGEMENT = management.DESCRIPTOR.services_by_name["WorkerManagement"]
GRPCIO = Path(__file__).with_name("grpcio_echo.py")
STREAMS = 64
"""How many streams of tokens the echo worker sends at once."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running process under measurement."""

    name: str
    process: Running
    port: int
    management: str = ""
    """Where workers register, of an agent."""
    worker: int = 0
    """The process id of its worker, which is measured with it."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        return sum(self.cpu_shares().values()) or machine.cpu_seconds(self.pid)

    def cpu_shares(self) -> dict[str, float]:
        """What each of its processes has used so far; empty if it is one."""
        if not self.worker:
            return {}
        return {"agent": machine.cpu_seconds(self.pid), "worker": machine.cpu_seconds(self.worker)}

    def register(self, worker_id: str, path: str) -> None:
        """Has an agent know the echo worker at a socket: models `echo` and `tokens`."""
        with grpc.insecure_channel(self.management) as channel:
            call = rpc.callables(channel, MANAGEMENT)["RegisterModel"]
            for request in registrations(worker_id, path):
                assert call(request, wait_for_ready=True, timeout=30).success


def registrations(worker_id: str, path: str) -> tuple[management.RegisterModelRequest, ...]:
    """What the echo worker offers: unary in the places that it has by default, streams in more."""
    common = {"worker_id": worker_id, "worker_address": f"unix://{path}", "shared_memory": True}
    return (
        management.RegisterModelRequest(model_name="echo", capability={"type": "echo"}, **common),
        management.RegisterModelRequest(
            model_name="tokens", capability={"type": "tokens"}, stream=True, max_concurrency=STREAMS, **common
        ),
    )


def missing_tools() -> list[str]:
    """What is not installed, by the names of Debian's packages."""
    return [package for tool, package in TOOLS.items() if shutil.which(tool, path=_path()) is None]


def implementations() -> list[str]:
    """The agents that this installation has."""
    shown = subprocess.run([sys.executable, "-m", "anyserve", "--version"], capture_output=True, text=True, check=True)
    return shown.stdout.partition("agents: ")[2].strip(")\n").split(", ")


def built_peers() -> Mapping[str, Path]:
    """Builds what is written in C++, and returns its programs by name. `grpc_cpp_echo` may not be among them."""
    environment = os.environ | {"PATH": _path()}
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=_path()) else []
    configure = ["cmake", "-S", str(SOURCES), "-B", str(BUILD), *generator, f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", str(BUILD), "--parallel", "2"]):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return {path.name: path for path in (BUILD / "bin").iterdir()}


def _path() -> str:
    """Tools of this Python's environment come first."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@contextmanager
def agent(impl: str, *options: str, name: str = "") -> Iterator[Subject]:
    """A bare agent."""
    with started(f"--impl={impl}", "--log-level=info", *options, directory=ROOT) as instance:
        port = int(instance.address.rpartition(":")[2])
        yield Subject(name or impl, instance, port, instance.management)
        assert instance.stop() == 0, instance.stderr


@contextmanager
def served(app: str, impl: str, worker_io: str) -> Iterator[Subject]:
    """An agent with a Python worker that runs `app`, on one of the two worker loops."""
    options = (app, f"--app-dir={Path(__file__).parent}", f"--impl={impl}", f"--worker-io={worker_io}")
    with started(*options, "--log-level=info", directory=ROOT) as instance:
        port, worker = int(instance.address.rpartition(":")[2]), instance.worker_pid()
        instance.wait_log("ready")
        yield Subject(f"{impl} agent, {worker_io} loop", instance, port, instance.management, worker)
        assert instance.stop() == 0, instance.stderr


@contextmanager
def grpcio_server(kind: str) -> Iterator[Subject]:
    """A server that was written by hand with grpcio and answers by itself: `aio` or `threads`."""
    with peer(Path(sys.executable), str(GRPCIO), kind, name=f"grpc_{kind}") as subject:
        yield subject


@contextmanager
def peer(program: Path, *arguments: str, name: str = "") -> Iterator[Subject]:
    """A program that prints its port in its first line; 0 if it has none."""
    process = Running([str(program), *arguments])
    try:
        eventually(lambda: process.printed or not process.running, f"{program.name} is ready")
        assert process.printed, f"{program.name} ended with {process.status}:\n{process.stderr}"
        first = process.printed[0]
        yield Subject(name or program.name, process, int(first) if first.isdigit() else 0)
    finally:
        process.kill_all()


@contextmanager
def echo_worker(program: Path) -> Iterator[str]:
    """The echo worker; its socket's path."""
    with short_directory() as directory, peer(program, f"{directory}/w"):
        yield f"{directory}/w"


@contextmanager
def nghttpd() -> Iterator[Subject]:
    """nghttpd with a small file at `/file`: the library that the native agent stands on, doing the least it can do."""
    with short_directory() as directory:
        (Path(directory) / "file").write_bytes(bytes(FILE_BYTES))
        port = free_port()
        process = Running(["nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", directory, "-m", "1000", str(port)])
        try:
            eventually(lambda: _listens(port) or not process.running, "nghttpd listens")
            assert process.running, process.stderr
            yield Subject("nghttpd", process, port)
        finally:
            process.kill_all()


def free_port() -> int:
    """An odd port that is free: Linux gives even ones to connections first."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port % 2:
            return port


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
