"""The life of one worker process: load, start, register, serve, drain, clean up.

It ends on SIGTERM, when no agent answers for `orphan_timeout`, or when the agent
refuses it; `on_cleanup` runs in each case. Rules: spec `lifecycle.worker.*`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyserve.app import AnyServe, Declaration, Group, Worker
from anyserve.client import AsyncAnyserveClient
from anyserve.framing import MAX_ANNOTATION_BYTES
from anyserve.handlers import Handler
from anyserve.sockets import remove_if_stale, socket_path
from anyserve.worker.batching import Batcher
from anyserve.worker.call_counts import CallCounts
from anyserve.worker.context import Contexts
from anyserve.worker.exchange import Exchanges, Served
from anyserve.worker.loader import AppNotFound, load_app
from anyserve.worker.loops import available_worker_io
from anyserve.worker.registration import Orphaned, Registrar, Rejected
from anyserve.worker.report import Report
from anyserve.worker.server import WorkerServer

if TYPE_CHECKING:
    from anyserve.worker.native_server import NativeServer

__all__ = ["WorkerOptions", "run_worker"]

log = logging.getLogger(__name__)

CLEANUP_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker process is told by whoever starts it."""

    app: str
    factory: bool
    app_dir: str
    group: str | None
    worker_id: str
    socket_dir: str
    management_address: str
    management_token: str | None
    instance_secret: str
    agent_address: str
    max_message_bytes: int
    heartbeat_interval: float
    orphan_timeout: float
    grace: float
    worker_io: str | None = None
    """`python` or `native`; None takes native where it is installed."""


def run_worker(options: WorkerOptions, report: Report) -> int:
    """Runs a worker to its end; returns the process's exit status."""
    signal.signal(signal.SIGTERM, _exit_on_signal)  # until the loop takes over: loading may take long
    try:
        group = _load(options, report)
    except _Stopped:
        return 0
    except (AppNotFound, SystemExit) as error:
        report.failed(f"cannot load {options.app}: {_told(error)}")
        return 1
    except Exception as error:
        log.exception("the app failed to load")
        report.failed(f"cannot load {options.app}: {_told(error)}")
        return 1
    try:
        return asyncio.run(_Runtime(options, group, report).run())
    except _Stopped:
        return 0
    except _StartFailed as error:
        report.failed(str(error))
        return 1


def _load(options: WorkerOptions, report: Report) -> Group:
    app: AnyServe = load_app(options.app, factory=options.factory, app_dir=options.app_dir)
    groups = app.groups()
    report.loaded(groups)
    for group in groups:
        if options.group in (None, group.name):
            return group
    raise ValueError(f"the app has no group {options.group!r}, but {', '.join(g.name for g in groups)}")


class _Stopped(BaseException):
    """SIGTERM came before the worker served; not an Exception, so that no handler of the app's takes it for one."""


def _exit_on_signal(_signal: int, _frame: Any) -> None:
    raise _Stopped


def _told(error: BaseException) -> str:
    """An exception in one line, as a user can use it."""
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({os.path.basename(error.filename)}, line {error.lineno})"
        return f"{type(error).__name__}: {error.msg}{where}"
    if type(error).__module__.startswith("anyserve."):
        return str(error)
    return f"{type(error).__name__}: {error}"


class _StartFailed(Exception):
    """The worker could not start serving; the message says why."""


