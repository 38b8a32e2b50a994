"""The management client's role: what a worker or an operator says to an agent's management port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import grpc

from anyserve_conformance import proto
from anyserve_conformance.client import Answer, Client, Stream
from anyserve_conformance.patience import LONG, Patience
from anyserve_conformance.scripted_worker import ScriptedWorker
from anyserve_conformance.transcript import Transcript

__all__ = ["Management", "Watcher"]


class Watcher:
    """A WatchEvents call; events of workers that the case does not know are passed over."""

    def __init__(self, stream: Stream, knows: Callable[[str], bool]) -> None:
        self.stream = stream
        self._knows = knows

    def started(self) -> None:
        """Waits until every later event will reach this call."""
        self.stream.started()

    def next(self, within: float = LONG) -> Any | None:
        """The next event, or None when the call has ended."""
        while (reply := self.stream.next(within)) is not None:
            event = reply.message
            if not event.worker_id or self._knows(event.worker_id):
                return event
        return None

    def take(self, count: int) -> list[Any]:
        """The next `count` events.

        Raises:
            AssertionError: the call ended before.
        """
        events = []
        for number in range(1, count + 1):
            event = self.next()
            assert event is not None, f"WatchEvents ended before event {number} of {count}"
            events.append(event)
        return events

    def __iter__(self) -> Iterator[Any]:
        while (event := self.next()) is not None:
            yield event


class Management(Client):
    """A client of the management port."""

    def __init__(
        self,
        target: str,
        transcript: Transcript,
        patience: Patience,
        *,
        token: str | None = None,
        who: str = "management client",
        window: int | None = None,
    ) -> None:
        metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        super().__init__(
            target, transcript, patience, who=who, service=proto.MANAGEMENT, window=window, metadata=metadata
        )

    def registration(
        self,
        worker: ScriptedWorker,
        name: str = "",
        version: str = "",
        *,
        capability: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Any:
        """A RegisterModelRequest for a worker; `fields` are its other fields."""
        values = {"worker_address": worker.address, "worker_id": worker.worker_id, **fields}
        return proto.RegisterModelRequest(
            model_name=name, model_version=version, capability=dict(capability or {}), **values
        )

    def register(
        self,
        worker: ScriptedWorker,
        name: str = "",
        version: str = "",
        *,
        capability: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        """Registers, and expects success."""
        answer = self.call("RegisterModel", self.registration(worker, name, version, capability=capability, **fields))
        message = answer.message
        assert message.success, f"RegisterModel was answered with success = false: {message.message}"

    def refused(self, registration: Any, *codes: grpc.StatusCode) -> Answer:
        """Sends a registration that must be refused."""
        answer = self.call("RegisterModel", registration)
        return answer.expect(*(codes or (grpc.StatusCode.INVALID_ARGUMENT,)))

    def unregister(self, worker_id: str) -> bool:
        """UnregisterWorker; whether it was known."""
        request = proto.UnregisterWorkerRequest(worker_id=worker_id)
        return bool(self.call("UnregisterWorker", request).message.success)

    def unregister_model(self, worker_id: str, name: str, version: str = "") -> bool:
        """UnregisterModel; whether there was anything to remove."""
        request = proto.UnregisterModelRequest(model_name=name, model_version=version, worker_id=worker_id)
        return bool(self.call("UnregisterModel", request).message.success)

    def heartbeat(self, worker_id: str, *names: str, batches: Iterable[Any] = ()) -> bool:
        """Heartbeat, with `BatchStatistics` if there are any; whether the agent knows the worker."""
        request = proto.HeartbeatRequest(worker_id=worker_id, model_names=names, batches=batches)
        return bool(self.call("Heartbeat", request).message.healthy)

    def beat(self, worker_id: str, *, every: float) -> Callable[[], None]:
        """Sends heartbeats in the background until the function that it returns is called."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(every):
                with suppress(AssertionError):
                    self.heartbeat(worker_id)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def end() -> None:
            stop.set()
            thread.join(self.patience())

        return end

    def workers(self) -> dict[str, Any]:
        """ListWorkers, by worker id."""
        return {worker.worker_id: worker for worker in self.call("ListWorkers").message.workers}

    def listed(self, worker_id: str) -> Any | None:
        """What ListWorkers says of one worker; None if it is not there."""
        return self.workers().get(worker_id)

    def watch(self, knows: Callable[[str], bool], *, include_existing: bool = False) -> Watcher:
        """Starts WatchEvents."""
        request = proto.WatchEventsRequest(include_existing=include_existing)
        return Watcher(self.stream("WatchEvents", request), knows)
