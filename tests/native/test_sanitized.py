"""The conformance suite on a native agent that is built with sanitizers: their first finding ends the agent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.native_build import build
from support.suite import conforms

RUN_WITH = Path(__file__).with_name("run_with.py")
SANITIZERS = {"asan": "address,undefined", "tsan": "thread"}
CHOSEN = os.environ.get("SANITIZERS", "asan").split()  # `make sanitize` runs both
# Python itself is not instrumented, and frees little at its end.
OPTIONS = {
    "asan": "ASAN_OPTIONS=detect_leaks=0:abort_on_error=1",
    "tsan": f"TSAN_OPTIONS=halt_on_error=1:abort_on_error=1:suppressions={Path(__file__).with_name('tsan.supp')}",
}
THREADS = {"asan": 1, "tsan": 3}
PROFILES = ("kserve-core", "agent-serving", "agent-management", "agent-streaming")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CHOSEN)
def test_sanitized_agent(name: str, tmp_path: Path) -> None:
    directory = build(
        name, f"ANYSERVE_SANITIZE={SANITIZERS[name]}", "ANYSERVE_TESTS=ON", "ANYSERVE_BINDINGS=ON", targets=("_native",)
    )
    (module,) = (directory / "bindings").glob("_native*.so")
    runtime = subprocess.run(
        ["c++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    command = f"env LD_PRELOAD={Path(runtime).resolve()} {OPTIONS[name]} {sys.executable} {RUN_WITH} {module}"
    agent = f"--impl native --io-threads {THREADS[name]} --port {{port}} --management-port {{management_port}}"
    conforms(
        f"native-{name}",
        *("--launch", f"{command} {agent}"),
        *(f"--profile={profile}" for profile in PROFILES),
        directory=tmp_path,
    )
