"""Very many requests, of all kinds, with all that can go wrong beside them: does the agent keep what it should not?

Usage: soak.py [--impl native|reference]. SOAK_REQUESTS (1,000,000) says how many. Run by `make soak`.

Requests come in rounds. A round opens new connections for small and large unary calls, for calls of an unknown model
and for streams; meanwhile it replaces the worker and kills the old one, cancels streams and calls, lets deadlines pass,
and resets connections in the middle of a request. At its end nothing is under way, and what the agent holds is looked
at.

Exit status 1 if a request was lost (no answer, or a status that does not belong to what was done), if resident memory
grows once warm, or if descriptors stay open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stderr
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import machine  # noqa: E402
from benchmarks.load import Load, run  # noqa: E402
from benchmarks.prepared import MAX_MESSAGE, Prepared, ask, prepare, tensor, tokens  # noqa: E402
from benchmarks.subjects import ROOT, Subject, agent, built_peers, echo_worker, missing_tools  # noqa: E402

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "1000000"))
WARM_UP = 0.2
"""The part of the requests after which memory must be flat."""
BYTES_PER_REQUEST = 2.0
"""Growth of resident memory, once warm, above which something is kept: the slope of a line through all rounds."""
NOISE_BYTES = 2 << 20
"""What the line may rise over the whole soak all the same: an allocator's pages come and go."""
REPORT_SECONDS = 5.0
REPORTS = ROOT / "build" / "benchmarks"
SETTLING_SECONDS = 0.1
ROUNDS_TO_JUDGE = 5

SMALL, CALM, UNKNOWN, LARGE, STREAMS = 12_000, 6_000, 1_000, 40, 200
"""Requests of a round, by kind; `CALM` are small ones while no worker is killed."""
TOKENS = 20
PLACES = 10
"""Exchanges under way at once on the worker's unary capability: no more can be lost with it."""
CANCELLED, DEADLINES, RESETS = 60, 60, 20
FRAMING = 5

Calls = dict[str, Prepared]


