"""The agent's role, for a worker program: a management port that records, and frames on the worker's socket."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from anyserve_conformance import proto, wire
from anyserve_conformance.launch import CannotStart, Program
from anyserve_conformance.patience import LONG, Patience
from anyserve_conformance.requirement import not_applicable
from anyserve_conformance.scripted_worker import Connection
from anyserve_conformance.transcript import Transcript
from anyserve_conformance.wire import decoded

__all__ = ["AgentConnection", "ManagementCall", "ScriptedAgent", "WorkerUnderTest", "failure"]


@dataclass(frozen=True)
class ManagementCall:
    """One call that a worker made."""

    name: str
    request: Any
    at: float
    """`time.monotonic()`."""
    metadata: Mapping[str, str] = field(default_factory=dict)


class ScriptedAgent:
    """A management port that records what a worker says, in order, and answers as the case wants.

    `answers` maps the name of an RPC to a function of its request that returns the reply;
    it may raise `grpc.RpcError`-like refusals through `refuse`.
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.transcript = Transcript()
        self.calls: list[ManagementCall] = []
        self.refuse: dict[str, tuple[grpc.StatusCode, str]] = {}
        """Name of an RPC -> the status with which each call of it is refused."""
        self.answers: dict[str, Callable[[Any], Any]] = {
            "RegisterModel": lambda _: proto.RegisterModelResponse(success=True),
            "UnregisterModel": lambda _: proto.UnregisterModelResponse(success=True),
            "Heartbeat": lambda _: proto.HeartbeatResponse(healthy=True),
            "UnregisterWorker": lambda _: proto.UnregisterWorkerResponse(success=True),
        }
        self.port = 0
        self._news = threading.Condition()
        self._server: Any = None

    @property
    def address(self) -> str:
        """HOST:PORT of the management port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listens; on the same port as before if there was one."""
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        handlers = {name: self._handler(name) for name in self.answers}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(proto.MANAGEMENT, handlers),))
        self.port = self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        """Goes away, as an agent that was killed."""
        if self._server is not None:
            self._server.stop(None).wait(self.patience())
            self._server = None

    def named(self, name: str) -> list[ManagementCall]:
        """The calls of one RPC so far."""
        with self._news:
            return [call for call in self.calls if call.name == name]

    def wait_for(
        self, name: str, count: int = 1, within: float = LONG, alive: Callable[[], bool] = lambda: True
    ) -> ManagementCall:
        """The `count`th call of an RPC, once it has come.

        Raises:
            AssertionError: it did not come.
        """
        deadline = time.monotonic() + self.patience(within)
        with self._news:
            while len(found := [call for call in self.calls if call.name == name]) < count:
                left = deadline - time.monotonic()
                assert left > 0, f"no {name} (call {count}) from the worker within {self.patience(within):g} s"
                assert alive(), f"the worker ended before its {name} (call {count})"
                self._news.wait(min(left, 0.1))
        return found[count - 1]

    def _handler(self, name: str) -> Any:
        method = proto.method(proto.MANAGEMENT, name)
        request_class = proto.message(method.input_type.full_name)

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.transcript.received(
                "management port", f"{name} request", request.SerializeToString(), str(request).strip() or "(empty)"
            )
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            with self._news:
                self.calls.append(ManagementCall(name, request, time.monotonic(), metadata))
                self._news.notify_all()
            if name in self.refuse:
                code, details = self.refuse[name]
                self.transcript.note("management port", f"refuses it with {code.name}: {details}")
                context.abort(code, details)
            reply = self.answers[name](request)
            self.transcript.sent("management port", f"{name} response", reply.SerializeToString(), str(reply).strip())
            return reply

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=request_class.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


class AgentConnection(Connection):
    """A connection to a worker's socket."""

    streaming = False

    def text(self, payload: bytes) -> str:
        return decoded(proto.ModelStreamInferResponse if self.streaming else proto.ModelInferResponse, payload)

    def ask(self, request: Any, within: float = LONG) -> Any:
        """One exchange with a unary registration: the ModelInferResponse.

        Raises:
            EOFError: the worker closed instead.
            AssertionError: nothing came, or no such message.
        """
        self.send_frame(request)
        return self.reply(within)

    def reply(self, within: float = LONG) -> Any:
        """The one reply of a unary exchange."""
        self.streaming = False
        payload = self.read_frame(within)
        try:
            return proto.ModelInferResponse.FromString(payload)
        except DecodeError:
            raise AssertionError("the reply frame is no ModelInferResponse") from None

    def replies(self, within: float = LONG) -> Iterator[Any]:
        """The replies of a streaming exchange until its empty frame."""
        self.streaming = True
        while payload := self.read_frame(within):
            try:
                yield proto.ModelStreamInferResponse.FromString(payload)
            except DecodeError:
                raise AssertionError("the reply frame is no ModelStreamInferResponse") from None


