"""Who answered: workers that tell their label in each reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.client import Answer
from anyserve_conformance.scripted_worker import ScriptedWorker

__all__ = ["answered_by", "is_value", "labelled", "served_by"]


def labelled(
    agent: Agent,
    label: str,
    name: str = "",
    version: str = "",
    *,
    capability: Mapping[str, str] | None = None,
    **fields: Any,
) -> ScriptedWorker:
    """A worker that has registered and answers each request with its label."""
    return agent.worker(
        name,
        version,
        worker_id=label,
        answer=lambda _: wire.reply(label=label),
        capability=capability,
        **fields,
    )


def answered_by(answer: Answer) -> str:
    """The label of the worker that gave this answer."""
    return str(wire.parameters_of(answer.message)["label"])


def served_by(
    agent: Agent, name: str = "", version: str = "", *, query: Mapping[str, str] | None = None, calls: int = 1
) -> set[str]:
    """The labels of the workers that answer some requests, one after the other."""
    request = wire.request(name, version)
    return {answered_by(agent.infer(request, query=query)) for _ in range(calls)}


def is_value(text: str) -> bool:
    """Whether a capability may have this value."""
    return 1 <= len(text) <= 256 and not any(character < " " or character == "\x7f" for character in text)
