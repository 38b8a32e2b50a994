"""The management side: workers register, send heartbeats and leave; operators list and watch.

Checks what comes over the wire and turns it into calls of `Workers`. Rules: spec
`manage.*`, wire.md section 3.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

import grpc

from anyserve._proto import worker_management_pb2 as pb
from anyserve.agent.config import AgentConfig
from anyserve.agent.events import Event, EventLog, EventType, TooManyWatchers, WatcherTooSlow
from anyserve.agent.grpc_calls import Context, aborting, carries
from anyserve.agent.queues import Admission
from anyserve.agent.registry import Registration, Registry, RegistryFull, TensorMetadata
from anyserve.agent.statistics import Statistics
from anyserve.agent.workers import KnownWorker, WorkerEnded, Workers
from anyserve.capability import Capability, InvalidCapability
from anyserve.errors import Code, InferenceError
from anyserve.wire import MAX_CONCURRENCY, MAX_SOCKET_PATH

__all__ = ["ManagementService", "registration_of"]

SERVICE = pb.DESCRIPTOR.services_by_name["WorkerManagement"].full_name
ADDRESS_PREFIX = "unix://"
MAX_NAME_LENGTH = 256
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]*")


class _TokenRequired(grpc.aio.ServerInterceptor):
    """Refuses calls whose `authorization` is another one."""

    def __init__(self, authorization: str) -> None:
        self._authorization = authorization

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        ours = details.method.startswith(f"/{SERVICE}/")
        if not ours or carries(details.invocation_metadata, "authorization", self._authorization):
            return await continuation(details)
        return grpc.unary_unary_rpc_method_handler(aborting(self._refuse))

    @staticmethod
    async def _refuse(_request: bytes, _context: Context) -> None:
        raise InferenceError(Code.UNAUTHENTICATED, "this management port needs 'authorization: Bearer <token>'")


class ManagementService:
    """The RPCs of `anyserve.WorkerManagement`."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        registry: Registry,
        admission: Admission,
        workers: Workers,
        events: EventLog,
        statistics: Statistics,
    ) -> None:
        self._config = config
        self._registry = registry
        self._admission = admission
        self._workers = workers
        self._events = events
        self._statistics = statistics

    def methods(self) -> Mapping[str, Callable[..., Any]]:
        """RPC name -> its handler."""
        return {
            "RegisterModel": self._guarded(self.register_model),
            "UnregisterModel": self._guarded(self.unregister_model),
            "Heartbeat": self._guarded(self.heartbeat),
            "UnregisterWorker": self._guarded(self.unregister_worker),
            "ListWorkers": self._guarded(self.list_workers),
            "WatchEvents": aborting(self.watch_events),
        }

    def interceptors(self) -> Sequence[grpc.aio.ServerInterceptor]:
        """What comes before the handlers: the token, which is looked at before the request (`manage.token.*`)."""
        token = self._config.management_token
        return () if token is None else (_TokenRequired(f"Bearer {token}"),)

    def close(self) -> None:
        """Ends the calls that watch events, each when its client has taken the last one."""
        self._events.close()

    @staticmethod
    def _guarded(handler: Callable[[Any], Any]) -> Callable[..., Any]:
        @wraps(handler)
        async def call(request: Any, _context: Context) -> Any:
            return handler(request)

        return aborting(call)

    def register_model(self, request: pb.RegisterModelRequest) -> pb.RegisterModelResponse:
        try:
            self._workers.register(registration_of(request))
        except RegistryFull as error:
            raise InferenceError(Code.RESOURCE_EXHAUSTED, str(error)) from error
        except WorkerEnded as error:
            raise InferenceError(Code.FAILED_PRECONDITION, str(error)) from error
        shared = self._workers.takes_shared_memory(request.worker_id)
        return pb.RegisterModelResponse(success=True, message="registered", shared_memory=shared)

    def unregister_model(self, request: pb.UnregisterModelRequest) -> pb.UnregisterModelResponse:
        if not request.worker_id:
            raise InferenceError(Code.INVALID_ARGUMENT, "worker_id is empty")
        if self._workers.unregister_model(request.worker_id, request.model_name, request.model_version):
            return pb.UnregisterModelResponse(success=True, message="unregistered")
        return pb.UnregisterModelResponse(
            success=False,
            message=f"worker {request.worker_id!r} has not registered model {request.model_name!r} "
            f"version {request.model_version!r}",
        )

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        now = asyncio.get_running_loop().time()
        healthy = self._workers.heartbeat(request.worker_id, now)
        if healthy and request.batches:
            self._count(request.worker_id, request.batches)
        return pb.HeartbeatResponse(healthy=healthy)

    def _count(self, worker_id: str, batches: Iterable[pb.BatchStatistics]) -> None:
        """Counts the batches of a worker, as far as it has registered what they are of."""
        registered = {(r.listed_name, r.listed_version): r for r in self._registry.of_worker(worker_id)}
        for told in batches:
            registration = registered.get((told.model_name, told.model_version))
            if registration is not None and told.batch_size and told.count:
                self._statistics.batched(registration, told.batch_size, told.count, told.compute_ns)

    def unregister_worker(self, request: pb.UnregisterWorkerRequest) -> pb.UnregisterWorkerResponse:
        if not request.worker_id:
            raise InferenceError(Code.INVALID_ARGUMENT, "worker_id is empty")
        if self._workers.unregister_worker(request.worker_id):
            return pb.UnregisterWorkerResponse(success=True, message="unregistered")
        return pb.UnregisterWorkerResponse(success=False, message=f"worker {request.worker_id!r} is not registered")

    def list_workers(self, _request: pb.ListWorkersRequest) -> pb.ListWorkersResponse:
        return pb.ListWorkersResponse(workers=map(self._worker_message, self._workers))

    async def watch_events(self, request: pb.WatchEventsRequest, context: Context) -> None:
        try:
            with self._events.watching() as events:
                # Taken at this very moment: nothing is told twice or missed between what exists and what comes.
                existing = tuple(self._registry) if request.include_existing else ()
                sequence = self._events.sequence
                await context.send_initial_metadata(())  # tells the client that it misses nothing from here on
                await self._tell(events, existing, sequence, context)
        except (TooManyWatchers, WatcherTooSlow) as error:
            raise InferenceError(Code.RESOURCE_EXHAUSTED, str(error)) from error

    @staticmethod
    async def _tell(
        events: AsyncIterator[Event], existing: Iterable[Registration], sequence: int, context: Context
    ) -> None:
        for registration in existing:
            await context.write(
                pb.Event(
                    sequence=sequence,
                    time_unix_ms=time.time_ns() // 1_000_000,
                    type=EventType.MODEL_REGISTERED.name,
                    worker_id=registration.worker_id,
                    registration=_registration_message(registration),
                )
            )
        async for event in events:
            await context.write(_event_message(event))

    def _worker_message(self, worker: KnownWorker) -> pb.Worker:
        now = asyncio.get_running_loop().time()
        age = -1 if worker.last_heartbeat is None else int((now - worker.last_heartbeat) * 1000)
        return pb.Worker(
            worker_id=worker.worker_id,
            address=ADDRESS_PREFIX + worker.client.path,
            registrations=map(_registration_message, self._registry.of_worker(worker.worker_id)),
            in_flight=self._admission.in_flight(worker.worker_id),
            connections=worker.client.connections,
            heartbeat_age_ms=age,
        )


