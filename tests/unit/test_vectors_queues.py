"""Each vector of queues.json through the reference agent, event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve_conformance.vectors import Vector, load
from support.vector_bench import EMPTY_FRAME, Bench, Call, ClockLoop, Wire, metadata_of, named, outcome, run

QUEUES = load("queues")
SETTLED = 50  # turns of the loop, more than any step of the agent takes


class Queues:
    """Plays the events of a vector of queues.json."""

    def __init__(self, vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, str]] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.wires: dict[str, Wire] = {}
        settings = {key: vector[key] for key in ("queue_size", "default_max_concurrency") if key in vector}
        self.bench = Bench(monkeypatch, self.requested, **settings)
        for registration in vector["registrations"]:
            self.bench.register(registration)

    def requested(self, wire: Wire) -> None:
        name = pb.ModelInferRequest.FromString(wire.sent[4:]).id
        assert name not in self.wires, f"request {name} was sent twice"
        self.wires[name] = wire
        self.log.append((name, wire.worker))

    async def play(self, event: Mapping[str, Any]) -> None:
        before = len(self.log)
        self.act(event)
        for _ in range(SETTLED):
            await asyncio.sleep(0)
        happened = self.log[before:]
        wanted = [(name, what) for name, what in event["then"]]
        assert sorted(happened) == sorted(wanted), event
        served = [one for one in happened if one[1].islower()]
        assert served == [one for one in wanted if one[1].islower()], event

    def act(self, event: Mapping[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ClockLoop)
        if "arrive" in event:
            self.tasks[event["arrive"]] = asyncio.create_task(self.call(event["arrive"], event, loop.now))
        elif "reply" in event:
            reply = {"bytes": EMPTY_FRAME.hex()}
            self.wires[event["reply"]].see(reply)
        elif "not_taken" in event:
            self.wires.pop(event["not_taken"]).see("reset")
        elif "register" in event:
            self.bench.register(event["register"])
        elif "unregister_worker" in event:
            assert self.bench.workers.unregister_worker(event["unregister_worker"])
        elif "unregister_model" in event:
            gone = {"model_version": "", **event["unregister_model"]}
            assert self.bench.workers.unregister_model(gone.pop("worker"), **gone)
        elif "cancel" in event:
            self.tasks[event["cancel"]].cancel()
        elif "time" in event:
            assert event["time"] > loop.now
            loop.now = event["time"]
        else:
            assert event["drain"] is True
            self.bench.service.begin_drain()

    async def call(self, name: str, event: Mapping[str, Any], now: float) -> None:
        request = pb.ModelInferRequest(
            id=name, model_name=event.get("model_name", ""), model_version=event.get("model_version", "")
        )
        remaining = event["deadline"] - now if "deadline" in event else None
        call = Call(metadata_of(event.get("query")), remaining)
        try:
            answer = self.bench.infer(request.SerializeToString(), call, event.get("call", "ModelInfer"))
            self.log.append((name, (await outcome(answer))[0]))
        except asyncio.CancelledError:
            self.log.append((name, "CANCELLED"))

    async def end(self, waiting: list[str]) -> None:
        left = [name for name, task in self.tasks.items() if not task.done() and name not in self.wires]
        assert left == waiting
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values())


@named(QUEUES)
def test_queues(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        queues = Queues(vector, monkeypatch)
        for event in vector["events"]:
            await queues.play(event)
        await queues.end(vector.get("waiting", []))

    run(main())