@dataclass(slots=True)
class Tally:
    """What happened so far."""

    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """Of the calls that grpcio made, by what was done to them."""
    dropped: int = 0
    """Requests that failed because their worker was killed."""
    kills: int = 0
    kills_under_load: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the agent holds at the end of a round, when nothing is under way."""

    requests: int
    seconds: float
    resident: int
    descriptors: int


class Soak:
    """One agent and its changing worker under load.

    Args:
        subject: the agent.
        program: the echo worker.
        directory: for bodies.
    """

    def __init__(self, subject: Subject, program: Path, directory: Path) -> None:
        self.subject = subject
        self.tally = Tally()
        self._program = program
        self._worker = ExitStack()
        self._random = random.Random(0)
        self._calls: Calls = {
            "small": prepare(directory, "ModelInfer", tensor(64)),
            "large": prepare(directory, "ModelInfer", tensor(1 << 20)),
            "unknown": prepare(directory, "ModelInfer", tensor(64, model="nothing")),
            "stream": prepare(directory, "ModelStreamInfer", tokens(TOKENS)),
            "endless": prepare(directory, "ModelStreamInfer", tokens(1 << 40)),
        }
        self.start_worker()
        self._sizes = {name: self._size(name) for name in ("small", "large", "unknown", "stream")}

    def start_worker(self) -> None:
        """Starts a worker, and then kills the one before it, if there is one."""
        before, self._worker = self._worker, ExitStack()
        self.subject.register(f"w{self.tally.kills}", self._worker.enter_context(echo_worker(self._program)))
        before.close()

    def close(self) -> None:
        self._worker.close()

    def round(self) -> None:
        """All kinds of requests once."""
        with ThreadPoolExecutor() as pool:
            storm = [
                pool.submit(self._load, "small", SMALL, connections=4, streams=8, kills=True),
                pool.submit(self._load, "large", LARGE, connections=2, streams=4, kills=True),
                pool.submit(self._load, "unknown", UNKNOWN, connections=2, streams=16),
            ]
            self.tally.kills += 1
            self.start_worker()
            self.tally.kills_under_load += not storm[0].done()
            self._reset_connections()
            for load in storm:
                load.result()
            calm = pool.submit(self._load, "small", CALM, connections=1, streams=64)
            asyncio.run(self._disturb())
            calm.result()
            self._load("large", LARGE, connections=2, streams=4)
            self._load("stream", STREAMS, connections=2, streams=8)

    def sample(self, began: float) -> Sample:
        """What the agent holds, once it has closed what its clients have."""
        pid = self.subject.pid
        last = -1
        while last != (last := machine.descriptors(pid)):
            time.sleep(SETTLING_SECONDS)
        return Sample(self.tally.requests, time.monotonic() - began, machine.memory(pid).now, machine.descriptors(pid))

    def _size(self, name: str) -> int:
        found = ask(self.subject.port, self._calls[name], stream=name == "stream")
        return sum(len(reply) + FRAMING for reply in found) if isinstance(found, list) else 0

    def _load(self, name: str, count: int, *, connections: int, streams: int, kills: bool = False) -> None:
        """Load by h2load: all is answered, and with the whole reply but for what a killed worker had."""
        call, size = self._calls[name], self._sizes[name]
        try:
            outcome = run(self.subject.port, Load(call.path, call.body, connections, streams), count)
        except (AssertionError, subprocess.SubprocessError) as error:
            self.tally.faults.append(f"{name}: not all of {count} requests were answered\n{error}")
            return
        self.tally.requests += count
        whole, rest = divmod(outcome.data_bytes, size) if size else (count, outcome.data_bytes)
        self.tally.dropped += count - whole
        if rest or count - whole > (PLACES if kills else 0):
            self.tally.faults.append(f"{name}: {whole} of {count} were answered with a reply, and {rest} bytes beside")

    async def _disturb(self) -> None:
        """Cancels streams and calls, and lets deadlines pass."""
        options = [*MAX_MESSAGE, ("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.subject.port}", options=options) as channel:
            await asyncio.gather(
                *(self._cancel_stream(channel) for _ in range(CANCELLED)),
                *(self._cancel_call(channel) for _ in range(CANCELLED)),
                *(self._deadline(channel) for _ in range(DEADLINES)),
            )
        self.tally.requests += 2 * CANCELLED + DEADLINES

    async def _cancel_stream(self, channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_stream(self._calls["endless"].path)(timeout=60)
        await call.write(self._calls["endless"].message)
        for _ in range(self._random.randrange(1, TOKENS)):
            await call.read()
        call.cancel()
        self._count("cancelled stream", await call.code(), grpc.StatusCode.CANCELLED)

    async def _cancel_call(self, channel: grpc.aio.Channel) -> None:
        infer: Any = channel.unary_unary(self._calls["large"].path)
        call = infer(self._calls["large"].message, timeout=60)
        await asyncio.sleep(self._random.random() / 10)  # anywhere in its life
        call.cancel()
        self._count("cancelled call", await call.code(), grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)

    async def _deadline(self, channel: grpc.aio.Channel) -> None:
        seconds = self._random.choice((0.001, 0.02, 0.5))
        infer: Any = channel.unary_unary(self._calls["small"].path)
        call = infer(self._calls["small"].message, timeout=seconds)
        self._count("short deadline", await call.code(), grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK)

    def _count(self, what: str, status: grpc.StatusCode, *expected: grpc.StatusCode) -> None:
        self.tally.statuses[f"{what}: {status.name}"] += 1
        if status not in expected:
            self.tally.faults.append(f"{what}: {status.name}")

    def _reset_connections(self) -> None:
        """Clients that go in the middle of a request, without a word of TCP's."""
        start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        for _ in range(RESETS):
            with socket.create_connection(("127.0.0.1", self.subject.port), timeout=30) as sock:
                sock.sendall(start[: self._random.randrange(1, len(start) + 1)])
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def verdict(samples: list[Sample], tally: Tally) -> list[str]:
    """What is wrong."""
    wrong = [f"{len(tally.faults)} requests or runs ended otherwise than they should:", *tally.faults[:20]]
    wrong = wrong if tally.faults else []
    warm = [sample for sample in samples if sample.requests >= WARM_UP * samples[-1].requests]
    if len(warm) < ROUNDS_TO_JUDGE:
        print(f"too few rounds to tell whether memory is flat: {len(warm)} once warm, of {ROUNDS_TO_JUDGE} needed")
    else:
        slope = statistics.linear_regression([s.requests for s in warm], [s.resident for s in warm]).slope
        risen = slope * (warm[-1].requests - warm[0].requests)
        flat = slope <= BYTES_PER_REQUEST or risen <= NOISE_BYTES
        print(f"resident memory once warm: {slope:+.2f} bytes a request, {'flat' if flat else 'growing'}")
        if not flat:
            wrong.append(f"resident memory grows by {slope:.2f} bytes a request, {risen / 2**20:.1f} MiB in all")
    extra = samples[-1].descriptors - samples[0].descriptors
    print(f"descriptors: {samples[0].descriptors} after the first round, {samples[-1].descriptors} after the last")
    if extra > PLACES:
        wrong.append(f"{extra} descriptors more are open at the end than after the first round")
    return wrong


