"""A worker's places under an agent that asks for too much, and clients that go while they wait for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anyserve._proto import grpc_predict_v2_pb2 as pb
from support.command import FACTS
from support.scripted_agent import Frames, ScriptedWorker, request, scripted

APP = (
    FACTS
    + """
import asyncio


@app.capability(type="sync", max_concurrency=2)
def sync_held(request):
    facts.add("sync")
    facts.add("sync begun")
    facts.gate.wait(20)
    facts.add("sync", -1)
    return request.tensors()


@app.capability(type="async", max_concurrency=2)
async def async_held(request):
    facts.add("async")
    facts.add("async begun")
    try:
        while not facts.gate.is_set():
            await asyncio.sleep(0.01)
    finally:
        facts.add("async", -1)
    return request.tensors()


@app.capability(type="stream", max_concurrency=2, stream=True)
async def stream_held(request, context, stream):
    await stream.asend(await async_held(request))
"""
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedWorker]:
    with scripted(APP, directory=tmp_path_factory.mktemp("places")) as worker:
        yield worker


def fact(connection: Frames, name: str, at_least: int = 0) -> int:
    reply = connection.ask(request("facts", name=[name], at_least=[at_least], seconds=[15.0]))
    value = int(reply.tensors()["value"][0])
    assert value >= at_least
    return value


def numbers(connection: Frames, model: str) -> list[int]:
    if model == "stream":
        return [int(reply.infer_response.tensors()["n"][0]) for reply in connection.replies()]
    payload = connection.receive()
    assert payload is not None
    return [int(pb.ModelInferResponse.FromString(payload).tensors()["n"][0])]


@pytest.mark.parametrize(("model", "counter"), [("sync", "sync"), ("async", "async"), ("stream", "async")])
def test_places_survive_clients_that_go_while_they_wait(worker: ScriptedWorker, model: str, counter: str) -> None:
    control = worker.connect()
    control.ask(request("open-gate", again=[False]))
    begun = fact(control, f"{counter} begun")
    connections = [worker.connect() for _ in range(20)]
    for n, connection in enumerate(connections):
        connection.send(request(model, n=[n]).SerializeToString())
        if n == 1:
            fact(control, f"{counter} begun", begun + 2)
    # The first has a place, the others wait for one; every second of them goes.
    for connection in connections[::2]:
        connection.close()
    control.ask(request("open-gate", again=[True]))
    for n, connection in list(enumerate(connections))[1::2]:
        assert numbers(connection, model) == [n]
    assert fact(control, f"most {counter}") == 2
    for connection in connections:
        connection.close()
    again = worker.connect()
    again.send(request(model, n=[7]).SerializeToString())
    assert numbers(again, model) == [7]
