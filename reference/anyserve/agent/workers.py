"""The workers that an agent knows: registrations, connections, heartbeats, losses.

One place where a worker comes, is replaced and goes, so that registry, admission,
connections and events never disagree. Rules: spec `manage.*`, wire.md section 3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from anyserve.agent.absent import Absent
from anyserve.agent.config import AgentConfig
from anyserve.agent.events import EventLog, EventType
from anyserve.agent.queues import Admission
from anyserve.agent.registry import Registration, Registry, Target
from anyserve.agent.shared_memory import Lent, SharedMemoryPool
from anyserve.agent.worker_client import Unreachable, WorkerClient

__all__ = ["KnownWorker", "WorkerEnded", "Workers"]

log = logging.getLogger(__name__)

VIOLATION_LIMIT = 3
"""So many protocol violations in a row, and a worker is dropped (`frame.violation.limit`)."""
ENDED_REMEMBERED = 1024
"""Of so many ended processes the agent knows that a registration in their name comes too late."""


class WorkerEnded(Exception):
    """The process that registers has ended: what it has sent came too late (`lifecycle.crash.late`)."""


@dataclass(slots=True)
class KnownWorker:
    """One registered worker."""

    worker_id: str
    client: WorkerClient
    last_heartbeat: float | None = None
    """Loop time; None: it never sent one."""
    violations: int = 0
    """Protocol violations in a row."""
    shared_memory: bool = False
    """It takes payloads by shared memory."""
    last_replies: dict[tuple[str, str, str, str], int] = field(default_factory=dict)
    """Registration's key -> bytes of its last unary reply; of those that take shared memory."""


@dataclass(slots=True)
class _Launched:
    """Workers that this instance started, of which the agent waits for the first heartbeat."""

    waiting: set[str] = field(default_factory=set)
    all_there: asyncio.Event = field(default_factory=asyncio.Event)


