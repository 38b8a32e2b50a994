"""Workers that die: what was in flight fails with UNAVAILABLE, all else goes on, the worker comes back."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from anyserve import AnyserveClient, Code, InferenceError, ModelInferRequest
from support.command import FACTS, Instance, serving
from support.processes import eventually

APP = (
    FACTS
    + """
import os
import time


@app.capability(type="pid")
def pid(request):
    return {"pid": [os.getpid()]}


@app.capability(type="held")
def held(request):
    facts.add("held")
    open(f"held-{os.getpid()}", "w").close()
    facts.gate.wait(20)
    return {"pid": [os.getpid()]}


@app.capability(type="until-told")
def until_told(request):
    facts.add("until-told")
    while not os.path.exists("told"):
        time.sleep(0.01)
    return {"pid": [os.getpid()]}


@app.capability(type="forks")
def forks(request):
    if os.fork() == 0:  # the child has all that the worker has open
        while not os.path.exists("told"):
            time.sleep(0.01)
        os._exit(0)
    facts.add("forks")
    facts.gate.wait(20)
    return {"pid": [os.getpid()]}


@app.capability(type="tokens")
def tokens(request):
    yield {"pid": [os.getpid()]}
    yield {"pid": [os.getpid()]}
    facts.gate.wait(20)


@app.worker(capabilities=[{"type": "other"}])
class Other(Worker):
    def handle(self, request):
        return {"pid": [os.getpid()]}
