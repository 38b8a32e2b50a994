"""Starts the worker processes of an app, keeps them running, replaces and stops them.

The agent does not know this room: workers register with it like any other.
Rules: spec `lifecycle.*`, wire.md section 7.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from anyserve.control.worker_process import GroupInfo, LaunchOptions, WorkerProcess
from anyserve.errors import Code, InferenceError

__all__ = ["StartFailed", "Supervisor"]

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
STABLE_AFTER = 60.0
"""A worker that ran so long is no longer in a crash loop: the next backoff is the first again."""


class StartFailed(Exception):
    """The app did not come up; the message says why."""


class AgentReadiness(Protocol):
    """What the supervisor needs of an agent."""

    def expect_workers(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait for these workers."""
        ...

    def expect_no_more(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait for these workers no longer."""
        ...


class _Place:
    """One worker process that should be running: of a group, by number."""

    def __init__(self, supervisor: Supervisor, group: int, number: int) -> None:
        self._supervisor = supervisor
        self._group = group
        self._number = number
        self.process: WorkerProcess | None = None
        self._backoff = FIRST_BACKOFF
        self._keeper: asyncio.Task[None] | None = None

    @property
    def group(self) -> int:
        return self._group

    @property
    def wanted(self) -> bool:
        """Whether a process should be running here."""
        return self._keeper is not None

    async def launch(self) -> WorkerProcess:
        """Starts a process here, without waiting for it."""
        worker_id = f"w{self._group}-{self._number}-{secrets.token_hex(4)}"
        process = await WorkerProcess.start(self._supervisor.launch_options, worker_id, self._group)
        self.process = process
        return process

    def keep(self) -> None:
        """From now on restarts the process when it ends."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Drains and stops the process, and starts it no more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
            self._keeper = None
        if self.process is not None:
            await self.process.stop(self._supervisor.launch_options.grace)
            self.process = None

    async def replace(self) -> bool:
        """Starts a new process, and stops the old one when the new has registered; False if it did not."""
        old = self.process
        new = await self.launch()
        if not await new.wait_registered():
            log.error("the new worker failed; the old one stays", extra={"reason": new.failure})
            self.process = old
            return False
        if old is not None:
            await old.stop(self._supervisor.launch_options.grace)
        return True

    async def _keep(self) -> None:
        while True:
            process = self.process
            started = time.monotonic()
            if process is not None:
                await process.wait()
                if process is not self.process:
                    continue  # it was replaced
                if process.status == 0:
                    log.info("worker ended", extra={"worker": process.worker_id})
                else:
                    log.error("worker crashed", extra={"worker": process.worker_id, "reason": process.failure})
            if time.monotonic() - started > STABLE_AFTER:
                self._backoff = FIRST_BACKOFF
            log.info("restarting a worker", extra={"group": self._group, "after": self._backoff})
            await asyncio.sleep(self._backoff)
            self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)
            try:
                await self.launch()
            except OSError as error:
                self.process = None
                log.error("cannot start a worker", extra={"reason": str(error)})


class Supervisor:
    """All worker processes of one app.

    Args:
        launch_options: how to start a worker.
        workers: processes per group.
        agent: told for which workers readiness waits.
    """

    def __init__(self, launch_options: LaunchOptions, workers: int, agent: AgentReadiness) -> None:
        self.launch_options = launch_options
        self._workers = workers
        self._agent = agent
        self._places: list[_Place] = []
        self._groups: Sequence[GroupInfo] = ()
        self.capabilities: Sequence[str] = ()
        """What the app declares, for people to read."""

    async def start(self) -> None:
        """Starts the app's workers and waits until all of them have registered.

        The first process tells what groups the app has; the app is not loaded here.

        Raises:
            StartFailed: a worker ended before it had registered. No process is left.
        """
        first = _Place(self, 0, 0)
        self._places = [first]
        try:
            process = await self._launch_expected(first)
            loaded = await process.wait_loaded()
            if loaded is None:
                raise StartFailed(process.failure)
            self._groups, self.capabilities = loaded.groups, loaded.capabilities
            others = [_Place(self, g, n) for g in range(len(self._groups)) for n in range(self._workers)][1:]
            self._places += others
            for place in others:
                await self._launch_expected(place)
            await self._wait_all_registered()
        except OSError as error:
            await self.stop()
            raise StartFailed(f"cannot start a worker process: {error}") from error
        except BaseException:
            await self.stop()
            raise
        for place in self._places:
            place.keep()

    async def stop(self) -> None:
        """Drains and stops every worker (`lifecycle.drain`)."""
        await asyncio.gather(*(place.stop() for place in self._places))

    def kill(self) -> None:
        """Kills every worker at once; what waits for them ends soon after."""
        for place in self._places:
            if place.process is not None:
                place.process.kill()

    async def reload(self) -> None:
        """Replaces every worker by a new one with the app as it is now; one that fails to start replaces nothing."""
        for place in self._places:
            if place.wanted and not await place.replace():
                return
        log.info("reloaded")

    async def load(self, model_name: str) -> bool:
        """Starts the workers that serve a model and waits for them; False if the app does not declare it.

        Raises:
            InferenceError: UNAVAILABLE, a worker did not come up.
        """
        places = self._places_of(model_name)
        for place in places:
            if place.wanted:
                continue
            process = await place.launch()
            if not await process.wait_registered():
                raise InferenceError(Code.UNAVAILABLE, f"model {model_name!r}: its worker did not start; see the logs")
            place.keep()
        return bool(places)

    async def unload(self, model_name: str) -> bool:
        """Drains and stops the workers that serve a model; False if the app does not declare it.

        Raises:
            InferenceError: FAILED_PRECONDITION, they serve other models too.
        """
        places = self._places_of(model_name)
        for place in places:
            others = [m for m in self._groups[place.group].models if m != model_name]
            if others:
                raise InferenceError(
                    Code.FAILED_PRECONDITION,
                    f"model {model_name!r} shares its workers with {', '.join(map(repr, others))}; "
                    "give it a class of its own with @app.worker to unload it alone",
                )
        await asyncio.gather(*(place.stop() for place in places))
        return bool(places)

    def _places_of(self, model_name: str) -> list[_Place]:
        return [place for place in self._places if model_name in self._groups[place.group].models]

    async def _launch_expected(self, place: _Place) -> WorkerProcess:
        process = await place.launch()
        self._agent.expect_workers((process.worker_id,))
        return process

    async def _wait_all_registered(self) -> None:
        processes = [place.process for place in self._places if place.process is not None]
        waits = {asyncio.ensure_future(process.wait_registered()): process for process in processes}
        try:
            pending = set(waits)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for wait in done:
                    if not wait.result():
                        raise StartFailed(waits[wait].failure)
        finally:
            for wait in waits:
                wait.cancel()
