"""What the benchmarks share: the programs they compare with, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.report import Report

# The rest is imported where it is used: tests/benchmarks/pure runs without anyserve.


@pytest.fixture(scope="session")
def programs() -> Mapping[str, Path]:
    """The C++ programs by name."""
    from benchmarks.subjects import built_peers, missing_tools

    if missing := missing_tools():
        pytest.skip(f"not installed here: {', '.join(missing)}")
    return built_peers()


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Shown and written when the module's benchmarks are over."""
    from benchmarks.report import Report
    from benchmarks.subjects import ROOT

    name = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    found = Report(name)
    yield found
    if found.cases or found.aims or found.notes:
        files = found.write(ROOT / "build" / "benchmarks")
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n\n{found.text()}\nwritten: {', '.join(str(file.relative_to(ROOT)) for file in files)}")
