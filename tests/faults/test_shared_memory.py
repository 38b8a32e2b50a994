"""Shared memory when either side dies: nothing of it remains, and the other side goes on (`frame.shared.*`)."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from anyserve import Code, InferenceError
from support.command import FACTS, Instance, serving, started, write_app
from support.processes import eventually

APP = (
    FACTS
    + """
import os


@app.tensors(type="echo")
def echo(data):
    return {"data": data, "pid": np.array([os.getpid()])}


@app.tensors(type="held", max_concurrency=8)
def held(data):
    facts.add("held")
    facts.gate.wait(20)
    return {"data": data}
"""
)
LARGE = np.zeros(1 << 20, np.uint8)
MEMORY = "memfd:anyserve"  # how /proc shows it


def descriptors(pid: int) -> list[str]:
    """The shared memory that a process has open."""
    found = []
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # it was closed meanwhile
            found.append(os.readlink(path))
    return [each for each in found if MEMORY in each]


def mappings(pid: int) -> list[str]:
    """The shared memory that a process has mapped."""
    with suppress(OSError):
        return [each for each in Path(f"/proc/{pid}/maps").read_text().splitlines() if MEMORY in each]
    return []


def ask(instance: Instance) -> int:
    """Two large requests with large replies: the second is offered room. Returns the worker's process."""
    for _ in range(2):
        reply = instance.client.infer("echo", {"data": LARGE}).tensors()
        assert reply["data"].nbytes == LARGE.nbytes
    return int(reply["pid"][0])


def used(instance: Instance) -> None:
    """Goes on with the test only where the two have come to use shared memory."""
    if not descriptors(instance.pid):
        pytest.skip("the worker loop in Python takes no payloads by shared memory")


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("first", ["agent", "worker"])
def test_nothing_remains_after_both_are_killed(tmp_path: Path, impl: str, first: str) -> None:
    write_app(tmp_path, APP)
    with started("my_app:app", f"--impl={impl}", "--orphan-timeout=20", directory=tmp_path) as instance:
        instance.wait_log("ready")
        pids = [instance.pid, ask(instance)]
        used(instance)
        for pid in pids if first == "agent" else reversed(pids):
            os.kill(pid, signal.SIGKILL)
        instance.wait()
        eventually(lambda: not any(map(mappings, pids)), "the mappings to be gone")
        assert not any(map(descriptors, pids))
        assert [name for name in os.listdir("/dev/shm") if "anyserve" in name] == []


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_a_worker_that_dies_takes_nothing_with_it(tmp_path: Path, impl: str) -> None:
    """Its exchange ends, the next worker gets large requests as before, and the agent's memory does not grow."""
    with serving(APP, f"--impl={impl}", directory=tmp_path) as instance, ThreadPoolExecutor() as pool:
        for number in range(1, 4):
            worker = ask(instance)
            used(instance)
            held = pool.submit(instance.client.infer, "held", {"data": LARGE})
            instance.fact("held", 1)
            instance.kill_worker(worker)
            with pytest.raises(InferenceError) as failed:
                held.result()
            assert failed.value.code is Code.UNAVAILABLE
            instance.wait_log("worker started", count=number + 1)
            eventually(lambda: instance.client.model_ready("echo"), "the next worker")
        ask(instance)
        # What was with the dead is closed; the rooms of the others are kept for a while.
        assert len(descriptors(instance.pid)) <= 16
