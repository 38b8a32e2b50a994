"""An agent under test, with what a case puts around it: clients, scripted workers, watchers."""

from __future__ import annotations

import itertools
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from anyserve_conformance import proto, wire
from anyserve_conformance.client import Answer, Call, Client, Stream
from anyserve_conformance.launch import Program
from anyserve_conformance.management import Management, Watcher
from anyserve_conformance.patience import LONG, Patience
from anyserve_conformance.scripted_worker import Answer as AnswerFunction
from anyserve_conformance.scripted_worker import ScriptedWorker
from anyserve_conformance.transcript import Transcript

__all__ = ["DEFAULTS", "Agent", "Place"]

DEFAULTS: Mapping[str, Any] = {
    "connect-timeout": 1.0,
    "default-max-concurrency": 10,
    "grace": 30.0,
    "heartbeat-timeout": 10.0,
    "max-concurrent-rpcs": 10_000,
    "max-message-bytes": 67_108_864,
    "max-registrations": 10_000,
    "max-stream-requests": 64,
    "max-watchers": 64,
    "max-workers": 1_024,
    "queue-size": 1_024,
    "shared-memory-threshold": 65_536,
}
"""The options of an agent that cases care for, as the specification's tables of limits have them."""


@dataclass
class Place:
    """Where an agent is, what it was told, and its process if the suite has started it."""

    target: str
    management: str
    options: Mapping[str, Any] = field(default_factory=dict)
    token: str | None = None
    program: Program | None = None


class Agent:
    """What the cases of the agent profiles work with. Names are made unique, so that cases can share an agent.

    Attributes:
        client: a client of the client port.
        management: a client of the management port.
    """

    def __init__(self, place: Place, transcript: Transcript, patience: Patience) -> None:
        self.place = place
        self.transcript = transcript
        self.patience = patience
        self.token = secrets.token_hex(3)
        self.workers: list[ScriptedWorker] = []
        self._directory = Path(tempfile.mkdtemp(prefix="any"))
        self._numbers = itertools.count(1)
        self._clients: list[Client] = []
        self.client = self.new_client(who="client")
        self.management = self.new_management()

    def __repr__(self) -> str:
        return "the agent"

    # Names and options

    def name(self, base: str = "model") -> str:
        """A name that no other case uses; the same for the same base within a case."""
        return f"{base}-{self.token}"

    def option(self, name: str) -> Any:
        """The value of an option of this agent."""
        return self.place.options.get(name, DEFAULTS[name])

    @property
    def program(self) -> Program:
        """The agent's process; only of one that the suite has started."""
        assert self.place.program is not None
        return self.place.program

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.program.terminate()
        return self.program.wait()

    # Clients

    def new_client(self, *, window: int | None = None, who: str = "", service: str = proto.KSERVE) -> Client:
        """Another client; one with a window takes little more than that before it is read."""
        who = who or f"client {len(self._clients)}"
        client = Client(self.place.target, self.transcript, self.patience, who=who, window=window, service=service)
        self._clients.append(client)
        return client

    def new_management(self, *, token: str | None = None, window: int | None = None) -> Management:
        """Another management client, with the agent's token unless another is given ("" for none)."""
        token = self.place.token if token is None else token
        client = Management(self.place.management, self.transcript, self.patience, token=token or None, window=window)
        self._clients.append(client)
        return client

    def infer(
        self,
        request: bytes | Message | str,
        *,
        query: Mapping[str, str] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = None,
        within: float = LONG,
    ) -> Answer:
        """ModelInfer to its end. A text is the name of a model; a query becomes `x-cap-*` metadata."""
        return self.start_infer(request, query=query, metadata=metadata, timeout=timeout).answer(within)

    def start_infer(
        self,
        request: bytes | Message | str,
        *,
        query: Mapping[str, str] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = None,
    ) -> Call:
        """Starts ModelInfer."""
        message = wire.request(request) if isinstance(request, str) else request
        all_metadata = (*wire.query_metadata(query or {}), *metadata)
        return self.client.start_infer(message, metadata=all_metadata, timeout=timeout)

    def stream(
        self,
        *,
        query: Mapping[str, str] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = None,
    ) -> Stream:
        """Starts ModelStreamInfer."""
        return self.client.stream(metadata=(*wire.query_metadata(query or {}), *metadata), timeout=timeout)

    def watch(self, *, include_existing: bool = False) -> Watcher:
        """Starts WatchEvents, for events of this case's workers; returns when the agent has taken the call."""
        watcher = self.management.watch(
            lambda worker_id: any(worker_id == worker.worker_id for worker in self.workers),
            include_existing=include_existing,
        )
        watcher.started()
        return watcher

    # Workers

    def listener(
        self,
        worker_id: str = "worker",
        *,
        answer: AnswerFunction | None = None,
        raw: bool = False,
        accept: bool = True,
        backlog: int = 128,
    ) -> ScriptedWorker:
        """A worker that listens and has not registered. Its id is made unique."""
        taken = {worker.worker_id for worker in self.workers}
        full = self.name(worker_id)
        while full in taken:
            full = f"{self.name(worker_id)}-{next(self._numbers)}"
        worker = ScriptedWorker(
            self._directory,
            full,
            self.transcript,
            self.patience,
            answer=answer,
            raw=raw,
            accept=accept,
            backlog=backlog,
        )
        self.workers.append(worker)
        return worker

    def worker(
        self,
        name: str = "",
        version: str = "",
        *,
        worker_id: str = "worker",
        answer: AnswerFunction | None = None,
        raw: bool = False,
        capability: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> ScriptedWorker:
        """A worker that listens and has registered; `fields` are those of RegisterModelRequest.

        Names are taken as they are: make them unique with `name`.
        """
        worker = self.listener(worker_id, answer=answer, raw=raw)
        self.management.register(worker, name, version, capability=capability, **fields)
        return worker

    def close(self) -> None:
        """Takes the case's workers out of the agent and ends everything."""
        try:
            if self.place.program is None or self.place.program.running:
                for worker in self.workers:
                    request = proto.UnregisterWorkerRequest(worker_id=worker.worker_id)
                    with suppress(AssertionError, grpc.RpcError):
                        self.management.call("UnregisterWorker", request, timeout=self.patience(5))
        finally:
            for client in self._clients:
                client.close()
            for worker in self.workers:
                worker.close()
            shutil.rmtree(self._directory, ignore_errors=True)
