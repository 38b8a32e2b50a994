"""The native agent against its aims, beside what they are measured by, in one run. Run by `make bench`.

Time decides nothing here: what is checked is that each request was answered as it should be. See docs/performance.md.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from anyserve import ModelInferResponse
from benchmarks import machine
from benchmarks.idle import open_connections
from benchmarks.limits import limits
from benchmarks.load import Load, run
from benchmarks.measuring import Measured, Trial, measure, ratio
from benchmarks.prepared import Prepared, ask, by_name, prepare, tensor, tokens
from benchmarks.registering import register_many
from benchmarks.report import Report
from benchmarks.subjects import Subject, agent, echo_worker, grpcio_server, implementations, nghttpd, peer
from benchmarks.trials import trial

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

MIB = 1 << 20
CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "10000"))
REGISTRATIONS = int(os.environ.get("BENCH_REGISTRATIONS", "100000"))
FEW_REGISTRATIONS = 100
SPARE_DESCRIPTORS = 256
CLIENTS = 128
"""Connections of the paced load: with one request at a time on each, h2load spreads them best."""
TOKENS = 50
BY_HAND = "grpc_aio grpc_threads"


@dataclass(frozen=True, slots=True)
class Bench:
    """The running subjects by name; `native` and `grpc_cpp` may not be among them."""

    subjects: Mapping[str, Subject]
    report: Report
    directory: Path
    limits: Path

    def measure(
        self, case: str, names: str, request: Prepared, *, limit: int = 0, **options: object
    ) -> dict[str, Measured]:
        """Measures those of the named subjects that are there, and reports it; with `limit`, beside what a message of
        so many bytes costs at least.
        """
        trials = {
            name: trial(self.subjects[name], request, **options)  # type: ignore[arg-type]
            for name in names.split()
            if name in self.subjects
        }
        found = measure(trials)
        at_once = options.get("streams", 1)
        assert isinstance(at_once, int)
        self.report.case(case, found | dict(limits(self.limits, limit, at_once) if limit else ()))
        return found

    def aim(self, text: str, limit: float, found: Mapping[str, Measured], other: str, figure: str = "cpu") -> None:
        """What the native agent has of a figure, to what another subject has, if both are there."""
        if {"native", other} <= found.keys():
            self.report.aim(text, limit, ratio(getattr(found["native"], figure), getattr(found[other], figure)))


@pytest.fixture(scope="module")
def worker(programs: Mapping[str, Path]) -> Iterator[str]:
    with echo_worker(programs["echo_worker"]) as path:
        yield path


@pytest.fixture(scope="module")
def bench(
    programs: Mapping[str, Path], worker: str, report: Report, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("bodies")
    with ExitStack() as running:
        enter = running.enter_context
        found = [enter(nghttpd()), *(enter(agent(impl)) for impl in implementations())]
        for subject in found:
            if subject.management:
                subject.register("w", worker)
        found += [enter(peer(programs["http2_echo"])), *(enter(grpcio_server(kind)) for kind in ("aio", "threads"))]
        socket = f"{directory}/s"
        enter(peer(programs["http2_echo"], socket))
        found.append(enter(peer(programs["relay"], socket)))
        if "grpc_cpp_echo" in programs:
            found.append(enter(peer(programs["grpc_cpp_echo"], name="grpc_cpp")))
        subjects = {subject.name: subject for subject in found}
        for name, what in (("native", "the native agent"), ("grpc_cpp", "gRPC C++ (Debian: libgrpc++-dev)")):
            if name not in subjects:
                report.note(f"{what} is not installed here")
        yield Bench(subjects, report, directory, programs["limits"])


def test_not_found(bench: Bench) -> None:
    request = prepare(bench.directory, "ModelInfer", tensor(64, model="nothing"))
    found = bench.measure(
        "NOT_FOUND, 64 streams", "nghttpd native reference", request, streams=64, status=grpc.StatusCode.NOT_FOUND
    )
    bench.aim("NOT_FOUND, 64 streams: CPU / nghttpd's", 1.2, found, "nghttpd")


def test_small_tensor_64_streams(bench: Bench) -> None:
    request = prepare(bench.directory, "ModelInfer", tensor(64))
    replies = ask(bench.subjects["reference"].port, request)
    assert isinstance(replies, list)
    assert ModelInferResponse.FromString(replies[0]).raw_output_contents == [bytes(64)]
    names = f"nghttpd http2_echo native grpc_cpp reference {BY_HAND}"
    found = bench.measure("64-byte tensor, 64 streams", names, request, limit=64, streams=64)
    bench.aim("64-byte tensor, 64 streams: CPU / nghttpd's", 2.5, found, "nghttpd")
    bench.aim("64-byte tensor, 64 streams: CPU / gRPC C++'s without a hop", 1 / 3, found, "grpc_cpp")
    bench.aim("64-byte tensor, 64 streams: CPU / the reference agent's", 1 / 40, found, "reference")


def test_small_tensor_1_stream(bench: Bench) -> None:
    request = prepare(bench.directory, "ModelInfer", tensor(64))
    names = f"nghttpd http2_echo native grpc_cpp reference {BY_HAND}"
    found = bench.measure("64-byte tensor, 1 stream", names, request, limit=64)
    bench.aim("64-byte tensor, 1 stream: p50 / gRPC C++'s without a hop", 0.7, found, "grpc_cpp", "p50")


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("mib", [1, 16])
def test_large_tensor(bench: Bench, mib: int, streams: int) -> None:
    request = prepare(bench.directory, "ModelInfer", tensor(mib * MIB))
    case = f"{mib} MiB tensor, streams: {streams}"
    names = f"relay native grpc_cpp reference {BY_HAND}"
    found = bench.measure(case, names, request, limit=mib * MIB, streams=streams)
    bench.aim(f"{case}: CPU / the relay's", 1.05, found, "relay")


def test_streamed_tokens(bench: Bench) -> None:
    request = prepare(bench.directory, "ModelStreamInfer", tokens(TOKENS))
    case = f"streams of {TOKENS} tokens, 64 at once (each token)"
    found = bench.measure(case, "nghttpd native reference", request, streams=64, units=TOKENS)
    bench.aim("streamed tokens, 64 streams: CPU of each / nghttpd's of a response", 2.0, found, "nghttpd")


def test_latency_at_half_load(bench: Bench) -> None:
    request = prepare(bench.directory, "ModelInfer", tensor(64))
    names = [name for name in ("nghttpd", "native", "grpc_cpp") if name in bench.subjects]
    top = measure({name: trial(bench.subjects[name], request, connections=CLIENTS) for name in names})
    rates = {name: statistics.median(found.rate) for name, found in top.items()}
    found = measure(
        {
            name: trial(bench.subjects[name], request, connections=CLIENTS, streams=4, per_second=rate / 2)
            for name, rate in rates.items()
        }
    )
    bench.report.case(f"64-byte tensor, {CLIENTS} connections, top load", top)
    bench.report.case(f"64-byte tensor, {CLIENTS} connections, half of that", found)
    if "native" in found:
        bench.report.aim("p99 / p50 at half of the top load", 3.0, ratio(found["native"].p99, found["native"].p50))


def test_memory_under_load(programs: Mapping[str, Path], worker: str, report: Report, tmp_path: Path) -> None:
    requests = {(64, 1): 640, (16, 16): 64}  # streams and MiB of each: how many
    for name in [*implementations(), *(["grpc_cpp"] if "grpc_cpp_echo" in programs else [])]:
        with peer(programs["grpc_cpp_echo"]) if name == "grpc_cpp" else agent(name) as subject:
            if subject.management:
                subject.register("w", worker)
            figures = [f"{machine.memory(subject.pid).now / MIB:.0f} MiB at the start"]
            for (streams, mib), count in requests.items():
                request = prepare(tmp_path, "ModelInfer", tensor(mib * MIB))
                machine.forget_peak(subject.pid)
                run(subject.port, Load(request.path, request.body, streams=streams), count)
                memory = machine.memory(subject.pid)
                after, peak = memory.now / MIB, memory.peak / MIB
                figures.append(f"{after:.0f} after {count} × {mib} MiB, {streams} at once (peak {peak:.0f})")
            report.note(f"resident memory, {name}: {', '.join(figures)}")


def test_idle_connections(programs: Mapping[str, Path], report: Report) -> None:
    count = machine.room_for_descriptors(CONNECTIONS + SPARE_DESCRIPTORS) - SPARE_DESCRIPTORS
    with ExitStack() as running:
        subjects = [running.enter_context(agent(impl)) for impl in implementations()]
        subjects.append(running.enter_context(nghttpd()))
        if "grpc_cpp_echo" in programs:
            subjects.append(running.enter_context(peer(programs["grpc_cpp_echo"], name="grpc_cpp")))
        for subject in subjects:
            speaks_grpc = subject.name != "nghttpd"
            with open_connections(subject, FEW_REGISTRATIONS, grpc=speaks_grpc):
                pass  # what the first connections bring is no cost of each
            before = machine.memory(subject.pid).now
            with open_connections(subject, count, grpc=speaks_grpc):
                each = (machine.memory(subject.pid).now - before) / count / 1024
            report.note(f"resident memory of each of {count:,} idle connections, {subject.name}: {each:.1f} KiB")
            if subject.name == "native":
                report.aim(f"each of {count:,} idle connections", 16, each, "KiB")


def test_many_registrations(worker: str, report: Report, tmp_path: Path) -> None:
    if "native" not in implementations():
        pytest.skip("the native agent is not installed here")
    with ExitStack() as running:
        trials: dict[str, dict[str, Trial]] = {}
        for count in (FEW_REGISTRATIONS, REGISTRATIONS):
            option = f"--max-registrations={count}"
            subject = running.enter_context(agent("native", option, name=f"native, {count:,} registrations"))
            for case, found in _lookups(subject, register_many(subject, worker, count), tmp_path).items():
                trials.setdefault(case, {})[subject.name] = found
        for case, each in trials.items():
            measured = measure(each)
            report.case(case, measured)
            few, many = measured.values()
            report.aim(f"{case}: CPU with {REGISTRATIONS:,} / with {FEW_REGISTRATIONS}", 1.5, ratio(many.cpu, few.cpu))


def _lookups(subject: Subject, name: str, directory: Path) -> dict[str, Trial]:
    """Requests that need the registry in different ways; some answered by the agent alone, where it weighs most."""
    ready = prepare(directory, "ModelReady", by_name(name))
    infer = prepare(directory, "ModelInfer", tensor(64, model=name))
    unknown = prepare(directory, "ModelInfer", tensor(64, model="nothing"))
    not_found = grpc.StatusCode.NOT_FOUND
    return {
        "ModelReady by name": trial(subject, ready, streams=64),
        "forwarding by name": trial(subject, infer, streams=64),
        "forwarding by a query of exact keys": trial(
            subject, unknown, streams=64, metadata={"x-cap-type": "echo", "x-cap-model": name}
        ),
        "NOT_FOUND by name": trial(subject, unknown, streams=64, status=not_found),
        "NOT_FOUND by a query of exact keys": trial(
            subject, unknown, streams=64, status=not_found, metadata={"x-cap-model": "nothing"}
        ),
    }
