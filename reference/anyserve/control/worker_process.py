"""One worker process: started, heard by its report pipe, stopped.

What comes over the pipe is written by `worker/report.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from anyserve.sockets import socket_path

__all__ = ["GroupInfo", "LaunchOptions", "LoadedApp", "WorkerProcess"]

Result = TypeVar("Result")

log = logging.getLogger(__name__)

STILL_STARTING = 10.0
"""So often it is said that a worker has not registered yet."""
KILL_MARGIN = 35.0
"""Seconds beyond its grace that a worker has for its cleanup before it is killed."""
LAST_WORDS = 1.0
"""Seconds to read what an ended process has reported."""
MAX_REPORT_LINE = 1 << 20
WORKER_ENVIRONMENT = {"GRPC_ENABLE_FORK_SUPPORT": "0"}
"""For what the user has not set. gRPC in a worker has threads at all times, with which its support of forks does
nothing but write a line to standard error whenever a handler forks. It is read when grpc is imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How a worker process is started."""

    app: str
    arguments: Sequence[str]
    """Further options of `python -m anyserve.worker`, alike for all workers."""
    socket_dir: str
    grace: float
    """Seconds that its exchanges have to end when it is stopped."""
    write_bytecode: bool = True
    """Off for reloading: a cached module whose source changes twice in a second counts as unchanged."""
    instance_secret: str = ""
    management_token: str | None = None


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """A group of the app's handlers, as the worker process told it."""

    name: str
    models: tuple[str, ...]
    gpus: int


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """What an app declares, as the worker process told it."""

    groups: tuple[GroupInfo, ...]
    capabilities: tuple[str, ...]


class WorkerProcess:
    """A running, or ended, worker process.

    `start` makes one.
    """

    def __init__(
        self,
        worker_id: str,
        process: asyncio.subprocess.Process,
        report: asyncio.StreamReader,
        socket: str,
        on_end: Callable[[str, str], None],
    ) -> None:
        self.worker_id = worker_id
        self._socket = socket
        self._on_end = on_end
        self._process = process
        self._message = ""
        loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[LoadedApp | None] = loop.create_future()
        self._registered: asyncio.Future[bool] = loop.create_future()
        self._listener = asyncio.create_task(self._listen(report))

    @classmethod
    async def start(
        cls, options: LaunchOptions, worker_id: str, group: str | None, on_end: Callable[[str, str], None]
    ) -> WorkerProcess:
        """Starts a process that serves one group of the app, the first for None.

        Args:
            options: how.
            worker_id: its name.
            group: the group's name.
            on_end: told the worker id and how it ended, the moment it has.

        Raises:
            OSError: the operating system refuses.
        """
        read_end, write_end = os.pipe()
        try:
            report = await _reader(read_end)
            # Secrets do not go on the command line, which others can read.
            environment = {**WORKER_ENVIRONMENT, **os.environ, "ANYSERVE_INSTANCE_SECRET": options.instance_secret}
            if options.management_token is not None:
                environment["ANYSERVE_MANAGEMENT_TOKEN"] = options.management_token
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *(() if options.write_bytecode else ("-B",)),
                "-m",
                "anyserve.worker",
                options.app,
                *((f"--group={group}",) if group is not None else ()),
                f"--worker-id={worker_id}",
                f"--grace={options.grace}",
                f"--report-fd={write_end}",
                "--supervised",
                *options.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(write_end,),
                env=environment,
            )
        finally:
            os.close(write_end)
        log.info("worker started", extra={"worker": worker_id, "pid": process.pid, "group": group or "first"})
        return cls(worker_id, process, report, socket_path(options.socket_dir, worker_id), on_end)

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def failure(self) -> str:
        """Why it ended, in one line."""
        return self._message or f"a worker process {self._ending}"

    @property
    def _ending(self) -> str:
        status = self._process.returncode
        if status is not None and status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    async def wait_loaded(self) -> LoadedApp | None:
        """What the app declares, once it is loaded; None if the process ended first."""
        return await self._waited(self._loaded, "still loading the app")

    async def wait_registered(self) -> bool:
        """True once the agent has taken its registrations; False if the process ended first."""
        return await self._waited(self._registered, "still waiting for a worker to register")

    def when_ended(self, callback: Callable[[WorkerProcess], None]) -> None:
        """Calls back once the process has ended."""
        self._listener.add_done_callback(lambda _: callback(self))

    async def wait(self) -> None:
        """Waits until it has ended and what it reported is read."""
        await asyncio.wait((self._listener,))

    async def stop(self, grace: float) -> None:
        """Sends SIGTERM, and SIGKILL to a process that does not end in time."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(grace + KILL_MARGIN):
                await self.wait()
        except TimeoutError:
            log.error("killing a worker that does not end", extra={"worker": self.worker_id})
            self.kill()
            await self.wait()

    def kill(self) -> None:
        """Sends SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()

    async def _listen(self, report: asyncio.StreamReader) -> None:
        reading = asyncio.create_task(self._read(report))
        await self._process.wait()
        with suppress(FileNotFoundError):
            os.unlink(self._socket)  # one that was killed could not
        self._on_end(self.worker_id, f"its process {self._ending}")
        # The pipe ends with the process, unless a child that it forked still holds it.
        await asyncio.wait((reading,), timeout=LAST_WORDS)
        reading.cancel()
        if not self._loaded.done():
            self._loaded.set_result(None)
        if not self._registered.done():
            self._registered.set_result(False)

    async def _read(self, report: asyncio.StreamReader) -> None:
        while line := await report.readline():
            told = json.loads(line)
            if told["event"] == "loaded" and not self._loaded.done():
                self._loaded.set_result(_loaded_app(told))
            elif told["event"] == "registered" and not self._registered.done():
                self._registered.set_result(True)
            elif told["event"] == "failed":
                self._message = told["message"]

    async def _waited(self, future: asyncio.Future[Result], meanwhile: str) -> Result:
        while True:
            done, _ = await asyncio.wait((future,), timeout=STILL_STARTING)
            if done:
                return future.result()
            log.info(meanwhile, extra={"worker": self.worker_id})


def _loaded_app(told: Any) -> LoadedApp:
    groups = tuple(GroupInfo(g["name"], tuple(g["models"]), g["gpus"]) for g in told["groups"])
    return LoadedApp(groups, tuple(told["capabilities"]))


async def _reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=MAX_REPORT_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    return reader
