"""A Python handler behind the agent: what both cost, on both worker loops, beside what one would write by hand.

Run by `make bench`. Time decides nothing here; see docs/performance.md.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from anyserve import ModelInferResponse
from anyserve.worker.loops import available_worker_io
from benchmarks import machine
from benchmarks.limits import limits
from benchmarks.measuring import ROUNDS, Measured, measure, ratio
from benchmarks.prepared import Prepared, ask, prepare, tensor, tokens
from benchmarks.report import Report
from benchmarks.subjects import ROOT, Subject, agent, grpcio_server, implementations, peer, served
from benchmarks.trials import trial
from support.command import started
from support.processes import Running, eventually

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

MIB = 1 << 20
TOKENS = 500
APP = "python_worker_app:app"
NATIVE = "native agent, native loop"
IDLE = "import signal; print('up', flush=True); signal.pause()"
"""A program that does nothing, in a bare interpreter."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The running subjects by name: anyserve's first, then servers that answer by themselves."""

    subjects: Mapping[str, Subject]
    report: Report
    directory: Path
    limits: Path

    def measure(
        self, case: str, message: bytes, *, method: str = "ModelInfer", among: str = "", limit: int = 0, **options: int
    ) -> dict[str, Measured]:
        """Measures all subjects whose name has `among` in it, and reports it."""
        request = prepare(self.directory, method, message)
        trials = {
            name: trial(subject, request, **options)  # type: ignore[arg-type]
            for name, subject in self.subjects.items()
            if among in name
        }
        found = measure(trials)
        extra = dict(limits(self.limits, limit, options["streams"])) if limit else {}
        self.report.case(case, found | extra)
        return found


@pytest.fixture(scope="module")
def bench(programs: Mapping[str, Path], report: Report, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ExitStack() as running:
        enter = running.enter_context
        found = [
            enter(served(APP, impl, worker_io))
            for impl in reversed(implementations())
            for worker_io in reversed(available_worker_io())
        ]
        found += [enter(grpcio_server(kind)) for kind in ("aio", "threads")]
        if "grpc_cpp_echo" in programs:
            found.append(enter(peer(programs["grpc_cpp_echo"], name="grpc_cpp")))
        else:
            report.note("gRPC C++ (Debian: libgrpc++-dev) is not installed here")
        directory = tmp_path_factory.mktemp("bodies")
        yield Bench({subject.name: subject for subject in found}, report, directory, programs["limits"])


def test_small_tensor_64_streams(bench: Bench) -> None:
    message = tensor(64, "tensors")
    for name, subject in bench.subjects.items():
        replies = ask(subject.port, prepare(bench.directory, "ModelInfer", message))
        assert isinstance(replies, list), f"{name}: {replies}"
        assert name == "grpc_cpp" or ModelInferResponse.FromString(replies[0]).raw_output_contents == [bytes(64)]
    case = "arrays, 64 bytes, 64 streams"
    found = bench.measure(case, message, limit=64, streams=64)
    if NATIVE not in found:
        return
    ours = found[NATIVE]
    aim = bench.report.aim
    aim(f"{case}: requests per second, grpc.aio's / ours", 1 / 10, ratio(found["grpc_aio"].rate, ours.rate))
    if "grpc_cpp" in found:
        aim(f"{case}: CPU of agent and worker / gRPC C++'s", 1.0, ratio(ours.cpu, found["grpc_cpp"].cpu))
    aim(f"{case}: CPU of the worker", 12, statistics.median(ours.shares["worker"]), "µs")


def test_small_tensor_1_stream(bench: Bench) -> None:
    bench.measure("arrays, 64 bytes, 1 stream", tensor(64, "tensors"), limit=64, streams=1)


def test_large_tensor(bench: Bench) -> None:
    bench.measure("arrays, 1 MiB, 4 streams", tensor(MIB, "tensors"), limit=MIB, streams=4)


def test_message(bench: Bench) -> None:
    bench.measure("messages, 64 bytes, 64 streams", tensor(64, "message"), streams=64)


@pytest.mark.parametrize("streams", [1, 64])
def test_streamed_tokens(bench: Bench, streams: int) -> None:
    case = f"async generator, {TOKENS} tokens, streams: {streams} (each token)"
    options = {"among": " loop", "streams": streams, "units": TOKENS}
    found = bench.measure(case, tokens(TOKENS), method="ModelStreamInfer", **options)  # type: ignore[arg-type]
    if NATIVE in found:
        bench.report.aim(f"{case}: time for each", 5, 1e6 / statistics.median(found[NATIVE].rate), "µs")


def test_memory_of_the_agent(report: Report) -> None:
    idle = Running([sys.executable, "-c", IDLE])
    try:
        eventually(lambda: idle.printed, "the interpreter is up")
        interpreter = machine.memory(idle.pid).now
    finally:
        idle.kill_all()
    for impl in implementations():
        with agent(impl) as subject:
            beyond = (machine.memory(subject.pid).now - interpreter) / MIB
        text = f"resident memory of the {impl} agent beyond a bare interpreter's {interpreter / MIB:.0f} MiB"
        if impl == "native":
            report.aim(text, 40, beyond, "MiB")
        else:
            report.note(f"{text}: {beyond:.0f} MiB")


def test_cold_start(report: Report, tmp_path: Path) -> None:
    """From the command to the first answer of its handler."""
    request = prepare(tmp_path, "ModelInfer", tensor(64, "echo"))
    for impl in implementations():
        seconds = [_cold_start(impl, request) for _ in range(ROUNDS)]
        spread = f"{min(seconds):.2f}–{max(seconds):.2f}"
        text = f"from `anyserve examples.basic.app:app --impl {impl}` to the first answer ({spread})"
        report.aim(text, 0.8, statistics.median(seconds), "s")


def _cold_start(impl: str, request: Prepared) -> float:
    begin = time.perf_counter()
    with started("examples.basic.app:app", f"--impl={impl}", directory=ROOT) as instance:
        port = int(instance.address.rpartition(":")[2])
        eventually(lambda: isinstance(ask(port, request), list), "an answer")
        seconds = time.perf_counter() - begin
        assert instance.stop() == 0, instance.stderr
    return seconds
