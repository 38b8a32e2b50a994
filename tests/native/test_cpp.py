"""The C++ tests, under the sanitizers."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.native_build import build

SANITIZERS = {"asan": "address,undefined", "tsan": "thread"}
CHOSEN = os.environ.get("SANITIZERS", "asan").split()  # `make sanitize` runs both
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CHOSEN)
def test_cpp(name: str) -> None:
    directory = build(name, f"ANYSERVE_SANITIZE={SANITIZERS[name]}", "ANYSERVE_TESTS=ON", targets=("native_tests",))
    done = subprocess.run(
        [directory / "tests" / "native_tests", "--gtest_brief=1", "--gtest_shuffle"],
        env=os.environ | OPTIONS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    print(done.stdout[-2_000:])
    assert done.returncode == 0, done.stdout[-20_000:]