class WorkerUnderTest:
    """A worker program under a scripted agent.

    Args:
        command: with `{management}` and, if it likes, `{socket_dir}`.
        options: such as `{"grace": 1}`, handed over in the environment.
        agent: one that listens already; otherwise one is made.

    Raises:
        CannotStart: it did not register.
    """

    def __init__(
        self,
        command: str,
        patience: Patience,
        options: Mapping[str, object] | None = None,
        agent: ScriptedAgent | None = None,
        *,
        registered: bool = True,
    ) -> None:
        self.patience = patience
        self.socket_dir = Path(tempfile.mkdtemp(prefix="any"))
        self.agent = agent or ScriptedAgent(patience)
        if not self.agent.port:
            self.agent.start()
        self._connections: list[AgentConnection] = []
        places = {"{management}": self.agent.address, "{socket_dir}": str(self.socket_dir)}
        for name, value in places.items():
            command = command.replace(name, value)
        self.program = Program(command, patience, options)
        if registered:
            try:
                self.agent.wait_for("Heartbeat", within=30, alive=lambda: self.program.running)
            except AssertionError as error:
                output = self.program.output()
                self.close()
                raise CannotStart(f"{error}; it printed:\n{output or '(nothing)'}") from None

    def __repr__(self) -> str:
        return "the worker"

    @property
    def transcript(self) -> Transcript:
        """That of the case that uses it now."""
        return self.agent.transcript

    @transcript.setter
    def transcript(self, transcript: Transcript) -> None:
        self.agent.transcript = transcript

    # What it registered

    def registrations(self) -> list[Any]:
        """Its RegisterModelRequests, without those that it sent again."""
        found: dict[bytes, Any] = {}
        for call in self.agent.named("RegisterModel"):
            found.setdefault(call.request.SerializeToString(deterministic=True), call.request)
        return list(found.values())

    def registration(self, model: str) -> Any:
        """The registration of a test model; without it the case is not applicable."""
        found = [r for r in self.registrations() if model in (r.model_name, r.capability.get("type"))]
        return found[0] if found else not_applicable(f"the worker serves no {model}")

    def request(self, model: str, *, request_id: str = "", raw: bytes = b"", **parameters: wire.Parameter) -> Any:
        """A request for a test model, with what an agent appends."""
        registration = self.registration(model)
        message = wire.request(
            registration.model_name, registration.model_version, request_id=request_id, raw=raw, **parameters
        )
        if registration.capability:
            text = wire.capability_text(registration.capability)
            message.parameters["anyserve_capability"].string_param = text
        return message

    # Its socket

    @property
    def path(self) -> str:
        """The path of its socket."""
        address = str(self.agent.named("RegisterModel")[-1].request.worker_address)
        assert address.startswith("unix:///"), f"worker_address is {address!r}, not unix:// and an absolute path"
        return address.removeprefix("unix://")

    def connect(self, who: str = "") -> AgentConnection:
        """A new connection to it.

        Raises:
            OSError: it does not take one.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.patience())
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            raise
        who = who or f"agent connection {len(self._connections) + 1}"
        connection = AgentConnection(sock, who, self.transcript, self.patience)
        self._connections.append(connection)
        return connection

    def serves(self) -> None:
        """Asks its first unary test model something on a new connection.

        Raises:
            AssertionError: it does not answer.
        """
        for model in ("echo", "wait", "fail"):
            if any(model in (r.model_name, r.capability.get("type")) for r in self.registrations()):
                connection = self.connect("another connection")
                try:
                    connection.ask(self.request(model, request_id="still-there"))
                except (EOFError, OSError) as error:
                    raise AssertionError(f"the worker does not serve another connection: {error}") from None
                finally:
                    connection.close()
                return

    def close_connections(self) -> None:
        """Closes what the case has opened."""
        while self._connections:
            self._connections.pop().close()

    def close(self) -> None:
        """Kills the program, and takes everything away."""
        self.close_connections()
        self.program.close()
        self.agent.stop()
        shutil.rmtree(self.socket_dir, ignore_errors=True)


def failure(reply: Any) -> tuple[int, str]:
    """The code and the message of a failure reply; (0, "") if it is none."""
    parameters = reply.parameters
    if "anyserve_error_code" not in parameters:
        return 0, ""
    code = parameters["anyserve_error_code"]
    assert code.WhichOneof("parameter_choice") == "int64_param", f"anyserve_error_code is no int64_param: {code}"
    return code.int64_param, parameters["anyserve_error_message"].string_param
