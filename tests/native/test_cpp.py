"""The C++ tests, under the sanitizers."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.native_build import sanitized

THREADED = ("event_loop", "shared_memory", "worker_clients", "worker_server", "handler_threads", "worker")
"""The rooms that others' threads call. TSan of all of them is for `make sanitize`: the other rooms have one thread."""
CHOSEN = os.environ.get("SANITIZERS", "").split()  # of `make sanitize`
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CHOSEN or ("asan", "tsan"))
def test_cpp(name: str) -> None:
    rooms = THREADED if name == "tsan" and not CHOSEN else ()
    directory = sanitized(name, f"ANYSERVE_TESTED_ROOMS={';'.join(rooms)}", target="native_tests")
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
