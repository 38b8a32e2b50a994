"""The reference agent beside a bare `grpc.aio` forwarder, in one run. Run by `make bench`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.load import Load
from benchmarks.measuring import Trial, measure, ratio
from benchmarks.prepared import ask, prepare, tensor
from benchmarks.report import Report
from benchmarks.subjects import Subject, agent, echo_worker, peer

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

FORWARDER = Path(__file__).with_name("grpc_aio_forwarder.py")


@pytest.fixture(scope="module")
def subjects(programs: Mapping[str, Path]) -> Iterator[list[Subject]]:
    with ExitStack() as running:
        worker = running.enter_context(echo_worker(programs["echo_worker"]))
        reference = running.enter_context(agent("reference"))
        reference.register("w", worker)
        forwarder = peer(Path(sys.executable), str(FORWARDER), worker, name="forwarder")
        yield [reference, running.enter_context(forwarder)]


@pytest.mark.parametrize("streams", [1, 64])
def test_agent_beside_a_bare_forwarder(subjects: list[Subject], report: Report, tmp_path: Path, streams: int) -> None:
    request = prepare(tmp_path, "ModelInfer", tensor(64))
    trials = {}
    for subject in subjects:
        replies = ask(subject.port, request)
        assert isinstance(replies, list)
        load = Load(request.path, request.body, streams=streams)
        trials[subject.name] = Trial(subject, load, len(replies[0]) + 5)
    found = measure(trials)
    report.case(f"64-byte tensor, streams: {streams}", found)
    report.note(
        f"streams: {streams}: CPU of agent / forwarder {ratio(found['reference'].cpu, found['forwarder'].cpu):.2f}"
    )
