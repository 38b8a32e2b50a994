"""What runs in these tests: an instance with a bare agent and clients of both its ports, and a worker process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from anyserve import rpc
from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve._proto import worker_management_pb2 as management

__all__ = ["LIMIT", "Instance", "Worker", "eventually", "parameters", "request"]

LIMIT = 30.0
"""Seconds that anything may take on a slow machine; reached only by a failing test."""

MODELS = {"echo", "fail", "wait", "count"}
KSERVE = kserve.DESCRIPTOR.services_by_name["GRPCInferenceService"]
MANAGEMENT = management.DESCRIPTOR.services_by_name["WorkerManagement"]


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Waits until `condition()` is true, where nothing tells when it becomes so, and returns what it was.

    Raises:
        AssertionError: it stayed false; `what` names it.
    """
    give_up = time.monotonic() + LIMIT
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not come true"
        time.sleep(0.01)
    return found


def request(model: str, **values: int | str) -> kserve.ModelInferRequest:
    """A request without tensors, with these parameters."""
    message = kserve.ModelInferRequest(model_name=model)
    for name, value in values.items():
        if isinstance(value, int):
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].string_param = value
    return message


def parameters(reply: kserve.ModelInferResponse) -> dict[str, int]:
    """The int64 parameters of a reply."""
    return {name: value.int64_param for name, value in reply.parameters.items()}


class Process:
    """A process of ours. What it writes is kept, for the message of a failure."""

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANYSERVE_")}
        self.popen = subprocess.Popen(
            command,
            env={**inherited, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        # Reads to the end, or a full pipe would stop the process.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def terminate(self) -> None:
        """Asks it to end."""
        self.popen.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Waits for its end, and returns the exit status."""
        status = self.popen.wait(LIMIT)
        self._reader.join(LIMIT)
        return status

    def kill(self) -> None:
        """Ends it, however it is."""
        self.popen.kill()
        self.wait()

    @property
    def output(self) -> str:
        """What it has written so far."""
        return "".join(self.lines)

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as pipe:
            for line in pipe:
                self.lines.append(line)


class Instance:
    """A running `anyserve` without an app: a bare agent. It can be stopped and started again on the same ports."""

    def __init__(self, **options: str) -> None:
        self._options = options
        self._ports = (0, 0)
        self._socket_dir = tempfile.mkdtemp(prefix="any")
        self._start()

    def infer(self, message: kserve.ModelInferRequest) -> kserve.ModelInferResponse:
        """A ModelInfer call."""
        reply: kserve.ModelInferResponse = self._infer["ModelInfer"](message, timeout=LIMIT)
        return reply

    def under_way(self, message: kserve.ModelInferRequest) -> Any:
        """A ModelInfer call that has begun: a future, which can be cancelled."""
        infer: Any = self._infer["ModelInfer"]
        return infer.future(message, timeout=LIMIT)

    def stream(self, *messages: kserve.ModelInferRequest) -> Any:
        """A ModelStreamInfer call: its responses, which can be cancelled."""
        return self._infer["ModelStreamInfer"](iter(messages), timeout=LIMIT)

    def workers(self) -> list[Any]:
        """What the agent lists."""
        return list(self._manage["ListWorkers"](management.ListWorkersRequest(), timeout=LIMIT).workers)

    def served(self) -> str:
        """The id of a worker that has registered all its models and sent a heartbeat; empty if there is none."""
        for worker in self.workers():
            names = {registration.model_name for registration in worker.registrations}
            if names == MODELS and worker.heartbeat_age_ms >= 0:
                return str(worker.worker_id)
        return ""

    def restart(self) -> None:
        """Stops it as a service manager does, and starts it on the same ports."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """Stops it as a service manager does."""
        self._close()
        self.process.terminate()
        assert self.process.wait() == 0, self.process.output

    def close(self) -> None:
        """Ends it, however it is."""
        self._close()
        self.process.kill()
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    def _start(self) -> None:
        options = {"host": "127.0.0.1", "port": str(self._ports[0]), "management-port": str(self._ports[1])}
        options |= {"grace": "5", "log-format": "json", "socket-dir": self._socket_dir} | self._options
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "anyserve", *settings]
        self.process = Process(command, {})
        serving = eventually(self._serving, "the instance's start")
        self.address: str = serving["address"]
        self.management: str = serving["management"]
        self._ports = (int(self.address.rpartition(":")[2]), int(self.management.rpartition(":")[2]))
        # A channel of its own, or grpcio would share one, with its wait before it connects again.
        local = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(target, local) for target in (self.address, self.management)]
        self._infer = rpc.callables(self._channels[0], KSERVE)
        self._manage = rpc.callables(self._channels[1], MANAGEMENT)

    def _serving(self) -> dict[str, Any] | None:
        """The fields of the log's line that tells the ports."""
        assert self.process.popen.poll() is None, self.process.output
        for line in list(self.process.lines):
            try:
                fields = json.loads(line)
            except ValueError:
                continue  # a warning of a library
            if fields.get("event") == "serving":
                return dict(fields)
        return None

    def _close(self) -> None:
        for channel in self._channels:
            channel.close()


class Worker(Process):
    """A worker process, with a directory of its own for its socket."""

    def __init__(self, command: list[str], management_address: str, env: Mapping[str, str]) -> None:
        self.socket_dir = Path(tempfile.mkdtemp(prefix="any"))
        super().__init__([*command, "--management", management_address, "--socket-dir", str(self.socket_dir)], env)

    def sockets(self) -> list[Path]:
        """The files in its directory."""
        return list(self.socket_dir.iterdir())

    def close(self) -> None:
        """Ends it, however it is, and leaves nothing behind."""
        self.kill()
        shutil.rmtree(self.socket_dir)
