"""Steps that the cases about frames and queues share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.client import Answer, Call
from anyserve_conformance.requirement import skipped
from anyserve_conformance.scripted_worker import Connection, Exchange, ScriptedWorker

__all__ = [
    "TOO_LONG",
    "answer_raw",
    "drop_by_violations",
    "entry",
    "hold",
    "in_flight",
    "is_listed",
    "large_request",
    "let_wait",
    "reset",
    "serve_once",
    "statistics",
    "violate",
]

LARGE = 2 << 20
"""Far more than a socket takes without being read."""
TOO_LONG = b"\xff\xff\xff\xff"
"""A length above any limit."""


def serve_once(agent: Agent, worker: ScriptedWorker, name: str, reply: bytes | Message = b"") -> Answer:
    """One good exchange on a model that this worker alone serves."""
    call = agent.start_infer(name)
    worker.exchange().answer(reply)
    return call.answer().expect_ok()


def hold(agent: Agent, worker: ScriptedWorker, request: bytes | Message | str) -> tuple[Call, Exchange]:
    """A request that has reached a worker and takes up a place there."""
    call = agent.start_infer(request)
    return call, worker.exchange()


def let_wait(
    agent: Agent,
    request: bytes | Message | str,
    *,
    query: Mapping[str, str] | None = None,
    metadata: Sequence[tuple[str, str]] = (),
    timeout: float | None = None,
) -> Call:
    """Starts a request that has to wait, and returns when it does by all that can be seen."""
    call = agent.start_infer(request, query=query, metadata=metadata, timeout=timeout)
    agent.client.live()  # comes behind it on the same connection: by the answer the agent has read the request
    agent.patience.while_nothing(lambda: call.done, "a request ended that had to wait for a place", for_=0.03)
    return call


def answer_raw(
    agent: Agent, worker: ScriptedWorker, request: bytes | Message | str, data: bytes, *, close: bool = False
) -> Answer:
    """How a request ends that a worker answers with these bytes in place of a frame; it ends the exchange."""
    call, exchange = hold(agent, worker, request)
    exchange.connection.send(data)
    if close:
        exchange.close()
    else:
        exchange.over.set()
    return call.answer()


def violate(agent: Agent, worker: ScriptedWorker, name: str) -> Answer:
    """How a request ends that a worker answers with a length above any limit."""
    call, exchange = hold(agent, worker, name)
    exchange.connection.send(TOO_LONG, "a length above any limit")
    exchange.cancelled()
    exchange.over.set()
    return call.answer()


def drop_by_violations(agent: Agent, worker: ScriptedWorker, name: str) -> None:
    """Lets a worker break the framing until the agent drops it."""
    for _ in range(3):
        violate(agent, worker, name)
    agent.patience.until(lambda: not is_listed(agent, worker), "a worker to be dropped after three violations")


def is_listed(agent: Agent, worker: ScriptedWorker) -> bool:
    """Whether ListWorkers has a worker."""
    return agent.management.listed(worker.worker_id) is not None


def in_flight(agent: Agent, worker: ScriptedWorker) -> int:
    """The exchanges under way on a worker, as ListWorkers has them."""
    listed = agent.management.listed(worker.worker_id)
    assert listed is not None, f"ListWorkers does not have {worker.worker_id}"
    return int(listed.in_flight)


def large_request(agent: Agent, name: str) -> Any:
    """A request of more bytes than a socket takes without being read."""
    if agent.option("max-message-bytes") < 2 * LARGE:
        skipped(f"needs an agent that takes messages of {2 * LARGE} bytes")
    return wire.request(name, raw=bytes(LARGE))


def reset(connection: Connection) -> None:
    """Closes with bytes of the request left unread."""
    connection.read_exactly(1)
    connection.close()


def entry(key: bytes | str, *values: bytes) -> bytes:
    """An entry of `parameters`: the key, and each of these InferParameters one behind the other."""
    return wire.field(4, wire.field(1, key) + b"".join(wire.field(2, value) for value in values))


def statistics(agent: Agent, name: str, version: str = "") -> dict[tuple[str, str], Any]:
    """ModelStatistics by name and version."""
    request = proto.ModelStatisticsRequest(name=name, version=version)
    models = agent.client.call("ModelStatistics", request).message.model_stats
    return {(model.name, model.version): model for model in models}
