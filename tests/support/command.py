"""`python -m anyserve APP` for tests: on free ports, with its own socket directory, stopped and checked at the end."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from anyserve import AnyserveClient, rpc
from anyserve._proto import grpc_predict_v2_pb2
from support.processes import PATIENCE, Running, short_directory

KSERVE = grpc_predict_v2_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

FACTS = '''
import threading

import numpy as np

from anyserve import (
    AnyServe, Code, Context, InferenceError, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
    Stream, TensorSpec, Worker,
)

app = AnyServe()


class Facts:
    """Counters that handlers change and the test reads or waits for, and one gate that it opens."""

    def __init__(self):
        self.changed = threading.Condition()
        self.values = {}
        self.gate = threading.Event()

    def add(self, name, amount=1):
        with self.changed:
            self.values[name] = self.values.get(name, 0) + amount
            self.values["most " + name] = max(self.values.get("most " + name, 0), self.values[name])
            self.changed.notify_all()


facts = Facts()


@app.tensors(type="facts", max_concurrency=64)
def tell(name, at_least, seconds):
    name, at_least = name[0].decode(), int(at_least[0])
    with facts.changed:
        facts.changed.wait_for(lambda: facts.values.get(name, 0) >= at_least, timeout=seconds[0])
        return {"value": np.array([facts.values.get(name, 0)])}


@app.tensors(type="open-gate", max_concurrency=64)
def open_gate(again):
    (facts.gate.set if again[0] else facts.gate.clear)()
    return {"open": again}
'''
"""The beginning of an app whose handlers can be watched and held up; see `Instance.fact` and `Instance.open_gate`."""


def write_app(directory: Path, source: str, name: str = "my_app") -> Path:
    """Writes a module for a process to import."""
    path = directory / f"{name}.py"
    path.write_text(textwrap.dedent(source))
    return path


class Instance(Running):
    """A running `python -m anyserve`, started by `start` or `serving`.

    Args:
        arguments: its command line.
        directory: where it runs, and imports the app from.
        socket_dir: for `--socket-dir`.
        env: changes to the environment.
    """

    def __init__(self, *arguments: str, directory: Path, socket_dir: str, env: Mapping[str, str] | None = None) -> None:
        self.socket_dir = socket_dir
        self.killed: set[str] = set()
        """Workers that the test killed: they may leave their sockets."""
        self._client: AnyserveClient | None = None
        self._channel: grpc.Channel | None = None
        super().__init__([sys.executable, "-m", "anyserve", *arguments], cwd=directory, env=env)

    @property
    def address(self) -> str:
        return str(self.wait_log("serving")["address"])

    @property
    def management(self) -> str:
        return str(self.wait_log("serving")["management"])

    @property
    def client(self) -> AnyserveClient:
        if self._client is None:
            self._client = AnyserveClient(self.address, management_address=self.management, timeout=PATIENCE)
        return self._client

    @property
    def calls(self) -> Mapping[str, Any]:
        """The bare gRPC callables of the client port."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.address)
        return rpc.callables(self._channel, KSERVE)

    def kill_worker(self, pid: int) -> None:
        """Kills a worker and waits until its end has been seen."""
        (name,) = (line["worker"] for line in self.logs("worker started") if line["pid"] == pid)
        self.killed.add(f"{name}.sock")
        os.kill(pid, signal.SIGKILL)
        self.wait_log("worker crashed", worker=name, reason="a worker process was killed by SIGKILL")

    def worker_pid(self, number: int = 1) -> int:
        """The process id of the `number`th worker started."""
        return int(self.wait_log("worker started", count=number)["pid"])

    def fact(self, name: str, at_least: int = 0) -> int:
        """A counter of an app that begins with `FACTS`, once it has got so far."""
        value = self._fact(name, at_least, PATIENCE / 2)
        assert value >= at_least, f"{name} is {value}, not {at_least}"
        return value

    def stays_below(self, name: str, bound: int, *, seconds: float) -> int:
        """The counter, after it was given this long to reach what it must not reach."""
        value = self._fact(name, bound, seconds)
        assert value < bound, f"{name} is {value}"
        return value

    def _fact(self, name: str, at_least: int, seconds: float) -> int:
        arrays = {"name": [name], "at_least": [at_least], "seconds": [seconds]}
        return int(self.client.infer("facts", arrays).tensors()["value"][0])

    def open_gate(self, open_: bool = True) -> None:
        """Lets the handlers pass that wait for the gate of `FACTS`; or closes it again."""
        self.client.infer("open-gate", {"again": [open_]})

    def sockets(self) -> list[str]:
        return sorted(entry for entry in os.listdir(self.socket_dir) if entry.endswith(".sock"))

    def close(self) -> None:
        """Closes the clients."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = PATIENCE) -> int:
        """Ends the instance as a user would, and returns its exit status."""
        self.close()
        if self.running:
            self.signal(number)
        return self.wait(timeout)


def run(*arguments: str, directory: Path, env: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Running:
    """Runs `python -m anyserve ARGUMENTS` to its end, which must leave no process behind."""
    process = Running([sys.executable, "-m", "anyserve", *arguments], cwd=directory, env=env)
    try:
        process.wait(timeout)
        assert not process.leftovers(5.0), f"processes are left:\n{process.stderr}"
    finally:
        process.kill_all()
    return process


@contextmanager
def started(*arguments: str, directory: Path, env: Mapping[str, str] | None = None) -> Iterator[Instance]:
    """Starts `python -m anyserve ARGUMENTS` on free ports; whatever is left of it afterwards is a failure."""
    with short_directory() as socket_dir:
        options = ("--host=127.0.0.1", "--port=0", "--management-port=0", "--log-format=json")
        instance = Instance(
            *options, f"--socket-dir={socket_dir}", *arguments, directory=directory, socket_dir=socket_dir, env=env
        )
        try:
            yield instance
            assert not instance.leftovers(PATIENCE), f"processes are left:\n{instance.stderr}"
        finally:
            instance.close()
            instance.kill_all()


@contextmanager
def serving(
    source: str, *options: str, directory: Path, env: Mapping[str, str] | None = None, name: str = "my_app"
) -> Iterator[Instance]:
    """Serves an app until the block ends: then it stops on SIGTERM with status 0, leaves nothing, and has said all
    that it said in log lines.
    """
    write_app(directory, source, name)
    with started(f"{name}:app", *options, directory=directory, env=env) as instance:
        instance.wait_log("ready")
        yield instance
        assert instance.stop() == 0, instance.stderr
        assert not instance.leftovers(5.0), "worker processes outlive their instance"
        assert set(instance.sockets()) <= instance.killed, "sockets are left"
        assert instance.noise() == [], "what is no log line"
