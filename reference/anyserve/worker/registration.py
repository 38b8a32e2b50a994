"""A worker's side of the management port: registers, sends heartbeats, takes its leave.

Rules: spec `manage.*`, wire.md section 3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from anyserve import rpc
from anyserve._proto import worker_management_pb2 as pb
from anyserve.app import Declaration
from anyserve.worker.call_counts import CallCounts

__all__ = ["Orphaned", "Registrar", "Rejected"]

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["WorkerManagement"]
CALL_TIMEOUT = 5.0
# gRPC would wait ever longer between connection attempts, and find a restarted agent late.
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # the agent is on this machine, whatever $http_proxy says
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class Orphaned(Exception):
    """No agent has answered for as long as a worker stays without one."""


class Rejected(Exception):
    """The agent refuses the registration; trying again would not help."""


class Registrar:
    """Keeps a worker registered with the agent at one address.

    Args:
        management_address: HOST:PORT.
        token: for `authorization: Bearer`, or None.
        worker_id: this worker.
        socket_path: where it listens.
        declarations: what it serves.
        interval: seconds between heartbeats.
        orphan_timeout: seconds without an agent after which the worker gives up.
        share_memory: takes payloads by shared memory from agents that agree (`manage.register.shared-memory`): called
            with whether that may happen; None: it does not.
        calls: of batch handlers, to be told.
    """

    def __init__(
        self,
        *,
        management_address: str,
        token: str | None,
        worker_id: str,
        socket_path: str,
        declarations: Sequence[Declaration],
        interval: float,
        orphan_timeout: float,
        share_memory: Callable[[bool], None] | None = None,
        calls: CallCounts | None = None,
    ) -> None:
        self.registered = asyncio.Event()
        """Set once the agent has taken all registrations."""
        self._worker_id = worker_id
        self._share_memory = share_memory
        self._requests = [_request(d, worker_id, socket_path) for d in declarations]
        for request in self._requests:
            request.shared_memory = share_memory is not None
        self._model_names = sorted({r.model_name for r in self._requests})
        self._calls = calls or CallCounts()
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._interval = interval
        self._orphan_timeout = orphan_timeout
        self._channel = grpc.aio.insecure_channel(management_address, options=CHANNEL_OPTIONS)
        self._stub = rpc.callables(self._channel, SERVICE)
        self._heard = 0.0  # when the agent answered last

    async def run(self) -> None:
        """Registers and sends heartbeats until cancelled.

        Raises:
            Orphaned: no agent answered for `orphan_timeout`.
            Rejected: the agent refuses the registration.
        """
        loop = asyncio.get_running_loop()
        self._heard = loop.time()
        healthy = False
        while True:
            try:
                healthy = await self._beat(healthy)
            except grpc.aio.AioRpcError as error:
                if error.code() in REFUSALS:
                    raise Rejected(f"the agent refuses this worker: {error.details()}") from error
                if healthy:
                    log.warning("the agent does not answer", extra={"reason": error.code().name})
                healthy = False
                if loop.time() - self._heard > self._orphan_timeout:
                    raise Orphaned(f"no agent has answered for {self._orphan_timeout:g} s") from error
            await asyncio.sleep(self._interval)

    async def leave(self) -> None:
        """Takes leave of the agent, so that it sends no more requests; nothing if it does not answer."""
        try:
            await self._call("UnregisterWorker", pb.UnregisterWorkerRequest(worker_id=self._worker_id))
        except grpc.aio.AioRpcError as error:
            log.info("the agent was not told of the leave", extra={"reason": error.code().name})

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def _call(self, name: str, request: Message) -> Any:
        reply = await self._stub[name](request, metadata=self._metadata, timeout=CALL_TIMEOUT)
        self._heard = asyncio.get_running_loop().time()
        return reply

    async def _beat(self, healthy: bool) -> bool:
        if not healthy:
            await self._register()
        known = await self._send_heartbeat()
        if not known and healthy:
            return await self._beat(healthy=False)  # the agent does not know us: it has restarted
        if known and not healthy:
            log.info("registered", extra={"models": [r.model_name for r in self._requests]})
            self.registered.set()
        return known

    async def _send_heartbeat(self) -> bool:
        """Tells what was called since the agent last knew us; what does not reach it is told again."""
        batches = self._calls.take()
        known = False
        try:
            reply = await self._call(
                "Heartbeat",
                pb.HeartbeatRequest(worker_id=self._worker_id, model_names=self._model_names, batches=batches),
            )
            known = bool(reply.healthy)
        finally:
            if not known:
                self._calls.give_back(batches)
        return known

    async def _register(self) -> None:
        agreed = True  # until it is known: requests may come before the answer
        for request in self._requests:
            if self._share_memory is not None:
                self._share_memory(agreed)
            answer = await self._call("RegisterModel", request)
            if not answer.success:
                raise Rejected(f"the agent refuses this worker: {answer.message}")
            agreed = bool(answer.shared_memory)
        if self._share_memory is not None:
            self._share_memory(agreed)


def _request(declaration: Declaration, worker_id: str, socket_path: str) -> pb.RegisterModelRequest:
    return pb.RegisterModelRequest(
        model_name=declaration.model_name,
        model_version=declaration.model_version,
        worker_address=f"unix://{socket_path}",
        worker_id=worker_id,
        capability=dict(declaration.capability),
        stream=declaration.handler.stream,
        max_concurrency=declaration.max_concurrency,
        priority=declaration.priority,
        inputs=[pb.TensorMetadata(name=t.name, datatype=t.datatype, shape=t.shape) for t in declaration.inputs],
        outputs=[pb.TensorMetadata(name=t.name, datatype=t.datatype, shape=t.shape) for t in declaration.outputs],
        platform=declaration.platform,
    )
