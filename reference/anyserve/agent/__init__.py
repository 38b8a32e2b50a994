"""The reference agent: pure Python, asyncio, readable first."""

from anyserve.agent.agent import Agent, PortInUse
from anyserve.agent.config import AgentConfig
from anyserve.agent.tls import TlsFileError

__all__ = ["Agent", "AgentConfig", "PortInUse", "TlsFileError"]
