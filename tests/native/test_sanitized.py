"""The conformance suite on a native agent that is built with sanitizers: their first finding ends the agent."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.native_build import sanitized
from support.suite import conforms

RUN_WITH = Path(__file__).with_name("run_with.py")
CHOSEN = os.environ.get("SANITIZERS", "").split()  # of `make sanitize`
# Python itself is not instrumented, and frees little at its end.
OPTIONS = {
    "asan": "ASAN_OPTIONS=detect_leaks=0:abort_on_error=1",
    "tsan": f"TSAN_OPTIONS=halt_on_error=1:abort_on_error=1:suppressions={Path(__file__).with_name('tsan.supp')}",
}
THREADS = {"asan": 1, "tsan": 3}
PROFILES = ("kserve-core", "agent-serving", "agent-management", "agent-streaming")
SHORT = ("agent-management", "agent-streaming")
"""Of each `make test`: where threads of Python and of the agent meet most."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CHOSEN or ("tsan",))
def test_sanitized_agent(name: str, tmp_path: Path) -> None:
    directory = sanitized(name, target="_native")
    (module,) = (directory / "bindings").glob("_native*.so")
    command = f"env LD_PRELOAD={runtime(name)} {OPTIONS[name]} {sys.executable} {RUN_WITH} {module}"
    agent = f"--impl native --io-threads {THREADS[name]} --port {{port}} --management-port {{management_port}}"
    conforms(
        f"native-{name}",
        *("--launch", f"{command} {agent}"),
        *(f"--profile={profile}" for profile in (PROFILES if CHOSEN else SHORT)),
        directory=tmp_path,
    )


def runtime(name: str) -> Path:
    """The sanitizer's library, which Python must load first."""
    # GCC's TSan serves clang's code too, and clang 14's does not start everywhere. Their ASan are two things.
    compiler, library = "c++", f"lib{name}.so"
    if name == "asan" and shutil.which("clang++"):
        compiler, library = "clang++", f"libclang_rt.asan-{platform.machine()}.so"
    shown = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True)
    return Path(shown.stdout.strip()).resolve()
