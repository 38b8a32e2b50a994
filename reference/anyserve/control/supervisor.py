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

from anyserve.control.backoff import Backoff
from anyserve.control.worker_process import GroupInfo, LaunchOptions, LoadedApp, WorkerProcess
from anyserve.errors import Code, InferenceError

__all__ = ["StartFailed", "Supervisor"]

log = logging.getLogger(__name__)


class StartFailed(Exception):
    """The app did not come up; the message says why."""


class InstanceAgent(Protocol):
    """What the supervisor needs of an agent."""

    def expect_workers(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait for these workers."""
        ...

    def expect_no_more(self, worker_ids: Collection[str]) -> None:
        """Makes readiness wait for these workers no longer."""
        ...

    def keep_worker(self, place: str, worker_id: str | None) -> None:
        """A place has a worker that is kept running; None: no longer."""
        ...

    def worker_ended(self, worker_id: str, reason: str) -> None:
        """Drops a worker whose process has ended."""
        ...


class _Place:
    """One worker process that should be running."""

    def __init__(
        self, launch_options: LaunchOptions, agent: InstanceAgent, running: set[WorkerProcess], group: str | None
    ) -> None:
        self._launch_options = launch_options
        self._agent = agent
        self._running = running
        self._backoff = Backoff()
        self._keeper: asyncio.Task[None] | None = None
        self._name = secrets.token_hex(4)  # the agent knows it by that
        self.group = group
        """The group's name; None for the first, until the app is loaded."""
        self.process: WorkerProcess | None = None

    @property
    def wanted(self) -> bool:
        """Whether a process should be running here."""
        return self._keeper is not None

    async def launch(self) -> WorkerProcess:
        """Starts a process for this place, without waiting for it or putting it here."""
        worker_id = f"worker-{secrets.token_hex(4)}"
        process = await WorkerProcess.start(self._launch_options, worker_id, self.group, self._agent.worker_ended)
        self._running.add(process)
        process.when_ended(self._running.discard)
        return process

    def put(self, process: WorkerProcess) -> None:
        """Puts a process here; the agent is told that it is meant to stay."""
        self.process = process
        self._agent.keep_worker(self._name, process.worker_id)

    def keep(self, process: WorkerProcess) -> None:
        """Puts a process here and from now on restarts it when it ends."""
        self.put(process)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Drains and stops the process, and starts it no more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
            self._keeper = None
        self._agent.keep_worker(self._name, None)
        if self.process is not None:
            await self.process.stop(self._launch_options.grace)
            self.process = None

    async def replace(self, new: WorkerProcess) -> bool:
        """Stops the old process when the new one has registered; False if it did not, and the old one stays."""
        if not await new.wait_registered():
            log.error("the new worker failed; the old one stays", extra={"reason": new.failure})
            return False
        old = self.process
        self.put(new)
        if old is not None:
            await old.stop(self._launch_options.grace)
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
            wait = self._backoff.after(time.monotonic() - started)
            log.info("restarting a worker", extra={"group": self.group, "after": wait})
            await asyncio.sleep(wait)
            if self.process is not process:
                continue  # a new one has come by a reload
            try:
                self.put(await self.launch())
            except OSError as error:
                self.process = None
                log.error("cannot start a worker", extra={"reason": str(error)})


class Supervisor:
    """All worker processes of one app.

    Args:
        launch_options: how to start a worker.
        workers: processes per group.
        agent: told for which workers readiness waits, and which have ended.
    """

    def __init__(self, launch_options: LaunchOptions, workers: int, agent: InstanceAgent) -> None:
        self._launch_options = launch_options
        self._workers = workers
        self._agent = agent
        self._places: list[_Place] = []
        self._running: set[WorkerProcess] = set()  # also those that have not taken their place yet
        self._app = LoadedApp((), ())

    @property
    def capabilities(self) -> Sequence[str]:
        """What the app declares, for people to read."""
        return self._app.capabilities

    async def start(self) -> None:
        """Starts the app's workers and waits until all of them have registered.

        The first process tells what groups the app has; the app is not loaded here.

        Raises:
            StartFailed: a worker ended before it had registered. No process is left.
        """
        first = self._place(None)
        self._places = [first]
        try:
            process = await self._launch_expected(first)
            loaded = await process.wait_loaded()
            if loaded is None:
                raise StartFailed(process.failure)
            self._app = loaded
            first.group = loaded.groups[0].name
            self._places += self._places_for(loaded.groups)[1:]
            for place in self._places[1:]:
                await self._launch_expected(place)
            await self._wait_all_registered()
        except OSError as error:
            await self.stop()
            raise StartFailed(f"cannot start a worker process: {error}") from error
        except BaseException:
            await self.stop()
            raise
        for place in self._places:
            if place.process is not None:
                place.keep(place.process)

    async def stop(self) -> None:
        """Drains and stops every worker (`lifecycle.drain`)."""
        await asyncio.gather(*(place.stop() for place in self._places))
        await asyncio.gather(*(process.stop(self._launch_options.grace) for process in tuple(self._running)))

    def kill(self) -> None:
        """Kills every worker at once; what waits for them ends soon after."""
        for process in self._running:
            process.kill()

    async def reload(self) -> bool:
        """Replaces every worker by a new one with the app as it is now.

        Each old one stays until the new one has registered. If the app does not load
        or a new worker fails, what runs is left as it is, and this returns False.
        """
        kept = [place for place in self._places if place.wanted]
        if not kept:
            return True
        first = await kept[0].launch()
        loaded = await first.wait_loaded()
        if loaded is None:
            log.error("the app does not load, the old workers stay", extra={"reason": first.failure})
            return False
        names = {group.name for group in loaded.groups}
        for place in kept:
            if place.group in names:
                new = first if place is kept[0] else await place.launch()
                if not await place.replace(new):
                    return False
        await self._follow(loaded)
        log.info("reloaded", extra={"capabilities": list(loaded.capabilities)})
        return True

    async def _follow(self, loaded: LoadedApp) -> None:
        """Starts the groups that a reloaded app has more, and stops those that it has no longer."""
        here = {place.group for place in self._places}
        names = {group.name for group in loaded.groups}
        for place in self._places_for([group for group in loaded.groups if group.name not in here]):
            self._places.append(place)
            place.keep(await place.launch())
        gone = [place for place in self._places if place.group not in names]
        self._places = [place for place in self._places if place.group in names]
        self._app = loaded
        await asyncio.gather(*(place.stop() for place in gone))

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
            place.put(process)
            if not await process.wait_registered():
                if place.process is process:
                    await place.stop()
                raise InferenceError(Code.UNAVAILABLE, f"model {model_name!r}: its worker did not start; see the logs")
            place.keep(process)
        return bool(places)

    async def unload(self, model_name: str) -> bool:
        """Drains and stops the workers that serve a model; False if the app does not declare it.

        Raises:
            InferenceError: FAILED_PRECONDITION, they serve other models too.
        """
        places = self._places_of(model_name)
        for place in places:
            others = [m for m in self._models(place) if m != model_name]
            if others:
                raise InferenceError(
                    Code.FAILED_PRECONDITION,
                    f"model {model_name!r} shares its workers with {', '.join(map(repr, others))}; "
                    "give it a class of its own with @app.worker to unload it alone",
                )
        await asyncio.gather(*(place.stop() for place in places))
        return bool(places)

    def _places_for(self, groups: Sequence[GroupInfo]) -> list[_Place]:
        return [self._place(group.name) for group in groups for _ in range(self._workers)]

    def _place(self, group: str | None) -> _Place:
        return _Place(self._launch_options, self._agent, self._running, group)

    def _places_of(self, model_name: str) -> list[_Place]:
        return [place for place in self._places if model_name in self._models(place)]

    def _models(self, place: _Place) -> tuple[str, ...]:
        return next((group.models for group in self._app.groups if group.name == place.group), ())

    async def _launch_expected(self, place: _Place) -> WorkerProcess:
        process = await place.launch()
        place.put(process)
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
