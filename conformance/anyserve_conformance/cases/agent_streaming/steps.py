"""Steps that several streaming cases take."""

from __future__ import annotations

from typing import Any

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.client import Reply, Stream
from anyserve_conformance.scripted_worker import Exchange, ScriptedWorker

__all__ = ["ASK_FINAL", "FINAL", "ask_final", "error_code", "final", "streaming", "under_way"]

FINAL = "triton_final_response"
ASK_FINAL = "triton_enable_empty_final_response"


def streaming(agent: Agent, name: str, **options: Any) -> ScriptedWorker:
    """A streaming worker that has registered."""
    return agent.worker(name, stream=True, **options)


def under_way(agent: Agent, worker: ScriptedWorker, name: str, **fields: Any) -> tuple[Stream, Exchange]:
    """A call whose first request is with the worker."""
    stream = agent.stream()
    stream.send(wire.request(name, **fields))
    return stream, worker.exchange()


def ask_final(name: str, **fields: Any) -> Any:
    """A request that asks to be told which response is the last."""
    return wire.request(name, triton_enable_empty_final_response=True, **fields)


def error_code(reply: Reply) -> object:
    """`anyserve_error_code` of a response; None if it has none."""
    return wire.parameters_of(reply.response).get("anyserve_error_code")


def final(reply: Reply) -> object:
    """`triton_final_response` of a response; None if it has none."""
    return wire.parameters_of(reply.response).get(FINAL)
