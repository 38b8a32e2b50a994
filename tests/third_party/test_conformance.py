"""The workers in other languages pass the suite's profile `worker`, SHOULDs included, but for what is listed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from support.suite import conforms

NODE_FAILS = Path(__file__).with_name("node_known_failing.txt")


@pytest.mark.timeout(900)
def test_passes(command: list[str], tmp_path: Path) -> None:
    node = Path(command[0]).name == "node"
    conforms(
        "node-worker" if node else "cpp-worker",
        *("--worker", f"{shlex.join(command)} --management {{management}} --socket-dir {{socket_dir}}"),
        directory=tmp_path,
        known_failing=[NODE_FAILS] if node else [],
    )