class Workers:
    """All workers of one agent; every change of the registry goes through here."""

    def __init__(self, config: AgentConfig, registry: Registry, admission: Admission, events: EventLog) -> None:
        self._config = config
        self._registry = registry
        self._admission = admission
        self._events = events
        self._memory = SharedMemoryPool(config.shared_memory_threshold, config.shared_memory_bytes)
        self._known: dict[str, KnownWorker] = {}
        self._launched = _Launched()
        self._launched.all_there.set()
        self._absent = Absent(max_workers=config.max_workers, max_registrations=config.max_registrations)
        self._ended: dict[str, None] = {}  # worker ids, the latest last

    def __iter__(self) -> Iterator[KnownWorker]:
        return iter(self._known.values())

    @property
    def all_launched_registered(self) -> asyncio.Event:
        """Set while every worker that this instance launched has registered once (`serving.ready.workers`)."""
        return self._launched.all_there

    def expect(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait for the first heartbeat of these workers."""
        self._launched.waiting.update(worker_ids)
        if self._launched.waiting:
            self._launched.all_there.clear()

    def expect_no_more(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait for these workers no longer."""
        self._launched.waiting.difference_update(worker_ids)
        if not self._launched.waiting:
            self._launched.all_there.set()

    def keep(self, place: str, worker_id: str | None) -> None:
        """The instance keeps a worker running at a place, and now it is this one; None: it does so no longer."""
        self._absent.keep(place, worker_id)
        known = self._known.get(worker_id) if worker_id is not None else None
        if known is not None and known.last_heartbeat is not None:
            self._absent.there(known.worker_id)

    def expected_to_serve(self, target: Target) -> bool:
        """Whether a kept worker that is not there would serve it (`lifecycle.crash.unavailable`)."""
        return self._absent.serves(target)

    def client(self, worker_id: str) -> WorkerClient | None:
        """The connections to a worker; None if it has gone."""
        known = self._known.get(worker_id)
        return known.client if known else None

    def takes_shared_memory(self, worker_id: str) -> bool:
        """Whether a worker and this agent have agreed on payloads by shared memory."""
        known = self._known.get(worker_id)
        return known is not None and known.shared_memory

    def lend(self, registration: Registration, payload: bytes) -> Lent | None:
        """Memory for an exchange: of a large request, and for the reply if the last was large; None: it needs none."""
        known = self._known.get(registration.worker_id)
        if known is None or not known.shared_memory:
            return None
        last = known.last_replies.get(registration.key, 0)
        room = self._memory.room(known.client.number, last) if self._memory.is_large(last) else None
        body = self._memory.body(payload)
        return Lent(self._memory, body, room) if body or room else None

    def register(self, registration: Registration) -> None:
        """Adds or replaces a registration.

        Raises:
            RegistryFull: nothing was changed.
            WorkerEnded: nothing was changed.
        """
        if registration.worker_id in self._ended:
            raise WorkerEnded(f"the process of worker {registration.worker_id!r} has ended")
        self._registry.register(registration)
        known = self._known.get(registration.worker_id)
        if known is not None and known.client.path != registration.socket_path:
            known.client.retire()  # it has moved; exchanges under way end on the old connections
            known.client = self._new_client(registration)
        if known is None:
            known = KnownWorker(registration.worker_id, self._new_client(registration))
            self._known[registration.worker_id] = known
        known.shared_memory = registration.shared_memory and self._memory.usable
        known.last_replies.pop(registration.key, None)
        self._changed(registration.worker_id)
        self._events.publish(EventType.MODEL_REGISTERED, worker_id=registration.worker_id, registration=registration)
        log.info(
            "registered",
            extra={
                "worker": registration.worker_id,
                "model": registration.model_name,
                "version": registration.model_version,
                "capability": str(registration.capability),
            },
        )

    def unregister_model(self, worker_id: str, model_name: str, model_version: str) -> bool:
        """Removes what a worker registered under a name and version; False if there was nothing."""
        removed = self._registry.unregister(worker_id, model_name, model_version)
        if removed:
            self._removed(worker_id, removed)
        if not self._registry.of_worker(worker_id):
            self._forget(worker_id)
        return bool(removed)

    def unregister_worker(self, worker_id: str) -> bool:
        """A worker takes its leave: exchanges under way go on, no more are sent; False if it was unknown."""
        if worker_id not in self._known:
            return False
        removed = self._registry.unregister_worker(worker_id)
        self._absent.gone(worker_id, removed)
        self._removed(worker_id, removed)
        self._forget(worker_id)
        self._events.publish(EventType.WORKER_UNREGISTERED, worker_id=worker_id)
        log.info("unregistered", extra={"worker": worker_id})
        return True

    def drop(self, worker_id: str, reason: str) -> None:
        """A worker is lost: its exchanges fail, requests that wait go to what is left."""
        self._lose(worker_id, reason, WorkerClient.close)

    def ended(self, worker_id: str, reason: str) -> None:
        """A worker's process has ended: it is lost, but replies that it had sent still count (`lifecycle.crash.*`)."""
        self._ended[worker_id] = None
        if len(self._ended) > ENDED_REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._lose(worker_id, reason, WorkerClient.read_out)

    def _lose(self, worker_id: str, reason: str, end_connections: Callable[[WorkerClient], None]) -> None:
        known = self._known.get(worker_id)
        if known is None:
            return
        log.warning("worker lost", extra={"worker": worker_id, "reason": reason})
        removed = self._registry.unregister_worker(worker_id)
        self._absent.gone(worker_id, removed)
        self._forget(worker_id)
        end_connections(known.client)
        self._events.publish(EventType.WORKER_LOST, worker_id=worker_id, message=reason)
        self._removed(worker_id, removed)

    def heartbeat(self, worker_id: str, now: float) -> bool:
        """Keeps a worker alive; False asks it to register again."""
        known = self._known.get(worker_id)
        if known is None:
            return False
        known.last_heartbeat = now
        self._absent.there(worker_id)
        self.expect_no_more((worker_id,))
        return True

    def unreachable(self, worker_id: str, error: Unreachable) -> None:
        """No connection could be made: a worker that refuses them and never sent a heartbeat is dropped."""
        known = self._known.get(worker_id)
        log.warning("worker unreachable", extra={"worker": worker_id, "reason": str(error)})
        if known is not None and known.last_heartbeat is None and error.refused:
            self.drop(worker_id, f"refuses connections: {error}")

    def succeeded(self, registration: Registration, reply: bytes | None = None) -> None:
        """An exchange went by the rules, and maybe had one reply: violations are no longer in a row."""
        known = self._known.get(registration.worker_id)
        if known is None:
            return
        known.violations = 0
        if known.shared_memory and reply is not None:
            known.last_replies[registration.key] = len(reply)

    def sweep(self, now: float) -> None:
        """Drops the workers whose heartbeats have stopped."""
        for known in tuple(self._known.values()):
            if known.last_heartbeat is not None and now - known.last_heartbeat > self._config.heartbeat_timeout:
                self.drop(known.worker_id, f"no heartbeat for {self._config.heartbeat_timeout:g} s")

    def close(self) -> None:
        """Closes the connections to all workers."""
        for known in self._known.values():
            known.client.close()
        self._memory.close()

    def _violated(self, worker_id: str, violation: Exception) -> None:
        known = self._known.get(worker_id)
        if known is None:
            return
        known.violations += 1
        log.warning(
            "protocol violation",
            extra={"worker": worker_id, "violation": str(violation), "in_a_row": known.violations},
        )
        if known.violations >= VIOLATION_LIMIT:
            self.drop(worker_id, f"broke the protocol {VIOLATION_LIMIT} times in a row: {violation}")

    def _new_client(self, registration: Registration) -> WorkerClient:
        return WorkerClient(
            registration.socket_path,
            max_frame_bytes=self._config.max_message_bytes,
            connect_timeout=self._config.connect_timeout,
            on_violation=lambda violation: self._violated(registration.worker_id, violation),
        )

    def _removed(self, worker_id: str, registrations: list[Registration]) -> None:
        self._changed(worker_id)
        for registration in registrations:
            self._events.publish(EventType.MODEL_UNREGISTERED, worker_id=worker_id, registration=registration)

    def _changed(self, worker_id: str) -> None:
        if not self._registry.of_worker(worker_id):
            self._admission.forget_worker(worker_id)
        self._admission.reconsider()

    def _forget(self, worker_id: str) -> None:
        known = self._known.pop(worker_id, None)
        if known is not None:
            known.client.retire()
