"""Instructions of the pure parts of both agents. Run and compared by `make bench-compare`; see docs/performance.md."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.pure.instructions import (
    CLOCK,
    NATIVE,
    REFERENCE,
    SHIFTS,
    TREE,
    missing_tools,
    native_count,
    parts_of_the_tree,
    reference_count,
)

pytestmark = [
    pytest.mark.benchmark(timer=CLOCK),
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing_tools()), reason=f"not installed here: {', '.join(missing_tools())}"),
]


@pytest.fixture(autouse=True)
def in_the_tree(request: pytest.FixtureRequest, part: str) -> None:
    impl = request.function.__name__.removeprefix("test_")
    if part not in parts_of_the_tree(impl):
        pytest.skip(f"{TREE} has no such part")


@pytest.mark.parametrize("part", NATIVE)
def test_native(benchmark: Any, part: str) -> None:
    benchmark.pedantic(CLOCK.advance, (native_count(part),))


@pytest.mark.parametrize("part", REFERENCE)
def test_reference(benchmark: Any, part: str) -> None:
    counts = [reference_count(part, shift) for shift in SHIFTS]
    benchmark.pedantic(lambda: CLOCK.advance(counts.pop()), rounds=len(counts))
