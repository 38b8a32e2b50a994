"""anyserve beside other servers, in one run. Run by `make bench-peers`; see docs/performance.md.

Time decides nothing here. A peer that cannot be installed, started or measured is listed with the reason; our own
servers must work.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.peers.catalogue import Peer, chosen
from benchmarks.peers.environments import NotInstalled, environment, version
from benchmarks.peers.questions import file_type, tensor
from benchmarks.peers.results import Bound, report_cases, report_cold_starts, report_servers
from benchmarks.peers.rounds import Case, measure_in_turns
from benchmarks.report import Report

pytestmark = [pytest.mark.peers, pytest.mark.timeout(4 * 3600)]

COLD_START_SECONDS = 0.8
SMALL = tensor(64)
MANY = Case("identity, 64-byte tensor, 64 at once", SMALL, 64)
ONE = Case("identity, 64-byte tensor, 1 at a time", SMALL, 1)
LARGE = Case("identity, 1 MiB tensor, 4 at once", tensor(1 << 20), 4)
FILES = Case("magika, 64 at once", file_type(), 64)
FILE = Case("magika, 1 at a time", file_type(), 1)

IDENTITY_BOUNDS = (
    Bound(MANY.name, "rate", "triton", "native", 1 / 8),
    Bound(MANY.name, "rate", "mlserver", "native", 1 / 20),
    Bound(MANY.name, "rate", "kserve", "native", 1 / 20),
    Bound(MANY.name, "rate", "grpc.aio", "native", 1 / 10),
    # One at a time, the mean latency is the inverse of the throughput.
    Bound(ONE.name, "rate", "triton", "native", 1 / 2),
    Bound(LARGE.name, "rate", "triton", "native", 1 / 3),
    Bound(LARGE.name, "cpu", "native", "triton", 1 / 3),
)
MAGIKA_BOUNDS = (
    Bound(FILES.name, "rate", "native", "native, batched", 1 / 2),
    Bound(FILES.name, "rate", "triton, batched", "native, batched", 1.0),
    Bound(FILES.name, "rate", "mosec, batched", "native, batched", 1.0),
)


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Shows a line now, not when the test is over."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text, flush=True)

    return line


def test_identity(report: Report, say: Callable[[str], None]) -> None:
    _measure(report, say, "echo", (MANY, ONE, LARGE), IDENTITY_BOUNDS)


def test_magika(report: Report, say: Callable[[str], None]) -> None:
    _measure(report, say, "magika", (FILES, FILE), MAGIKA_BOUNDS)


def _measure(
    report: Report, say: Callable[[str], None], model: str, cases: Sequence[Case], bounds: Sequence[Bound]
) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("not installed here: nghttp2-client")
    installed, absent = _installed(chosen(model), say)
    found = measure_in_turns(installed, cases, say)
    versions = {peer: f"{peer.distribution} {version(place, peer.distribution)}" for peer, place in installed.items()}
    report_cases(report, found, bounds)
    if model == "echo":
        report_cold_starts(report, found, "native", COLD_START_SECONDS)
    report_servers(report, f"Servers with {model}:", found, versions, absent)
    ours = {peer.name: each.failures for peer, each in found.items() if not peer.foreign and each.failures}
    assert not ours, ours


def _installed(peers: Sequence[Peer], say: Callable[[str], None]) -> tuple[dict[Peer, Path], dict[Peer, str]]:
    """Where each can run, or why it cannot."""
    places, absent = {}, {}
    for peer in peers:
        try:
            places[peer] = environment(peer.home, say) if peer.foreign else Path(sys.prefix)
        except NotInstalled as error:
            absent[peer] = f"not installed: {error}"
    return places, absent