def registration_of(request: pb.RegisterModelRequest) -> Registration:
    """Checks a RegisterModelRequest and reads it.

    Raises:
        InferenceError: INVALID_ARGUMENT; the message names the field and what is wrong with it.
    """
    for name in ("model_name", "model_version", "worker_id", "platform"):
        _check_text(name, getattr(request, name))
    if not request.worker_id:
        raise InferenceError(Code.INVALID_ARGUMENT, "worker_id is empty")
    if not request.model_name and not request.capability:
        raise InferenceError(Code.INVALID_ARGUMENT, "model_name and capability are both empty: set at least one")
    if request.max_concurrency > MAX_CONCURRENCY:
        raise InferenceError(
            Code.INVALID_ARGUMENT, f"max_concurrency is {request.max_concurrency}, at most {MAX_CONCURRENCY}"
        )
    return Registration(
        worker_id=request.worker_id,
        socket_path=_socket_path(request.worker_address),
        model_name=request.model_name,
        model_version=request.model_version,
        capability=_capability(request),
        annotate=bool(request.capability),
        stream=request.stream,
        max_concurrency=request.max_concurrency,
        priority=request.priority,
        inputs=tuple(TensorMetadata(t.name, t.datatype, tuple(t.shape)) for t in request.inputs),
        outputs=tuple(TensorMetadata(t.name, t.datatype, tuple(t.shape)) for t in request.outputs),
        platform=request.platform,
        shared_memory=request.shared_memory,
    )


def _check_text(name: str, value: str) -> None:
    if len(value) > MAX_NAME_LENGTH or not _PRINTABLE.fullmatch(value):
        raise InferenceError(
            Code.INVALID_ARGUMENT, f"{name} must have at most {MAX_NAME_LENGTH} characters, none of them control"
        )


def _socket_path(address: str) -> str:
    path = address.removeprefix(ADDRESS_PREFIX)
    if not address.startswith(ADDRESS_PREFIX) or not path.startswith("/") or "\0" in path:
        raise InferenceError(
            Code.INVALID_ARGUMENT, f"worker_address {address[:120]!r} must be {ADDRESS_PREFIX} and an absolute path"
        )
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise InferenceError(
            Code.INVALID_ARGUMENT,
            f"worker_address: a Unix socket's path has at most {MAX_SOCKET_PATH} bytes, got {len(path.encode())}",
        )
    return path


def _capability(request: pb.RegisterModelRequest) -> Capability:
    items = dict(request.capability)
    if not items:
        items = {"type": request.model_name}
        if request.model_version:
            items["model"] = request.model_version
    try:
        return Capability(items)
    except InvalidCapability as error:
        raise InferenceError(Code.INVALID_ARGUMENT, str(error)) from error


def _registration_message(registration: Registration) -> pb.Registration:
    return pb.Registration(
        model_name=registration.model_name,
        model_version=registration.model_version,
        capability=registration.capability,
        stream=registration.stream,
        max_concurrency=registration.max_concurrency,
        priority=registration.priority,
        platform=registration.platform,
    )


def _event_message(event: Event) -> pb.Event:
    return pb.Event(
        sequence=event.sequence,
        time_unix_ms=event.time_unix_ms,
        type=event.type.name,
        worker_id=event.worker_id,
        registration=_registration_message(event.registration) if event.registration else None,
        message=event.message,
    )
