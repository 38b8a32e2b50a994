"""What pytest-benchmark tells of these counts: their unit, and whose they are."""

from __future__ import annotations

import contextlib

import pytest

from benchmarks.pure.instructions import TREE


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_scale_unit(unit: str) -> tuple[str, float]:
    """Counts are shown as they are; pytest-benchmark appends the plural."""
    return ("instruction" if unit == "seconds" else ""), 1.0


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_commit_info() -> object:
    """Of the measured tree, not of this one."""
    from pytest_benchmark.utils import get_commit_info

    with contextlib.chdir(TREE):
        return get_commit_info("anyserve")
