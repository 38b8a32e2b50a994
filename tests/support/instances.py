"""Agents under test with what stands around them: a client, a management client, scripted workers."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from anyserve._proto import worker_management_pb2
from anyserve.agent import AgentConfig
from anyserve.control.agents import available_implementations, make_agent
from support.client import Client, Management
from support.waiting import within
from support.worker import Answer, Script, ScriptedWorker

__all__ = ["IMPLEMENTATIONS", "AgentUnderTest", "Instance", "StartInstance"]


class AgentUnderTest(Protocol):
    """What a test asks of an agent beside its ports."""

    port: int
    management_port: int

    async def start(self) -> None: ...

    async def stop(self, grace: float = 30.0) -> None: ...

    def snapshot(self) -> Mapping[str, Any]: ...

    def expect_workers(self, worker_ids: list[str]) -> None: ...

    def keep_worker(self, place: str, worker_id: str | None) -> None: ...

    def worker_ended(self, worker_id: str, reason: str) -> None: ...


def _make(implementation: str, **settings: Any) -> AgentUnderTest:
    local: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "management_host": "127.0.0.1", "management_port": 0}
    return make_agent(implementation, AgentConfig(**local | settings))


IMPLEMENTATIONS: Mapping[str, Callable[..., AgentUnderTest]] = {
    implementation: partial(_make, implementation) for implementation in available_implementations()
}
"""Name -> what makes an agent from settings; every test of this kind runs over all of them."""


class Instance:
    """One agent, one client of each port, and any number of scripted workers.

    Args:
        agent: not yet started.
        token: the management token, if the agent has one.
    """

    def __init__(self, agent: AgentUnderTest, token: str | None = None) -> None:
        self.agent = agent
        self.workers: list[ScriptedWorker] = []
        self._token = token
        self._numbers = itertools.count(1)
        self._clients: list[Client | Management] = []
        self._directory = tempfile.mkdtemp(prefix="any")
        self._running = False

    async def start(self) -> None:
        """Starts the agent and connects the two clients."""
        await self.agent.start()
        self._running = True
        self.client = self.new_client()
        self.management = self.new_management(self._token)

    def new_client(self, *, window: int | None = None) -> Client:
        """Another client; one with a window takes little more than that before it is read."""
        client = Client(self.agent.port, window=window)
        self._clients.append(client)
        return client

    def new_management(self, token: str | None = None, *, window: int | None = None) -> Management:
        """Another management client; one with a window takes little more than that before it is read."""
        client = Management(self.agent.management_port, token, window=window)
        self._clients.append(client)
        return client

    def new_path(self) -> str:
        """Where a worker may listen."""
        return os.path.join(self._directory, f"{next(self._numbers)}.sock")

    def new_worker(
        self,
        worker_id: str = "",
        *,
        answer: Answer | None = None,
        script: Script | None = None,
        accept: bool = True,
        backlog: int = 128,
    ) -> ScriptedWorker:
        """A worker that listens and has not registered."""
        path = self.new_path()
        worker_id = worker_id or f"worker-{len(self.workers) + 1}"
        worker = ScriptedWorker(path, worker_id=worker_id, answer=answer, script=script, accept=accept, backlog=backlog)
        worker.listen()
        self.workers.append(worker)
        return worker

    async def worker(
        self,
        name: str = "",
        version: str = "",
        *,
        worker_id: str = "",
        answer: Answer | None = None,
        script: Script | None = None,
        **fields: Any,
    ) -> ScriptedWorker:
        """A worker that listens and has registered; `fields` are those of RegisterModelRequest."""
        worker = self.new_worker(worker_id, answer=answer, script=script)
        await self.management.register(worker, name, version, **fields)
        return worker

    async def unregister(self, worker_id: str) -> None:
        """A worker takes its leave; it must have been registered."""
        request = worker_management_pb2.UnregisterWorkerRequest(worker_id=worker_id)
        assert (await within(self.management.UnregisterWorker(request))).success

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker, over all queues."""
        return int(self.agent.snapshot()["waiting"])

    async def stop(self, grace: float = 5.0) -> None:
        """Stops the agent, once."""
        if self._running:
            self._running = False
            await self.agent.stop(grace=grace)

    async def close(self) -> None:
        """Ends everything."""
        try:
            await asyncio.gather(*(client.close() for client in self._clients))
            await self.stop(grace=0)
            await asyncio.gather(*(worker.close() for worker in self.workers))
        finally:
            shutil.rmtree(self._directory)


StartInstance = Callable[..., Awaitable[Instance]]
"""Starts an instance with the settings given by name; the fixture of that name ends it."""