def soak(impl: str, programs: Mapping[str, Path]) -> int:
    """Runs the rounds; the exit status."""
    samples: list[Sample] = []
    REPORTS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        # What the processes say.
        held.enter_context(redirect_stderr(held.enter_context((REPORTS / f"soak-{impl}.log").open("w"))))
        directory = held.enter_context(tempfile.TemporaryDirectory())
        subject = held.enter_context(agent(impl))
        run_ = Soak(subject, programs["echo_worker"], Path(directory))
        began = told = time.monotonic()
        try:
            while run_.tally.requests < REQUESTS:
                run_.round()
                samples.append(run_.sample(began))
                if time.monotonic() - told >= REPORT_SECONDS:
                    told = time.monotonic()
                    show(samples[-1])
        finally:
            run_.close()
        show(samples[-1])
    tally = run_.tally
    print(
        f"{tally.kills} workers killed, {tally.kills_under_load} of them under load: "
        f"{tally.dropped} requests failed with them"
    )
    for what, count in sorted(tally.statuses.items()):
        print(f"{what}: {count:,}")
    wrong = verdict(samples, tally)
    write(impl, samples, tally, wrong)
    print("\n".join(wrong) or "nothing was lost, and nothing was kept")
    return 1 if wrong else 0


def show(sample: Sample) -> None:
    """One line of progress."""
    resident = f"{sample.resident / 2**20:.1f} MiB resident"
    print(
        f"{sample.requests:>9,} requests, {sample.seconds:6.0f} s, {resident}, {sample.descriptors} descriptors",
        flush=True,
    )


def write(impl: str, samples: list[Sample], tally: Tally, wrong: list[str]) -> None:
    """Writes soak-IMPL.json beside the log."""
    content = {
        "machine": machine.description(),
        "wrong": wrong,
        "requests": tally.requests,
        "kills": tally.kills,
        "kills_under_load": tally.kills_under_load,
        "dropped": tally.dropped,
        "statuses": tally.statuses,
        "samples": [asdict(sample) for sample in samples],
    }
    (REPORTS / f"soak-{impl}.json").write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=("native", "reference"), default="native")
    arguments = parser.parse_args()
    if missing := missing_tools():
        print(f"not installed here: {', '.join(missing)}", file=sys.stderr)
        return 2
    return soak(arguments.impl, built_peers())


if __name__ == "__main__":
    sys.exit(main())
