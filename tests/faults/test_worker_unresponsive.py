"""Workers that live but do not answer: stopped by a signal, or without their socket file."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from anyserve import Code, InferenceError, ModelInferRequest
from support.command import FACTS, Instance, serving
from support.processes import eventually

APP = (
    "import os\n"
    + FACTS
    + """

@app.worker(capabilities=[{"type": "pid"}], max_concurrency=2)
class Pid(Worker):
    def handle(self, request):
        return {"pid": [os.getpid()]}


@app.worker(capabilities=[{"type": "other"}])
class Other(Worker):
    def handle(self, request):
        return {"pid": [os.getpid()]}
"""
)

QUICK = ("--heartbeat-interval=0.1", "--heartbeat-timeout=1")


def pid(instance: Instance, model: str = "pid", timeout: float = 10.0) -> int:
    return int(instance.client.infer(model, {}, timeout=timeout).tensors()["pid"][0])


def worker_of(instance: Instance, process: int) -> str:
    (name,) = (line["worker"] for line in instance.logs("worker started") if line["pid"] == process)
    return str(name)


@contextmanager
def stopped(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


@pytest.mark.slow
def test_stopped_worker_is_dropped_and_comes_back(tmp_path: Path) -> None:
    """A worker without heartbeats is dropped: its request fails, others go on; when it wakes it registers again."""
    with serving(APP, *QUICK, directory=tmp_path) as instance:
        victim, other = pid(instance), pid(instance, "other")
        with stopped(victim):
            call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="pid"), timeout=20)
            assert pid(instance, "other") == other
            instance.wait_log("worker lost", worker=worker_of(instance, victim))
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            assert pid(instance, "other") == other
            with pytest.raises(InferenceError) as caught:
                pid(instance)
            assert caught.value.code is Code.UNAVAILABLE
            assert "expected back" in caught.value.message
        instance.wait_log("registered", model="pid", count=2)
        assert pid(instance) == victim
        assert not instance.logs("worker crashed")


@pytest.mark.slow
def test_replica_takes_over_what_waits(tmp_path: Path) -> None:
    """Requests that wait for a stopped worker fail or move on when it is dropped; new ones go to its replica."""
    with serving(APP, *QUICK, "--workers=2", directory=tmp_path) as instance:
        workers = {pid(instance) for _ in range(8)}
        assert len(workers) == 2
        victim = min(workers)
        with stopped(victim):
            infer = instance.calls["ModelInfer"]
            calls = [infer.future(ModelInferRequest(model_name="pid"), timeout=20) for _ in range(20)]
            instance.wait_log("worker lost", worker=worker_of(instance, victim))
            codes = [call.code() for call in calls]
            assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
            assert codes.count(grpc.StatusCode.UNAVAILABLE) <= 2  # what its two places had
            assert {pid(instance) for _ in range(8)} == workers - {victim}
        instance.wait_log("registered", model="pid", count=3)
        assert {pid(instance) for _ in range(8)} == workers


@pytest.mark.slow
def test_stopped_worker_does_not_keep_the_instance_from_stopping(tmp_path: Path) -> None:
    """A worker that does not react to SIGTERM is killed when its time is over."""
    with serving(APP, *QUICK, directory=tmp_path) as instance:
        with stopped(pid(instance)):
            instance.signal(signal.SIGINT)
            instance.wait_log("draining")
            instance.signal(signal.SIGINT)
            assert instance.wait(15) == 0
            assert instance.leftovers(5.0) == []
        for name in instance.sockets():
            os.unlink(os.path.join(instance.socket_dir, name))  # of the one that was killed


def test_socket_file_that_was_removed(tmp_path: Path) -> None:
    """Without its socket file a worker goes on over connections that are open; the rest goes to its replica."""
    with serving(APP, *QUICK, "--workers=2", directory=tmp_path) as instance:
        workers = {pid(instance) for _ in range(8)}
        for name in instance.sockets():
            if worker_of(instance, min(workers)) in name:
                os.unlink(os.path.join(instance.socket_dir, name))
        infer = instance.calls["ModelInfer"]
        calls = [infer.future(ModelInferRequest(model_name="pid"), timeout=20) for _ in range(40)]
        assert [call.code() for call in calls] == [grpc.StatusCode.OK] * 40


@pytest.mark.slow
def test_worker_without_its_socket_file_is_reachable_again(tmp_path: Path) -> None:
    """Somebody who cleans /tmp must not make a capability unreachable for ever: the worker notices, and mends it."""
    with serving(APP, *QUICK, directory=tmp_path) as instance:
        for name in instance.sockets():
            os.unlink(os.path.join(instance.socket_dir, name))
        eventually(lambda: all_served(instance), "it is served again", timeout=10)
        eventually(lambda: len(instance.sockets()) == 3, "all listen again", timeout=10)


def all_served(instance: Instance) -> bool:
    """Whether both of a worker's places can be reached, by connections of which one at least is new."""
    infer = instance.calls["ModelInfer"]
    calls = [infer.future(ModelInferRequest(model_name="pid"), timeout=5) for _ in range(2)]
    return [call.code() for call in calls] == [grpc.StatusCode.OK] * 2
