"""A batching worker under a scripted agent: the order of requests, deadlines that the worker alone keeps, drain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from anyserve import ModelInferResponse
from anyserve._proto import worker_management_pb2 as pb
from anyserve.worker.loops import available_worker_io
from support.command import FACTS
from support.processes import eventually
from support.scripted_agent import Frames, ScriptedWorker, failure, request, scripted

APP = (
    FACTS
    + """
from anyserve import Batch


def together(requests):
    facts.add("began")
    facts.gate.wait(20)
    numbers = [int(request.tensors()["n"][0]) for request in requests]
    return [{"n": [n], "together": numbers} for n in numbers]


@app.capability(type="held", batch=Batch(max_size=4, max_wait_ms=200))
def held(requests):
    return together(requests)


@app.capability(type="deadlines", batch=Batch(max_size=4, max_wait_ms=200))
def deadlines(requests, contexts):
    facts.add("without a deadline", sum(context.time_remaining() is None for context in contexts))
    return together(requests)
"""
)


@pytest.fixture(params=available_worker_io())
def worker(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ScriptedWorker]:
    with scripted(APP, f"--worker-io={request.param}", directory=tmp_path_factory.mktemp("order")) as worker:
        yield worker


def send(worker: ScriptedWorker, model: str, n: int, **fields: Any) -> Frames:
    connection = worker.connect()
    connection.send(request(model, n=[n], **fields).SerializeToString())
    return connection


def reply(connection: Frames) -> ModelInferResponse:
    payload = connection.receive()
    assert payload is not None
    return ModelInferResponse.FromString(payload)


def numbers(connection: Frames) -> list[int]:
    return [int(n) for n in reply(connection).tensors()["together"]]


def begun(control: Frames) -> None:
    """Waits until a handler has begun."""
    control.ask(request("facts", name=["began"], at_least=[1], seconds=[15.0]))


def test_requests_keep_the_order_in_which_they_came(worker: ScriptedWorker) -> None:
    control = worker.connect()
    connections = [send(worker, "held", 0)]
    begun(control)
    for n in range(1, 10):
        connections.append(send(worker, "held", n))
        control.ask(request("open-gate", again=[False]))  # answered after the worker has read what came before
    control.ask(request("open-gate", again=[True]))
    batches = [numbers(connection) for connection in connections]
    assert batches == [[0], *[[1, 2, 3, 4]] * 4, *[[5, 6, 7, 8]] * 4, [9]]


def told(worker: ScriptedWorker, since: int = 0) -> dict[tuple[str, int], int]:
    """Calls of which heartbeats have told, by model and size."""
    counts: dict[tuple[str, int], int] = {}
    for name, heartbeat in worker.agent.calls[since:]:
        for batch in heartbeat.batches if name == "Heartbeat" else ():
            assert batch.compute_ns > 0
            key = (batch.model_name, batch.batch_size)
            counts[key] = counts.get(key, 0) + batch.count
    return counts


def run_batches(worker: ScriptedWorker) -> None:
    """Batches of 1, 4 and 2 requests."""
    control = worker.connect()
    connections = [send(worker, "held", 0)]
    begun(control)
    for n in range(1, 7):
        connections.append(send(worker, "held", n))
        control.ask(request("open-gate", again=[False]))
    control.ask(request("open-gate", again=[True]))
    assert [len(numbers(connection)) for connection in connections] == [1, 4, 4, 4, 4, 2, 2]


BATCHES = {("held", 1): 1, ("held", 4): 1, ("held", 2): 1}


def test_heartbeats_tell_of_the_batches_once(worker: ScriptedWorker) -> None:
    run_batches(worker)
    eventually(lambda: told(worker) == BATCHES, "all batches are told")
    heartbeats = sum(name == "Heartbeat" for name, _ in worker.agent.calls)
    worker.agent.called("Heartbeat", count=heartbeats + 3)
    assert told(worker) == BATCHES


def test_what_an_agent_has_not_taken_is_told_again(worker: ScriptedWorker) -> None:
    worker.agent.called("Heartbeat")
    worker.agent.answers["Heartbeat"] = lambda _: pb.HeartbeatResponse(healthy=False)
    run_batches(worker)
    eventually(lambda: told(worker).keys() == BATCHES.keys(), "all batches are told")
    before = len(worker.agent.calls)
    worker.agent.answers["Heartbeat"] = lambda _: pb.HeartbeatResponse(healthy=True)
    heartbeats = sum(name == "Heartbeat" for name, _ in worker.agent.calls)
    worker.agent.called("Heartbeat", count=heartbeats + 4)
    assert all(count in (1, 2) for count in told(worker, before).values())  # one may have been on its way
    assert told(worker, before).keys() == BATCHES.keys()


def test_a_deadline_that_passes_while_a_request_waits(worker: ScriptedWorker) -> None:
    control = worker.connect()
    first = send(worker, "deadlines", 0)
    begun(control)
    late = send(worker, "deadlines", 1, timeout_ms=200)
    in_time = send(worker, "deadlines", 2, timeout_ms=20_000)
    code, message = failure(reply(late))
    assert (code, message) == (4, "the deadline passed while the request waited for its batch")
    control.ask(request("open-gate", again=[True]))
    assert [numbers(first), numbers(in_time)] == [[0], [2]]


def test_a_deadline_that_has_passed_when_the_request_comes(worker: ScriptedWorker) -> None:
    assert failure(reply(send(worker, "deadlines", 0, timeout_ms=0)))[0] == 4


def test_a_client_that_goes_while_it_waits_leaves_the_order_of_the_others(worker: ScriptedWorker) -> None:
    control = worker.connect()
    connections = [send(worker, "held", 0)]
    begun(control)
    for n in range(1, 6):
        connections.append(send(worker, "held", n))
        control.ask(request("open-gate", again=[False]))
    connections.pop(2).close()
    control.ask(request("open-gate", again=[False]))
    control.ask(request("open-gate", again=[True]))
    assert [numbers(connection) for connection in connections] == [[0], *[[1, 3, 4, 5]] * 4]