class _Runtime:
    """One worker process from the moment its app is loaded."""

    def __init__(self, options: WorkerOptions, group: Group, report: Report) -> None:
        self._options = options
        self._group = group
        self._report = report
        self._client: AsyncAnyserveClient | None = None
        self._instance: Worker | None = None
        self._batchers: list[Batcher] = []
        self._calls = CallCounts()

    async def run(self) -> int:
        try:
            await self._start_instance()
            return await self._serve()
        finally:
            await self._clean_up()

    async def _serve(self) -> int:
        options = self._options
        stop = asyncio.Event()
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(signal_) is not signal.SIG_IGN:  # a supervised worker leaves Ctrl-C to its agent
                asyncio.get_running_loop().add_signal_handler(signal_, stop.set)
        server = self._server()
        path = socket_path(options.socket_dir, options.worker_id)
        remove_if_stale(path)
        try:
            await server.start(path)
        except OSError as error:
            raise _StartFailed(f"cannot listen on {path}: {error.strerror}") from error
        try:
            return await self._stay_registered(server, path, stop)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
            server.close()
            for batcher in self._batchers:
                batcher.close()

    def _server(self) -> WorkerServer | NativeServer:
        options = self._options
        contexts = Contexts(self._instance_client, options.instance_secret)
        request_bytes, reply_bytes = options.max_message_bytes + MAX_ANNOTATION_BYTES, options.max_message_bytes
        if (options.worker_io or available_worker_io()[-1]) == "native":
            from anyserve.worker.native_server import NativeServer  # noqa: PLC0415 (not in every installation)

            return NativeServer(
                self._served(), max_request_bytes=request_bytes, max_reply_bytes=reply_bytes, contexts=contexts
            )
        exchanges = Exchanges(self._served(), max_frame_bytes=reply_bytes, contexts=contexts)
        return WorkerServer(exchanges, max_frame_bytes=request_bytes)

    async def _stay_registered(self, server: WorkerServer | NativeServer, path: str, stop: asyncio.Event) -> int:
        options = self._options
        registrar = Registrar(
            management_address=options.management_address,
            token=options.management_token,
            worker_id=options.worker_id,
            socket_path=path,
            declarations=self._group.declarations,
            interval=options.heartbeat_interval,
            orphan_timeout=options.orphan_timeout,
            share_memory=server.share_memory,
            calls=self._calls,
        )
        registering = asyncio.ensure_future(registrar.run())
        reporting = asyncio.ensure_future(self._report_registered(registrar))
        stopping = asyncio.ensure_future(stop.wait())
        listening = asyncio.ensure_future(server.keep_listening(path, options.heartbeat_interval))
        await asyncio.wait((registering, stopping), return_when=asyncio.FIRST_COMPLETED)
        status = self._why_stopped(registering, started=registrar.registered.is_set())
        tasks: tuple[asyncio.Future[Any], ...] = (registering, reporting, stopping, listening)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await registrar.leave()
        log.info("draining")
        if not await server.drain(options.grace):
            log.warning("exchanges were cut off", extra={"grace": options.grace})
        await registrar.close()
        return status

    def _why_stopped(self, registering: asyncio.Future[None], *, started: bool) -> int:
        if not registering.done():
            return 0  # SIGTERM
        error = registering.exception()
        if isinstance(error, Orphaned):
            log.warning("leaving", extra={"reason": str(error)})
            if not started:
                self._report.failed(str(error))
            return 0
        log.error("leaving", extra={"reason": str(error)})
        if not isinstance(error, Rejected):
            log.error("the registration loop failed", exc_info=error)
        self._report.failed(str(error))
        return 1

    async def _report_registered(self, registrar: Registrar) -> None:
        await registrar.registered.wait()
        self._report.registered()

    def _served(self) -> list[Served]:
        return [Served(declaration, self._handler(declaration)) for declaration in self._group.declarations]

    def _handler(self, declaration: Declaration) -> Handler:
        """The handler of one request, also where the app's takes several."""
        handler = declaration.handler
        if self._instance is not None:
            handler = handler.bound_to(self._instance)
        if isinstance(handler, Handler):
            return handler
        batcher = Batcher(handler, declaration, self._calls)
        self._batchers.append(batcher)
        return batcher.handler

    def _instance_client(self) -> AsyncAnyserveClient:
        """The client by which handlers reach other capabilities of this instance; made when first needed."""
        if self._client is None:
            self._client = AsyncAnyserveClient(
                self._options.agent_address, max_message_bytes=self._options.max_message_bytes, timeout=None
            )
        return self._client

    async def _start_instance(self) -> None:
        if self._group.worker is None:
            return
        try:
            self._instance = self._group.worker()
            await _maybe_async(self._instance.on_start)
        except (Exception, SystemExit) as error:
            log.exception("on_start failed")
            raise _StartFailed(f"{self._group.name}.on_start failed: {_told(error)}") from error

    async def _clean_up(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._instance is not None:
            try:
                async with asyncio.timeout(CLEANUP_TIMEOUT):
                    await _maybe_async(self._instance.on_cleanup)
            except Exception:
                log.exception("on_cleanup failed")


async def _maybe_async(function: Callable[[], Any]) -> None:
    returned = function()
    if inspect.isawaitable(returned):
        await returned
