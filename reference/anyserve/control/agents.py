"""The two agents behind one protocol: the data plane, as the control plane sees it."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from anyserve.agent.config import AgentConfig

if TYPE_CHECKING:
    from anyserve.agent.events import Event
    from anyserve.agent.model_info import Lifecycle

__all__ = ["IMPLEMENTATIONS", "DataPlane", "available_implementations", "default_implementation", "make_agent"]

IMPLEMENTATIONS = ("reference", "native")


class DataPlane(Protocol):
    """An agent. Its functions are documented in `anyserve.agent.Agent`."""

    instance_secret: str
    port: int
    management_port: int

    @property
    def ready(self) -> bool: ...

    async def start(self) -> None: ...

    async def stop(self, grace: float = 30.0, *, stop_workers: Callable[[], Any] | None = None) -> None: ...

    async def hurry(self) -> None: ...

    async def wait_ready(self) -> None: ...

    def expect_workers(self, worker_ids: Collection[str]) -> None: ...

    def expect_no_more(self, worker_ids: Collection[str]) -> None: ...

    def keep_worker(self, place: str, worker_id: str | None) -> None: ...

    def worker_ended(self, worker_id: str, reason: str) -> None: ...

    def set_lifecycle(self, lifecycle: Lifecycle) -> None: ...

    def events(self) -> AbstractContextManager[AsyncIterator[Event]]: ...

    def snapshot(self) -> Mapping[str, Any]: ...


def available_implementations() -> tuple[str, ...]:
    """The agents that this installation has."""
    native = importlib.util.find_spec("anyserve._native") is not None
    return IMPLEMENTATIONS if native else ("reference",)


def default_implementation() -> str:
    """The faster of the agents that are there."""
    return available_implementations()[-1]


def make_agent(implementation: str, config: AgentConfig) -> DataPlane:
    """An agent that has not started.

    Args:
        implementation: one of `available_implementations()`.
        config: its settings.
    """
    if implementation == "native":
        from anyserve.agent.native import NativeAgent  # noqa: PLC0415 (not in every installation)

        return NativeAgent(config)
    from anyserve.agent.agent import Agent  # noqa: PLC0415 (each loads what the other does not need)

    return Agent(config)
