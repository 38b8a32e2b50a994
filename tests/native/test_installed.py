"""Where the native agent can be built it is there; if it were not, all its tests would be skipped and pass."""

from __future__ import annotations

import subprocess
import sys

from anyserve.control.agents import available_implementations
from support.native_build import need


def test_the_native_agent_is_there() -> None:
    need("c++", "cmake", "ninja")
    assert available_implementations() == ("reference", "native")
    shown = subprocess.run([sys.executable, "-m", "anyserve", "--version"], capture_output=True, text=True, check=True)
    assert "agents: reference, native" in shown.stdout
