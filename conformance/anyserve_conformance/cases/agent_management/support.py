"""What several cases of the management port do: workers that say who they are, and agents seen from outside."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.scripted_worker import ScriptedWorker

__all__ = [
    "LEFT",
    "LOST",
    "READY",
    "REGISTERED",
    "UNREGISTERED",
    "Facts",
    "answers",
    "arrived",
    "facts",
    "goes_to",
    "gone",
    "listed",
    "models_of",
    "vanish",
]

REGISTERED = "MODEL_REGISTERED"
UNREGISTERED = "MODEL_UNREGISTERED"
LOST = "WORKER_LOST"
LEFT = "WORKER_UNREGISTERED"
READY = "SERVER_READY"

Facts = tuple[str, str, str]
"""Of an event: its type, worker id and model name."""


def answers(text: str) -> Callable[[bytes], Any]:
    """For a worker's `answer`: replies whose id is the text, so that a case sees who has served it."""
    return lambda _: wire.reply(request_id=text)


def goes_to(agent: Agent, request: str | Any, expected: str, *, query: Mapping[str, str] | None = None) -> None:
    """Sends a ModelInfer that the worker with this answer has to serve."""
    found = str(agent.infer(request, query=query).message.id)
    what = (
        f"capability {dict(query)}" if query else f"model {request if isinstance(request, str) else request.model_name}"
    )
    assert found == expected, f"a request for {what} was answered by {found!r}, not by {expected!r}"


def listed(agent: Agent, worker_id: str) -> Any:
    """What ListWorkers says of a worker that must be there."""
    found = agent.management.listed(worker_id)
    assert found is not None, f"ListWorkers does not have the worker {worker_id!r}"
    return found


def models_of(agent: Agent, worker_id: str) -> list[tuple[str, str]]:
    """Name and version of all registrations of a worker, sorted; none if it is not listed."""
    worker = agent.management.listed(worker_id)
    return sorted((r.model_name, r.model_version) for r in worker.registrations) if worker else []


def gone(agent: Agent, worker_id: str) -> None:
    """Waits until ListWorkers has the worker no more."""
    agent.patience.until(lambda: agent.management.listed(worker_id) is None, f"ListWorkers without {worker_id}")


def facts(event: Any) -> Facts:
    """What distinguishes an event from others."""
    return proto.Event.Type.Name(event.type), event.worker_id, event.registration.model_name


def vanish(worker: ScriptedWorker) -> None:
    """As if the worker had been killed: nobody listens, its connections are closed, its socket's file is left."""
    worker.refuse()
    for connection in list(worker.connections):
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        connection.close()


def arrived(agent: Agent) -> None:
    """Waits until the agent has the calls that the case's client has started: one behind them was answered."""
    assert agent.client.live(), "ServerLive is answered with live = false"
