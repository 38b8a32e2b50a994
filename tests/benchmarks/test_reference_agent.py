"""The reference agent beside a bare `grpc.aio` forwarder, in one run: requests per second and CPU per request.

CPU is that of the subject's process alone, from the operating system's accounts.
Rounds are interleaved, so that a busy neighbour slows both. Run by `make bench`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest

from anyserve import ModelInferRequest, rpc
from anyserve._proto import grpc_predict_v2_pb2

pytestmark = pytest.mark.benchmark

SUBJECTS = Path(__file__).with_name("subjects.py")
KSERVE = grpc_predict_v2_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
ROUNDS = 5
REQUESTS = {1: 1500, 64: 4000}
WARM_UP = 300
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Subject:
    """A running subject."""

    name: str
    process: subprocess.Popen[str]
    port: int

    def cpu_seconds(self) -> float:
        """What its process has used so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def _start(role: str, path: str) -> Subject:
    process = subprocess.Popen([sys.executable, str(SUBJECTS), role, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return Subject(role, process, int(process.stdout.readline()))


@pytest.fixture
def subjects() -> Iterator[list[Subject]]:
    with tempfile.TemporaryDirectory(prefix="as") as directory:
        path = f"{directory}/w"
        running = [_start("worker", path)]
        try:
            running += [_start(role, path) for role in ("agent", "forwarder")]
            yield running[1:]
        finally:
            for subject in running:
                subject.process.kill()
                subject.process.wait()


async def _load(port: int, requests: int, concurrency: int) -> None:
    request = ModelInferRequest(model_name="echo", id="1", raw_input_contents=[bytes(64)])
    request.inputs.add(name="x", datatype="FP32", shape=[16])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = rpc.callables(channel, KSERVE)["ModelInfer"]

        async def client() -> None:
            for _ in range(requests // concurrency):
                reply = await infer(request)
                assert reply.raw_output_contents == request.raw_input_contents

        await asyncio.gather(*(client() for _ in range(concurrency)))


@pytest.mark.parametrize("concurrency", [1, 64])
def test_agent_beside_a_bare_forwarder(
    subjects: list[Subject], concurrency: int, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = REQUESTS[concurrency]
    rates: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    costs: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for subject in subjects:
        asyncio.run(_load(subject.port, WARM_UP, 1))
    for _ in range(ROUNDS):
        for subject in subjects:
            cpu, began = subject.cpu_seconds(), time.perf_counter()
            asyncio.run(_load(subject.port, requests, concurrency))
            rates[subject.name].append(requests / (time.perf_counter() - began))
            costs[subject.name].append((subject.cpu_seconds() - cpu) / requests * 1e6)
    with capsys.disabled():
        print(f"\nconcurrency {concurrency}, 64-byte tensor, {ROUNDS} rounds of {requests}: minimum / median / maximum")
        for name, measured in rates.items():
            rate, cost = sorted(measured), sorted(costs[name])
            print(
                f"  {name:10} {rate[0]:7.0f} / {statistics.median(rate):7.0f} / {rate[-1]:7.0f} req/s"
                f"   {cost[0]:6.0f} / {statistics.median(cost):6.0f} / {cost[-1]:6.0f} µs CPU per request"
            )
        ratio = statistics.median(costs["agent"]) / statistics.median(costs["forwarder"])
        print(f"  agent / forwarder, CPU per request: {ratio:.2f}")
