"""What the benchmarks share: the programs they compare with, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.report import Report
from benchmarks.subjects import ROOT, built_peers, missing_tools


@pytest.fixture(scope="session")
def programs() -> Mapping[str, Path]:
    """The C++ programs by name."""
    if missing := missing_tools():
        pytest.skip(f"not installed here: {', '.join(missing)}")
    return built_peers()


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Shown and written when the module's benchmarks are over."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    found = Report(name)
    yield found
    if found.cases:
        found.write(ROOT / "build" / "benchmarks")
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n\n{found.text()}\nwritten to build/benchmarks/{name}.md and {name}.json")
