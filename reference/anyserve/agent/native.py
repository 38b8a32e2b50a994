"""The native agent as Python sees it: the same functions as `anyserve.agent.Agent`, over a thread in C++.

The thread never takes the interpreter's lock: what it has to tell comes by a queue,
of which the event loop is told by a descriptor. Needs `anyserve._native`, which is
there where a compiler was when anyserve was installed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from anyserve.agent.config import AgentConfig, PortInUse, TlsFileError, UnknownLimit
from anyserve.agent.events import Event, EventLog, EventType
from anyserve.agent.registry import Registration
from anyserve.capability import decode_capability
from anyserve.errors import Code, InferenceError

if TYPE_CHECKING:
    from anyserve.agent.model_info import Lifecycle

__all__ = ["NativeAgent"]

log = logging.getLogger(__name__)


class NativeAgent:
    """One agent: the client port, the management port and all between them.

    To be made, started and stopped on one event loop.

    Args:
        config: its settings.

    Raises:
        ImportError: this installation has no native agent.
        UnknownLimit: there is no such limit, or its value is out of range.
    """

    def __init__(self, config: AgentConfig | None = None) -> None:
        from anyserve import _native  # noqa: PLC0415 (not in every installation)

        self.instance_secret = secrets.token_hex(16)
        """Told to the workers that this instance starts: their calls are let in while it drains."""
        config = config or AgentConfig()
        try:
            self._thread = _native.AgentThread(config, self.instance_secret, version("anyserve"))
        except ValueError as error:
            raise UnknownLimit(f"--http2-limit: {error}") from None
        self._ready = asyncio.Event()
        self._drained = asyncio.Event()
        self._stopped = asyncio.Event()
        self._lifecycle: Lifecycle | None = None
        self._loading: set[asyncio.Task[None]] = set()
        self._events = EventLog(config.max_watchers)
        self.port = 0
        """The bound client port."""
        self.management_port = 0
        """The bound management port."""

    @property
    def ready(self) -> bool:
        """What ServerReady answers (`serving.ready`)."""
        return bool(self.snapshot()["ready"])

    def expect_workers(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait until these workers have registered once."""
        self._thread.expect_workers(list(worker_ids))

    def expect_no_more(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait for these workers no longer."""
        self._thread.expect_no_more(list(worker_ids))

    def keep_worker(self, place: str, worker_id: str | None) -> None:
        """The instance keeps a worker running at a place, and now it is this one; None: it does so no longer."""
        self._thread.keep_worker(place, worker_id)

    def worker_ended(self, worker_id: str, reason: str) -> None:
        """Drops a worker whose process has ended, unless it has taken its leave (`lifecycle.crash.dropped`)."""
        self._thread.worker_ended(worker_id, reason)

    def set_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Hands RepositoryModelLoad and RepositoryModelUnload to whoever starts and stops workers."""
        self._lifecycle = lifecycle
        self._thread.serve_lifecycle()

    async def wait_ready(self) -> None:
        """Returns once `ready` has become true."""
        await self._ready.wait()

    def events(self) -> AbstractContextManager[AsyncIterator[Event]]:
        """Registrations, losses and state changes from the moment of entering on; of registrations no tensors."""
        self._thread.watch()
        return self._events.watching()

    async def start(self) -> None:
        """Listens on both ports.

        Raises:
            PortInUse: an address cannot be listened on.
            TlsFileError: a file of TLS cannot be used.
        """
        try:
            self.port, self.management_port = self._thread.start()
        except RuntimeError as error:
            raise PortInUse(str(error)) from None
        except ValueError as error:
            raise TlsFileError(str(error)) from None
        asyncio.get_running_loop().add_reader(self._thread.descriptor(), self._take_notices)

    async def stop(self, grace: float = 30.0, *, stop_workers: Callable[[], Any] | None = None) -> None:
        """Drains and stops (`lifecycle.drain`): no new calls, those under way have `grace` seconds.

        Args:
            grace: seconds that calls under way may take.
            stop_workers: awaited after the client side has ended, while workers
                can still take their leave at the management port.
        """
        self._thread.begin_stop(grace)
        await self._drained.wait()
        if stop_workers is not None:
            await stop_workers()
        self._thread.finish_stop()
        await self._stopped.wait()
        self._events.close()
        asyncio.get_running_loop().remove_reader(self._thread.descriptor())

    async def hurry(self) -> None:
        """Cuts a `stop` under way short: calls under way are cancelled now."""
        self._thread.hurry()

    def snapshot(self) -> Mapping[str, Any]:
        """What there is now: readiness, workers, models, queues."""
        snapshot: dict[str, Any] = self._thread.snapshot()
        return snapshot

    # What the thread tells.

    def _take_notices(self) -> None:
        notices, dropped = self._thread.take_notices()
        for kind, *content in notices:
            self._NOTICES[kind](self, *content)
        if dropped:
            log.warning("log lines and events were dropped", extra={"dropped": dropped})

    def _log(self, level: int, message: str, fields: Mapping[str, str]) -> None:
        log.log(level, message, extra=dict(fields))

    def _event(self, event: dict[str, Any], registration: dict[str, Any] | None) -> None:
        event["type"] = EventType(event["type"])
        if registration is not None:
            registration["capability"] = decode_capability(registration["capability"])
            event["registration"] = Registration(**registration)
        self._events.tell(Event(**event))

    def _load(self, number: int, model_name: str) -> None:
        self._ask(number, "load", model_name)

    def _unload(self, number: int, model_name: str) -> None:
        self._ask(number, "unload", model_name)

    def _ask(self, number: int, what: str, model_name: str) -> None:
        task = asyncio.create_task(self._answer(number, what, model_name))
        self._loading.add(task)  # a task that nobody holds may be collected
        task.add_done_callback(self._loading.discard)

    async def _answer(self, number: int, what: str, model_name: str) -> None:
        try:
            done = await getattr(self._lifecycle, what)(model_name)
        except InferenceError as error:
            self._thread.lifecycle_failed(number, int(error.code), error.message)
        except Exception:
            log.exception("the model could not be %sed", what)
            self._thread.lifecycle_failed(number, int(Code.INTERNAL), f"the model could not be {what}ed")
        else:
            self._thread.lifecycle_done(number, done)

    _NOTICES: Mapping[str, Callable[..., None]] = {
        "log": _log,
        "event": _event,
        "ready": lambda self: self._ready.set(),
        "drained": lambda self: self._drained.set(),
        "stopped": lambda self: self._stopped.set(),
        "load": _load,
        "unload": _unload,
    }
