"""The reference agent without gRPC and without sockets, for the vectors that say what an agent does. No tests are here.

Everything between the two is real. A `Wire` stands for each socket, a `Call` for each
call, and the loop's clock stands still unless a vector moves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from anyserve._proto import worker_management_pb2 as pb
from anyserve.agent.config import AgentConfig
from anyserve.agent.dispatcher import Dispatcher
from anyserve.agent.events import EventLog
from anyserve.agent.kserve_service import KServeService
from anyserve.agent.management_service import registration_of
from anyserve.agent.model_info import ModelInfo
from anyserve.agent.queues import Admission
from anyserve.agent.registry import Registry
from anyserve.agent.statistics import Statistics
from anyserve.agent.worker_client import WorkerClient, _Connection
from anyserve.agent.workers import Workers
from anyserve.errors import InferenceError
from anyserve.framing import encode_header
from anyserve_conformance.vectors import Vector, as_bytes, as_text

EMPTY_FRAME = encode_header(0)


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes when it is told."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Wire(asyncio.Transport):
    """The agent's end of a socket to a worker; `behave` plays the worker when a request was written."""

    def __init__(self, worker: str, behave: Callable[[Wire], None]) -> None:
        super().__init__()
        self.worker = worker
        self.sent = b""
        self.unwritten = 0
        self.protocol: asyncio.Protocol | None = None
        self._behave = behave
        self._closing = False

    def writelines(self, parts: Iterable[Any]) -> None:
        self.sent = b"".join(parts)
        asyncio.get_running_loop().call_soon(self._behave, self)

    def get_write_buffer_size(self) -> int:
        return self.unwritten

    def pause_reading(self) -> None:
        """No vector has so many replies that it matters."""

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self.lose(None)

    def lose(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            assert self.protocol is not None
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)

    def see(self, what: Any) -> None:
        """What comes from the worker: bytes, or how the connection ends."""
        if self._closing:
            return  # a closed socket is not read
        assert self.protocol is not None
        if what == "end":
            self.protocol.eof_received()
        elif what == "reset":
            self.lose(ConnectionResetError())
        elif what == "broken-pipe":
            self.lose(BrokenPipeError())
        else:
            [(key, value)] = what.items()
            assert key == "bytes", what
            self.protocol.data_received(as_bytes(value))


class Call:
    """A client's call, as far as the service looks at it."""

    def __init__(self, metadata: Iterable[tuple[str, str]] = (), remaining: float | None = None) -> None:
        self.metadata = tuple(metadata)
        self.remaining = remaining
        self.written: list[bytes] = []

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata

    def time_remaining(self) -> float | None:
        return self.remaining

    async def write(self, reply: bytes) -> None:
        self.written.append(reply)


class Bench:
    """An agent without gRPC, and without sockets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, behave: Callable[[Wire], None], **settings: Any) -> None:
        async def connect(client: WorkerClient) -> _Connection:
            return self._connect(client)

        monkeypatch.setattr(WorkerClient, "_connect", connect)
        config = AgentConfig(**settings)
        registry = Registry(max_workers=config.max_workers, max_registrations=config.max_registrations)
        admission = Admission(config.queue_size, config.default_max_concurrency)
        statistics = Statistics(config.max_registrations)
        self.workers = Workers(config, registry, admission, EventLog(config.max_watchers))
        dispatcher = Dispatcher(registry, admission, self.workers, statistics)
        info = ModelInfo(registry, statistics)
        self.service = KServeService(config, dispatcher, info, ready=lambda: True, instance_secret="secret")
        self.behave = behave
        self.refuse: Callable[[str], None] = lambda worker: None

    def register(self, content: Mapping[str, Any]) -> None:
        assert "label" not in content
        fields = {k: v for k, v in content.items() if k not in ("worker", "capability_pairs")}
        pairs = {as_text(key): as_text(value) for key, value in content.get("capability_pairs", ())}
        fields["capability"] = pairs or {k: as_text(v) for k, v in content.get("capability", {}).items()}
        worker = content["worker"]
        request = pb.RegisterModelRequest(worker_id=worker, worker_address=f"unix:///{worker}", **fields)
        self.workers.register(registration_of(request))

    def _connect(self, client: WorkerClient) -> _Connection:
        worker = client.path.removeprefix("/")
        self.refuse(worker)
        connection = _Connection(client)
        wire = Wire(worker, self.behave)
        wire.protocol = connection
        connection.connection_made(wire)
        return connection

    async def infer(self, payload: bytes, call: Call, method: str = "ModelInfer") -> bytes | None:
        if method == "ModelInfer":
            return await self.service.model_infer(payload, call)  # type: ignore[arg-type]
        assert method == "ModelStreamInfer", method
        await self.service.model_stream_infer(one(payload), call)  # type: ignore[arg-type]
        return None


async def one(payload: bytes) -> Any:
    yield payload


async def outcome(answer: Any) -> tuple[str, str]:
    """Name and message of the status that a call ends with."""
    try:
        await answer
    except InferenceError as error:
        return error.code.name, error.message
    return "OK", ""


def run(main: Any) -> None:
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(main)


def metadata_of(query: Mapping[str, str] | None) -> list[tuple[str, str]]:
    return [(f"x-cap-{key}", value) for key, value in (query or {}).items()]


def named(vectors: list[Vector], *kinds: str) -> pytest.MarkDecorator:
    """A test for each vector of these kinds, or for all."""
    chosen = [vector for vector in vectors if vector.kind in kinds or not kinds]
    assert chosen
    return pytest.mark.parametrize("vector", [pytest.param(each, id=each.name) for each in chosen])


def frame(payload: Any) -> bytes:
    data = as_bytes(payload)
    return encode_header(len(data)) + data
