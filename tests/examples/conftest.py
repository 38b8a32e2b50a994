"""Running an example as a user does: its run_example.py in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The examples are no part of the installed package; their handlers are imported from the tree.
sys.path.insert(0, str(ROOT))


@pytest.fixture
def run_example() -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_example("basic", *arguments, cwd=..., status=0): runs it and checks how it ended."""

    def run(name: str, *arguments: str, cwd: Path = ROOT, status: int = 0) -> subprocess.CompletedProcess[str]:
        script = ROOT / "examples" / name / "run_example.py"
        result = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=cwd,
            env={key: value for key, value in os.environ.items() if not key.startswith("ANYSERVE_")},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert result.returncode == status, f"{result.stdout}\n{result.stderr}"
        return result

    return run


@pytest.fixture
def shown_in_readme() -> Callable[[str, str, str], bool]:
    """shown_in_readme("basic", command, output): whether the example's README has that console excerpt."""

    def shown(name: str, command: str, output: str) -> bool:
        text = (ROOT / "examples" / name / "README.md").read_text("utf-8")
        return f"$ {command}\n{output}" in text

    return shown
