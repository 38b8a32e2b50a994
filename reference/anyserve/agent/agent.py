"""The reference agent: owns the parts, starts and stops them.

Everything runs on one asyncio loop; several agents can run in one process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio

from anyserve import rpc
from anyserve._proto import grpc_predict_v2_pb2, worker_management_pb2
from anyserve.agent.config import AgentConfig, PortInUse, UnknownLimit
from anyserve.agent.dispatcher import Dispatcher
from anyserve.agent.events import Event, EventLog, EventType
from anyserve.agent.kserve_service import KServeService
from anyserve.agent.management_service import ManagementService
from anyserve.agent.model_info import Lifecycle, ModelInfo
from anyserve.agent.queues import Admission
from anyserve.agent.registry import Registry
from anyserve.agent.standard_services import StandardServices
from anyserve.agent.statistics import Statistics
from anyserve.agent.tls import server_credentials
from anyserve.agent.workers import Workers
from anyserve.sockets import remove_if_stale

__all__ = ["Agent", "PortInUse"]

log = logging.getLogger(__name__)

KSERVE = grpc_predict_v2_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
MANAGEMENT = worker_management_pb2.DESCRIPTOR.services_by_name["WorkerManagement"]
MANAGEMENT_MESSAGE_BYTES = 1 << 20
SWEEPS_PER_TIMEOUT = 4
LAST_REPLIES = 1.0
"""Seconds for replies on their way when the calls have ended; then the connections are closed."""


class Agent:
    """One agent: the client port, the management port and all between them.

    Args:
        config: its settings.

    Raises:
        UnknownLimit: grpcio has no such limit, or this agent no such setting.
    """

    def __init__(self, config: AgentConfig | None = None) -> None:
        self._config = config = config or AgentConfig()
        if config.io_threads > 1:
            raise UnknownLimit("--io-threads: the reference agent has one thread; use --impl native")
        self._http2_options = _http2_options(config.http2_limits)
        self.instance_secret = secrets.token_hex(16)
        """Told to the workers that this instance starts: their calls are let in while it drains."""
        self._registry = Registry(max_workers=config.max_workers, max_registrations=config.max_registrations)
        self._admission = Admission(config.queue_size, config.default_max_concurrency)
        self._events = EventLog(config.max_watchers)
        self._statistics = Statistics(config.max_registrations)
        self._workers = Workers(config, self._registry, self._admission, self._events)
        self._info = ModelInfo(self._registry, self._statistics)
        dispatcher = Dispatcher(self._registry, self._admission, self._workers, self._statistics)
        self._kserve = KServeService(
            config, dispatcher, self._info, ready=lambda: self.ready, instance_secret=self.instance_secret
        )
        self._management = ManagementService(
            config,
            registry=self._registry,
            admission=self._admission,
            workers=self._workers,
            events=self._events,
            statistics=self._statistics,
        )
        self._standard = StandardServices(grpc_predict_v2_pb2.DESCRIPTOR, (KSERVE.full_name,))
        self._tasks: list[asyncio.Task[None]] = []
        self._serving = False
        self._ready = asyncio.Event()
        self.port = 0
        """The bound client port; 0 for a Unix socket."""
        self.management_port = 0
        """The bound management port."""

    @property
    def ready(self) -> bool:
        """What ServerReady answers (`serving.ready`)."""
        return self._serving and self._workers.all_launched_registered.is_set()

    def expect_workers(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait until these workers have registered once."""
        self._workers.expect(worker_ids)

    def expect_no_more(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait for these workers no longer."""
        self._workers.expect_no_more(worker_ids)

    def keep_worker(self, place: str, worker_id: str | None) -> None:
        """The instance keeps a worker running at a place, and now it is this one; None: it does so no longer.

        While a worker that is kept is not there its requests get UNAVAILABLE (`lifecycle.crash.unavailable`).
        """
        self._workers.keep(place, worker_id)

    def worker_ended(self, worker_id: str, reason: str) -> None:
        """Drops a worker whose process has ended, unless it has taken its leave (`lifecycle.crash.dropped`)."""
        self._workers.ended(worker_id, reason)

    def set_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Hands RepositoryModelLoad and RepositoryModelUnload to whoever starts and stops workers."""
        self._info.lifecycle = lifecycle

    async def wait_ready(self) -> None:
        """Returns once `ready` has become true."""
        await self._ready.wait()

    def events(self) -> AbstractContextManager[AsyncIterator[Event]]:
        """Registrations, losses and state changes from the moment of entering on."""
        return self._events.watching()

    async def start(self) -> None:
        """Listens on both ports.

        Raises:
            PortInUse: an address cannot be listened on.
            TlsFileError: a file of TLS cannot be used.
        """
        config = self._config
        credentials = None
        if config.tls_cert is not None and config.tls_key is not None:
            credentials = server_credentials(config.tls_cert, config.tls_key, config.tls_client_ca)
        self._server = grpc.aio.server(
            options=[*_server_options(config.max_message_bytes), *self._http2_options],
            maximum_concurrent_rpcs=config.max_concurrent_rpcs,
        )
        self._server.add_generic_rpc_handlers(
            (rpc.handler(KSERVE, self._kserve.methods(), raw=KServeService.RAW, aio=True),)
        )
        self._standard.add_to(self._server)
        self._management_server = grpc.aio.server(
            options=_server_options(MANAGEMENT_MESSAGE_BYTES),
            maximum_concurrent_rpcs=config.max_concurrent_rpcs,
            interceptors=self._management.interceptors(),
        )
        self._management_server.add_generic_rpc_handlers(
            (rpc.handler(MANAGEMENT, self._management.methods(), aio=True),)
        )
        try:
            if config.unix_path is not None:
                _bind_unix(self._server, config.unix_path, credentials)
            else:
                self.port = _bind(self._server, config.host, config.port, credentials)
            if config.private_socket is not None:
                _bind_unix(self._server, config.private_socket)
            self.management_port = _bind(self._management_server, config.management_host, config.management_port)
        except PortInUse:
            await self._server.start()  # a server that never started does not give up its port
            await self._server.stop(None)
            raise
        self._standard.set_serving(False)
        await self._management_server.start()
        await self._server.start()
        self._serving = True
        self._tasks = [asyncio.create_task(self._sweep()), asyncio.create_task(self._become_ready())]

    async def stop(self, grace: float = 30.0, *, stop_workers: Callable[[], Any] | None = None) -> None:
        """Drains and stops (`lifecycle.drain`): no new calls, those under way have `grace` seconds.

        Args:
            grace: seconds that calls under way may take.
            stop_workers: awaited after the client side has ended, while workers
                can still take their leave at the management port.
        """
        self._serving = False
        self._kserve.begin_drain()
        log.info("draining", extra={"grace": grace})
        self._events.publish(EventType.SERVER_DRAINING)
        self._standard.set_serving(False)
        self._standard.close()
        await self._kserve.calls_ended(grace)
        await self._server.stop(LAST_REPLIES)
        if stop_workers is not None:
            await stop_workers()
        for task in self._tasks:
            task.cancel()
        self._management.close()
        await self._management_server.stop(1.0)
        self._workers.close()
        log.info("stopped")

    async def hurry(self) -> None:
        """Cuts a `stop` under way short: calls under way are cancelled now."""
        await self._server.stop(None)

    def snapshot(self) -> Mapping[str, Any]:
        """What there is now: readiness, workers, models, queues."""
        return {
            "ready": self.ready,
            "workers": {
                worker.worker_id: {
                    "in_flight": self._admission.in_flight(worker.worker_id),
                    "connections": worker.client.connections,
                    "models": [r.model_name for r in self._registry.of_worker(worker.worker_id)],
                }
                for worker in self._workers
            },
            "registrations": len(self._registry),
            "waiting": self._admission.waiting,
            "queues": {str(key): depth for key, depth in self._admission.depths().items()},
        }

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._config.heartbeat_timeout / SWEEPS_PER_TIMEOUT)
            self._workers.sweep(loop.time())

    async def _become_ready(self) -> None:
        await self._workers.all_launched_registered.wait()
        self._standard.set_serving(True)
        self._events.publish(EventType.SERVER_READY)
        self._ready.set()


