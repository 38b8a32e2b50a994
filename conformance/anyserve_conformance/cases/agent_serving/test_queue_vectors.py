"""The golden vectors of the queues, played by clients and scripted workers."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from grpc import StatusCode

from anyserve_conformance import proto, vectors, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import reset
from anyserve_conformance.client import Call
from anyserve_conformance.raw_http2 import Http2Connection
from anyserve_conformance.scripted_worker import Connection, ScriptedWorker
from anyserve_conformance.vectors import Vector

LOOK_AT = "who gets a place that is free, and what a queue holds"

STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
Outcomes = Sequence[tuple[str, str]]
STATUSES = {code.name for code in StatusCode}


def playable() -> list[Any]:
    """The vectors that need no agent of their own, each a case of its own requirement."""
    found = []
    for vector in vectors.load("queues"):
        if any("drain" in event for event in vector["events"]):
            continue
        names = {"queue_size": "queue-size", "default_max_concurrency": "default-max-concurrency"}
        needs = {option: vector[key] for key, option in names.items() if key in vector}
        mark = pytest.mark.requirement(vector.requirement, look_at="", needs=needs)
        found.append(pytest.param(vector, id=vector.name, marks=mark))
    return found


class Play:
    """One vector under way."""

    def __init__(self, agent: Agent, vector: Vector, raw: Http2Connection) -> None:
        self._agent = agent
        self._unit = agent.patience(0.15 if any("time" in event for event in vector["events"]) else 4.0)
        """Seconds for one of the vector's: deadlines have to pass soon, or not at all."""
        self._calls: dict[str, Call] = {}
        self._raw = raw
        self._streams: dict[str, int] = {}
        """The calls of ModelStreamInfer, on the connection `raw`."""
        self._untaken = {event["not_taken"] for event in vector["events"] if "not_taken" in event}
        self._running: dict[str, tuple[str, Connection]] = {}
        """The requests at workers, by which and on what connection."""
        self._registered: dict[str, list[Mapping[str, Any]]] = {}
        self._workers: dict[str, ScriptedWorker] = {}
        for registration in vector["registrations"]:
            self._register(registration)
        # Which of several equal workers is chosen first is left open: a label is given to a worker when it is.
        self._unbound = {w for w in self._workers if sum(self._alike(w, other) for other in self._workers) > 1}
        self._labels = {w: w for w in self._workers if w not in self._unbound}

    def _alike(self, one: str, two: str) -> bool:
        def without_worker(label: str) -> list[Mapping[str, Any]]:
            return [{k: v for k, v in each.items() if k != "worker"} for each in self._registered[label]]

        return without_worker(one) == without_worker(two)

    def _keys(self, capability: Mapping[str, str]) -> dict[str, str]:
        return {f"{key}.{self._agent.token}": value for key, value in capability.items()}

    def _register(self, registration: Mapping[str, Any]) -> None:
        fields = dict(registration)
        label = fields.pop("worker")
        name = fields.pop("model_name", "")
        worker = self._workers.get(label) or self._agent.listener(label, raw=True)
        capability = self._keys(fields.pop("capability", {}))
        version = fields.pop("model_version", "")
        self._agent.management.register(
            worker, self._agent.name(name) if name else "", version, capability=capability, **fields
        )
        self._workers[label] = worker
        self._registered.setdefault(label, []).append(registration)

    def event(self, event: Mapping[str, Any]) -> None:
        """Lets one thing happen, and checks what comes of it."""
        match event:
            case {"arrive": request}:
                self._arrive(request, event)
            case {"reply": request}:
                _, connection = self._running.pop(request)
                connection.send_frame(b"")
            case {"not_taken": request}:
                self._leave_unread(request)
            case {"cancel": request}:
                self._calls[request].cancel()
                self._agent.client.live()  # comes behind it on the same connection: the agent knows of it
                if request not in self._running:
                    self._nothing_else(for_=0.05)
            case {"register": registration}:
                self._register(registration)
                if registration["worker"] not in self._unbound:
                    self._labels[registration["worker"]] = registration["worker"]
            case {"unregister_worker": label}:
                self._agent.management.unregister(self._worker_of(label).worker_id)
            case {"unregister_model": what}:
                name = self._agent.name(what["model_name"])
                worker = self._worker_of(what["worker"])
                self._agent.management.unregister_model(worker.worker_id, name, what.get("model_version", ""))
            case {"time": _}:
                pass  # what comes of it is waited for
            case _:
                raise NotImplementedError(event)
        self._expect([(request, outcome) for request, outcome in event["then"]])
        if "time" in event:  # the agent's clock of a deadline starts when the call has come, later than the client's
            time.sleep(self._agent.patience(0.2))

    def _arrive(self, request: str, event: Mapping[str, Any]) -> None:
        name = event.get("model_name", "")
        message = wire.request(self._agent.name(name) if name else "", event.get("model_version", ""))
        message.id = request
        query = self._keys(event.get("query", {}))
        timeout = event["deadline"] * self._unit if "deadline" in event else None
        if event.get("call") == "ModelStreamInfer":
            # By hand: grpc sends the messages of a stream some time later, so that the next request might overtake it.
            stream = self._raw.start(STREAM_INFER, message.SerializeToString(), extra=wire.query_metadata(query))
            self._raw.round_trip()
            self._streams[request] = stream
        else:
            self._calls[request] = self._agent.start_infer(message, query=query, timeout=timeout)
            self._agent.client.live()  # comes behind it on the same connection: the next request arrives later

    def _expect(self, outcomes: Outcomes) -> None:
        for request, outcome in outcomes:
            if outcome in STATUSES:
                ended = self._ended(request)
                assert ended == outcome, f"request {request} ended with {ended}, not {outcome}"
            else:
                self._started(request, outcome)
        self._nothing_else()

    def _ended(self, request: str) -> str:
        """Waits for the end of a call; the name of its status."""
        if request in self._calls:
            return str(self._calls.pop(request).answer().code.name)
        status = self._raw.answer(self._streams.pop(request)).status
        return next((code.name for code in StatusCode if code.value[0] == status), f"the status {status}")

    def _started(self, request: str, label: str) -> None:
        """Waits until a request has reached a worker, which has to be the right one."""
        actual, connection = self._arrival(request)
        if label not in self._labels and actual in self._unbound and self._alike(label, actual):
            self._unbound.discard(actual)
            self._labels[label] = actual
        wanted = self._labels.get(label, label)
        assert actual == wanted, f"request {request} was sent to {actual}, not to {wanted}"
        if request not in self._untaken:
            connection.read_frame()
        self._running[request] = actual, connection

    def _arrival(self, request: str) -> tuple[str, Connection]:
        """Waits for a request at any worker, without reading it."""
        found: dict[str, tuple[str, Connection]] = {}

        def come() -> bool:
            found.update(self._unread())
            return request in found

        self._agent.patience.until(come, f"request {request} to reach a worker")
        return found[request]

    def _unread(self) -> dict[str, tuple[str, Connection]]:
        """The requests that have come and that nobody has read, or will read."""
        busy = {id(connection) for _, connection in self._running.values()}
        found = {}
        for label, worker in self._workers.items():
            for connection in list(worker.connections):
                if id(connection) not in busy and (payload := peeked(connection)) is not None:
                    found[str(proto.ModelInferRequest.FromString(payload).id)] = label, connection
        return found

    def _leave_unread(self, request: str) -> None:
        """Closes a request's connection before it was read; of a kept connection, also the new one that comes then."""
        label, connection = self._running.pop(request)
        kept = bool(connection.received)
        reset(connection)
        if kept:
            again, connection = self._arrival(request)
            assert again == label, f"request {request} was tried again at {again}, not at {label}"
            reset(connection)
        self._untaken.discard(request)

    def _worker_of(self, label: str) -> ScriptedWorker:
        return self._workers[self._labels.get(label, label)]

    def _nothing_else(self, for_: float = 0.0) -> None:
        """Sees that no request is at a worker that has to wait."""
        self._agent.patience.while_nothing(
            lambda: bool(self._unread()), "a request was sent to a worker that has to wait", for_=for_
        )

    def end(self, waiting: Sequence[str]) -> None:
        """Checks that those wait that have to, and no others."""
        calls = [self._calls[request] for request in waiting if request in self._calls]

        def over() -> bool:
            return any(call.done for call in calls)

        self._agent.patience.while_nothing(over, "a request ended that has to wait", for_=0.03)
        self._nothing_else()
        left = {*self._calls, *self._streams} - set(waiting) - set(self._running)
        assert not left, f"requests wait that have to be at a worker: {', '.join(sorted(left))}"


def peeked(connection: Connection) -> bytes | None:
    """The payload of a whole frame that has come and was not read, if there is one."""
    if connection.socket.fileno() < 0:
        return None
    data = b""
    connection.socket.setblocking(False)
    with suppress(BlockingIOError, ConnectionResetError):
        data = connection.socket.recv(1 << 16, socket.MSG_PEEK)
    if len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        return None
    return data[4 : 4 + int.from_bytes(data[:4], "big")]


@pytest.mark.parametrize("vector", playable())
def test_queue(agent: Agent, vector: Vector) -> None:
    """Requests come, wait, are sent and end in the order of the vector."""
    host, _, port = agent.place.target.rpartition(":")
    raw = Http2Connection.connect(host.strip("[]"), int(port), transcript=agent.transcript, patience=agent.patience)
    try:
        play = Play(agent, vector, raw)
        for event in vector["events"]:
            play.event(event)
        play.end(vector.get("waiting", ()))
    finally:
        raw.close()
