"""The agent's side of one worker, played by a test: a management port, and frames on the worker's socket."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from anyserve import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse, rpc
from anyserve._proto import worker_management_pb2 as pb
from support.command import write_app
from support.processes import PATIENCE, Running, short_directory

MANAGEMENT = pb.DESCRIPTOR.services_by_name["WorkerManagement"]


class ScriptedAgent:
    """A management port that records what a worker says, in order, and answers as the test wants.

    `answers` maps the name of an RPC to a function of its request that returns the
    reply; `refuse` makes every call of the RPC `refused` fail with a status.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[Mapping[str, str]] = []
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.refused = "RegisterModel"
        self.answers: dict[str, Callable[[Any], Any]] = {
            "RegisterModel": lambda _: pb.RegisterModelResponse(success=True),
            "Heartbeat": lambda _: pb.HeartbeatResponse(healthy=True),
            "UnregisterWorker": lambda _: pb.UnregisterWorkerResponse(success=True),
        }
        self.alive: Callable[[], bool] = lambda: True
        """Whether the worker that is waited for still runs."""
        self._news = threading.Condition()
        self.port = 0
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listens, on the same port as before if there was one."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        methods = {name: self._recorded(name) for name in self.answers}
        self._server.add_generic_rpc_handlers((rpc.handler(MANAGEMENT, methods),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        assert self.port
        self._server.start()

    def stop(self) -> None:
        """Goes away, as an agent that was killed."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def called(self, name: str, *, count: int = 1, timeout: float = PATIENCE) -> Any:
        """The request of the `count`th call of an RPC, once it has come."""
        deadline = time.monotonic() + timeout
        with self._news:
            while len(found := [request for n, request in self.calls if n == name]) < count:
                left = deadline - time.monotonic()
                assert left > 0, f"no {count}. {name} within {timeout} s; there were {[n for n, _ in self.calls]}"
                assert self.alive(), f"the worker ended before its {count}. {name}"
                self._news.wait(min(left, 0.5))
        return found[count - 1]

    def names(self) -> list[str]:
        """The calls so far, without the heartbeats."""
        return [name for name, _ in self.calls if name != "Heartbeat"]

    def _recorded(self, name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            with self._news:
                self.calls.append((name, request))
                self.metadata.append(dict(context.invocation_metadata()))
                self._news.notify_all()
            if self.refuse is not None and name == self.refused:
                context.abort(*self.refuse)
            return self.answers[name](request)

        return handle


class Frames:
    """A connection to a worker's socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(path)

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send(self, payload: bytes) -> None:
        self._socket.sendall(len(payload).to_bytes(4, "big") + payload)

    def receive(self) -> bytes | None:
        """The next frame's payload; None if the worker has closed between frames."""
        header = self._exactly(4)
        if header is None:
            return None
        payload = self._exactly(int.from_bytes(header, "big"))
        assert payload is not None, "closed in the middle of a frame"
        return payload

    def ask(self, request: ModelInferRequest) -> ModelInferResponse:
        """One exchange with a handler that does not stream."""
        self.send(request.SerializeToString())
        payload = self.receive()
        assert payload is not None, "closed without a reply"
        return ModelInferResponse.FromString(payload)

    def replies(self) -> Iterator[ModelStreamInferResponse]:
        """The replies of a streaming exchange until its empty frame."""
        while payload := self.receive():
            yield ModelStreamInferResponse.FromString(payload)
        assert payload == b"", "closed before the end of the stream"

    def end_of_requests(self) -> None:
        """Sends no more, and still reads."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                more = self._socket.recv(size - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                assert not data, "closed in the middle of a frame"
                return None
            data += more
        return data


class ScriptedWorker(Running):
    """`python -m anyserve.worker` under a `ScriptedAgent`."""

    def __init__(self, agent: ScriptedAgent, directory: Path, socket_dir: str, *options: str, **env: str) -> None:
        self.agent = agent
        self.socket_dir = socket_dir
        self.worker_id = f"test-{secrets.token_hex(4)}"
        self._connections: list[Frames] = []
        command = [sys.executable, "-m", "anyserve.worker", "my_app:app", f"--management=127.0.0.1:{agent.port}"]
        command += [f"--socket-dir={socket_dir}", f"--worker-id={self.worker_id}", "--log-format=json"]
        super().__init__([*command, "--heartbeat-interval=0.1", *options], cwd=directory, env=env)

    @property
    def path(self) -> str:
        """The socket that it registered."""
        address = str(self.agent.called("RegisterModel").worker_address)
        assert address.startswith("unix:///")
        return address.removeprefix("unix://")

    def connect(self) -> Frames:
        connection = Frames(self.path)
        self._connections.append(connection)
        return connection

    def sockets(self) -> list[str]:
        return os.listdir(self.socket_dir)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@contextmanager
def scripted(
    source: str, *options: str, directory: Path, agent: ScriptedAgent | None = None, **env: str
) -> Iterator[ScriptedWorker]:
    """Starts a worker under a scripted agent; at the end nothing of both is left."""
    write_app(directory, source)
    agent = agent or ScriptedAgent()
    agent.start()
    with short_directory() as socket_dir:
        worker = ScriptedWorker(agent, directory, socket_dir, *options, **env)
        agent.alive = lambda: worker.running
        try:
            yield worker
        finally:
            worker.close()
            worker.kill_all()
            agent.stop()


def request(model: str, **fields: Any) -> ModelInferRequest:
    """A request as an agent sends it to the worker of `{type: model}`; `n=...` becomes an input."""
    message = ModelInferRequest(model_name=model, id=fields.pop("id", ""))
    message.parameters["anyserve_capability"].string_param = fields.pop("capability", f"type={model}")
    if "timeout_ms" in fields:
        message.parameters["anyserve_timeout_ms"].int64_param = fields.pop("timeout_ms")
    message.set_tensors(fields)
    return message


def failure(reply: ModelInferResponse) -> tuple[int, str]:
    """The code and message of a reply that tells a failure; (0, "") if it is none."""
    parameters = reply.parameters
    if "anyserve_error_code" not in parameters:
        return 0, ""
    return parameters["anyserve_error_code"].int64_param, parameters["anyserve_error_message"].string_param