def _server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),  # replies are bounded where they are read: frames from workers
        ("grpc.so_reuseport", 0),  # a second agent on the same port is an error, not a silent share
    ]


GRPCIO_LIMITS = {
    "max-streams": ("grpc.max_concurrent_streams", 1),
    "max-header-list-bytes": ("grpc.max_metadata_size", 1),
    "idle-timeout": ("grpc.max_connection_idle_ms", 1000),
}
"""Limits of HTTP/2 that grpcio has too, as its options, and what their values are multiplied by."""


def _http2_options(limits: Iterable[tuple[str, float]]) -> list[tuple[str, int]]:
    options = []
    for name, value in limits:
        if name not in GRPCIO_LIMITS:
            raise UnknownLimit(
                f"--http2-limit: the reference agent has no limit {name}, only {', '.join(sorted(GRPCIO_LIMITS))}"
            )
        option, factor = GRPCIO_LIMITS[name]
        if not 0 < value * factor < 1 << 31:
            raise UnknownLimit(f"--http2-limit: {name} is out of range")
        options.append((option, int(value * factor)))
    return options


def _bind(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
    """Listens on an address, by TLS if there are credentials; returns the port."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with _refusals(address):
        # Tried with a socket first: what grpcio says of a failure is its own log line, and no reason.
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
        return _add_port(server, address, credentials)


def _bind_unix(server: grpc.aio.Server, path: str, credentials: grpc.ServerCredentials | None = None) -> None:
    """Listens on a Unix socket, whose file is our own user's alone and ends with the server."""
    with _refusals(f"unix:{path}"):
        remove_if_stale(path)
        with socket.socket(socket.AF_UNIX) as trial:  # grpcio would take the file of a server that listens
            trial.bind(path)
        os.unlink(path)
        mask = os.umask(0o177)
        try:
            _add_port(server, f"unix:{quote(path)}", credentials)
        finally:
            os.umask(mask)


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise PortInUse(f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}") from error
    except RuntimeError as error:
        raise PortInUse(f"cannot listen on {address}") from error


def _add_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)
