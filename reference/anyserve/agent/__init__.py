"""The agents: the reference agent, pure Python, asyncio, readable first; and the native one's face (`native.py`).

`Agent` is imported when it is first used: a native agent needs nothing of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anyserve.agent.config import AgentConfig, PortInUse, TlsFileError

if TYPE_CHECKING:
    from anyserve.agent.agent import Agent

__all__ = ["Agent", "AgentConfig", "PortInUse", "TlsFileError"]


def __getattr__(name: str) -> Any:
    if name != "Agent":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("anyserve.agent.agent").Agent