"""
)


def pid(instance: Instance, model: str = "pid") -> int:
    return int(instance.client.infer(model, {}).tensors()["pid"][0])


def back(instance: Instance, victim: int, model: str = "pid") -> int:
    """The process that serves in place of the one that died, once it is there."""
    (group,) = (line["group"] for line in instance.logs("worker started") if line["pid"] == victim)
    restarted = instance.wait_log("restarting a worker")["group"]
    assert group in ("first", restarted)
    worker = instance.wait_log("worker started", group=restarted, count=1 if group == "first" else 2)
    instance.wait_log("registered", worker=worker["worker"], models=...)
    assert pid(instance, model) == worker["pid"]
    return int(worker["pid"])


def test_idle_worker(tmp_path: Path) -> None:
    """A worker that dies idle fails no request of another; a new one takes its place by itself."""
    with serving(APP, directory=tmp_path) as instance:
        victim, other = pid(instance), pid(instance, "other")
        instance.kill_worker(victim)
        assert pid(instance, "other") == other
        assert back(instance, victim) != victim
        assert pid(instance, "other") == other
        assert instance.client.server_ready()


def test_dropped_at_once(tmp_path: Path) -> None:
    """The agent drops a dead worker when its process ends, long before it would miss its heartbeats."""
    with serving(APP, "--heartbeat-timeout=600", directory=tmp_path) as instance:
        victim = pid(instance)
        (name,) = (line["worker"] for line in instance.logs("worker started") if line["pid"] == victim)
        assert name in {worker.worker_id for worker in instance.client.workers()}
        instance.kill_worker(victim)
        lost = instance.wait_log("worker lost")
        assert (lost["worker"], lost["reason"]) == (name, "its process was killed by SIGKILL")
        assert name not in {worker.worker_id for worker in instance.client.workers()}
        back(instance, victim)


@pytest.mark.parametrize("model", ["pid", "other"])
def test_the_only_one(tmp_path: Path, model: str) -> None:
    """What the only worker served is UNAVAILABLE until another has taken its place, and at no time unknown."""
    with serving(APP, directory=tmp_path) as instance:
        victim = pid(instance, model)
        (name,) = (line["worker"] for line in instance.logs("worker started") if line["pid"] == victim)
        instance.killed.add(f"{name}.sock")
        os.kill(victim, signal.SIGKILL)
        told: list[InferenceError] = []

        def replaced() -> bool:
            try:
                return pid(instance, model) != victim
            except InferenceError as error:
                told.append(error)
                return False

        eventually(replaced, "another worker serves it")
        assert {error.code for error in told} == {Code.UNAVAILABLE}
        assert any("expected back" in error.message for error in told)


def test_what_the_new_worker_no_longer_serves(tmp_path: Path) -> None:
    """A worker that comes back with less than the one before it is not waited for any longer."""
    source = APP + "\n\nif not os.path.exists('fewer'):\n    app.capability(type='goes')(pid)\n"
    with serving(source, directory=tmp_path) as instance:
        victim = pid(instance, "goes")
        (tmp_path / "fewer").touch()
        instance.kill_worker(victim)
        back(instance, victim)
        with pytest.raises(InferenceError) as caught:
            pid(instance, "goes")
        assert caught.value.code is Code.NOT_FOUND


def test_child_that_outlives_it_holds_up_nothing(tmp_path: Path) -> None:
    """A process that a dead worker has forked keeps its sockets open; its requests end all the same."""
    with serving(APP, "--heartbeat-timeout=600", directory=tmp_path) as instance:
        victim = pid(instance)
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="forks"), timeout=20)
        instance.fact("forks", 1)
        instance.kill_worker(victim)
        try:
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            assert back(instance, victim) != victim
        finally:
            (tmp_path / "told").touch()


def test_in_the_middle_of_a_request(tmp_path: Path) -> None:
    """The request that a dying worker had taken gets UNAVAILABLE at once; it is not sent to another worker."""
    with serving(APP, "--workers=2", directory=tmp_path) as instance:
        workers = {pid(instance) for _ in range(10)}
        assert len(workers) == 2
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="held"))
        (taken,) = eventually(lambda: list(tmp_path.glob("held-*")), "a worker has it")
        victim = int(taken.name.partition("-")[2])
        instance.kill_worker(victim)
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert "worker" in (call.details() or "")
        assert {pid(instance) for _ in range(10)} == workers - {victim}
        assert list(tmp_path.glob("held-*")) == [taken]  # the other one never saw it


@pytest.mark.slow
def test_all_that_was_in_flight_and_nothing_else(tmp_path: Path) -> None:
    """Under load on three workers, the death of one fails no more requests than it had in flight."""
    with serving(APP, "--workers=3", directory=tmp_path) as instance:
        victim = instance.worker_pid(1)
        done, lost = threading.Event(), []

        def ask(_: int) -> int:
            asked = 0
            with AnyserveClient(instance.address) as client:
                while not done.is_set():
                    asked += 1
                    try:
                        client.infer("pid", {}, timeout=10)
                    except InferenceError as error:
                        lost.append(error)
            return asked

        with ThreadPoolExecutor(6) as threads:
            asking = threads.map(ask, range(6))
            pid(instance, "other")
            instance.kill_worker(victim)
            instance.wait_log("worker started", count=7)
            instance.wait_log("registered", worker=instance.logs("worker started")[6]["worker"], models=...)
            done.set()
            assert sum(asking) > 20
        assert len(lost) <= 6
        assert {error.code for error in lost} <= {Code.UNAVAILABLE}


def test_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    """A stream keeps what came before its worker died, and then ends with UNAVAILABLE in-band."""
    with serving(APP, directory=tmp_path) as instance:
        stream = instance.client.stream("tokens", {})
        (victim,) = {int(next(stream).tensors()["pid"][0]) for _ in range(2)}
        instance.kill_worker(victim)
        with pytest.raises(InferenceError) as caught:
            next(stream)
        assert caught.value.code is Code.UNAVAILABLE
        back(instance, victim)
        replies = instance.client.stream("tokens", {})
        assert int(next(replies).tensors()["pid"][0]) != victim
        replies.close()


def test_one_stream_call_goes_on_when_one_of_its_requests_is_lost(tmp_path: Path) -> None:
    """Of the requests on one ModelStreamInfer call, only that of the dead worker fails."""
    with serving(APP, directory=tmp_path) as instance:
        requests: list[ModelInferRequest] = [
            ModelInferRequest(model_name="held", id="lost"),
            ModelInferRequest(model_name="other", id="kept"),
        ]
        more, sent = threading.Event(), []

        def feed():  # type: ignore[no-untyped-def]
            yield from requests
            more.wait(30)
            sent.append(True)
            yield ModelInferRequest(model_name="other", id="later")

        call = instance.calls["ModelStreamInfer"](feed(), timeout=30)
        assert next(call).infer_response.id == "kept"
        instance.fact("held", 1)
        instance.kill_worker(pid(instance))
        lost = next(call)
        assert (lost.infer_response.id, bool(lost.error_message)) == ("lost", True)
        more.set()
        later = next(call)
        assert (later.infer_response.id, later.error_message) == ("later", "")
        assert list(call) == []


@pytest.mark.slow
def test_crash_loop_backs_off(tmp_path: Path) -> None:
    """A worker that dies again and again is started ever more rarely: after 0.5 s, 1 s, 2 s; others go on."""
    with serving(APP, directory=tmp_path) as instance:
        other = pid(instance, "other")
        for count in range(1, 4):
            functions = instance.logs("worker started", group="functions")
            first = instance.logs("worker started", group="first")
            victim = (functions or first)[-1]
            instance.wait_log("registered", worker=victim["worker"], models=...)
            instance.kill_worker(victim["pid"])
            instance.wait_log("restarting a worker", count=count)
            instance.wait_log("worker started", count=2 + count)
            assert pid(instance, "other") == other
        assert [line["after"] for line in instance.logs("restarting a worker")] == [0.5, 1.0, 2.0]


@pytest.mark.slow
def test_crash_at_every_start_backs_off_and_recovers(tmp_path: Path) -> None:
    """A worker that no longer comes up is tried again, and serves as soon as what it lacks is there."""
    source = APP.replace(
        "    def handle(self, request):",
        "    def on_start(self):\n        assert not os.path.exists('broken'), 'no weights'\n\n"
        "    def handle(self, request):",
    )
    with serving(source, directory=tmp_path) as instance:
        (tmp_path / "broken").touch()
        instance.kill_worker(pid(instance, "other"))
        instance.wait_log("worker crashed", count=2)
        assert "no weights" in instance.logs("worker crashed")[1]["reason"]
        assert pid(instance)
        (tmp_path / "broken").unlink()
        started = instance.wait_log("worker started", count=4)
        instance.wait_log("registered", worker=started["worker"], models=...)
        assert [line["after"] for line in instance.logs("restarting a worker")] == [0.5, 1.0]
        assert pid(instance, "other") == started["pid"]


@pytest.mark.slow
def test_sigterm_of_a_worker_alone(tmp_path: Path) -> None:
    """A worker that is told to stop finishes what it has, takes nothing new, and is started again.

    Its instance has not asked it to go: what it served is UNAVAILABLE meanwhile.
    """
    with serving(APP, directory=tmp_path) as instance:
        victim = pid(instance)
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="until-told"))
        instance.fact("until-told", 1)
        os.kill(victim, signal.SIGTERM)
        instance.wait_log("draining")
        assert not call.done()
        instance.wait_log("unregistered")
        with pytest.raises(InferenceError) as caught:
            pid(instance)
        assert caught.value.code is Code.UNAVAILABLE
        (tmp_path / "told").touch()
        assert int(call.result().tensors()["pid"][0]) == victim
        instance.wait_log("worker ended")
        assert not instance.logs("worker crashed")
        assert back(instance, victim) != victim


def test_stop_while_a_worker_is_restarted(tmp_path: Path) -> None:
    """An instance that is told to stop does not wait for the restart of a worker, and starts none."""
    with serving(APP, directory=tmp_path) as instance:
        instance.kill_worker(pid(instance))
        instance.wait_log("restarting a worker")
        assert instance.stop(timeout=10) == 0
        assert len(instance.logs("worker started")) == 2


def test_socket_of_a_dead_worker_does_not_stay(tmp_path: Path) -> None:
    """A worker that was killed cannot remove its socket: its instance does, at the latest when it stops."""
    with serving(APP, directory=tmp_path) as instance:
        instance.kill_worker(pid(instance))
        assert instance.stop() == 0
        assert instance.sockets() == []
