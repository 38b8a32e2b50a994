"""How an instance stops: on which signals, how soon, what it waits for, and what is left: nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import grpc
import pytest

from anyserve import Code, InferenceError, ModelInferRequest
from support.command import FACTS, Instance, started, write_app
from support.processes import eventually, marked
from support.scripted_agent import Frames, request

APP = (
    FACTS
    + """
from pathlib import Path


@app.capability(type="held")
def held(request):
    facts.add("held")
    facts.gate.wait(20)
    return {"n": [7]}


@app.capability(type="stubborn")
def stubborn(request):
    facts.add("stubborn")
    facts.gate.wait(1000)


@app.worker(capabilities=[{"type": "class"}])
class Class(Worker):
    def on_cleanup(self):
        Path(f"cleaned-{os.getpid()}").touch()

    def handle(self, request):
        return {}
"""
)


def serving_app(tmp_path: Path, *options: str):  # type: ignore[no-untyped-def]
    write_app(tmp_path, "import os\n" + APP)
    return started("my_app:app", *options, directory=tmp_path)


def nothing_is_left(instance: Instance, tmp_path: Path, workers: int = 1) -> bool:
    assert instance.leftovers(2.0) == []
    assert instance.sockets() == []
    assert len(list(tmp_path.glob("cleaned-*"))) == workers
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_signal_ends_it_soon_with_status_0(tmp_path: Path, number: int, workers: int) -> None:
    with serving_app(tmp_path, f"--workers={workers}") as instance:
        instance.wait_log("ready")
        instance.client.infer("class", {})  # connections are open
        began = time.monotonic()
        assert instance.stop(number) == 0
        assert time.monotonic() - began < 5
        assert nothing_is_left(instance, tmp_path, workers)
        assert "Traceback" not in instance.stderr


def test_interrupt_of_the_whole_process_group(tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches the workers too: they leave it to their agent, and nothing is said twice."""
    with serving_app(tmp_path, "--workers=2") as instance:
        instance.wait_log("ready")
        for pid in marked(instance.mark):
            os.kill(pid, signal.SIGINT)
        assert instance.wait(10) == 0
        assert nothing_is_left(instance, tmp_path, workers=2)
        assert "Traceback" not in instance.stderr
        assert not instance.logs("worker crashed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_the_app_still_loads(tmp_path: Path, number: int) -> None:
    source = """
        import time
        from pathlib import Path

        Path("loading").touch()
        time.sleep(60)
    """
    write_app(tmp_path, source)
    with started("my_app:app", directory=tmp_path) as instance:
        instance.wait_log("worker started")
        eventually((tmp_path / "loading").exists, "the app loads")
        began = time.monotonic()
        assert instance.stop(number) == 0
        assert time.monotonic() - began < 5
        assert instance.leftovers(2.0) == []


def test_what_is_under_way_finishes(tmp_path: Path) -> None:
    with serving_app(tmp_path) as instance:
        instance.wait_log("ready")
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="held"))
        waiting = instance.calls["ModelInfer"].future(gate_request(instance, "held", 1))
        assert waiting.result()
        assert not call.done()
        instance.signal(signal.SIGTERM)
        instance.wait_log("draining")
        refused = wait_refused(instance)
        assert refused.code in (Code.UNAVAILABLE, Code.CANCELLED)
        open_gate_from_within(instance)
        assert call.result().tensors()["n"].tolist() == [7]
        assert instance.wait(10) == 0
        assert nothing_is_left(instance, tmp_path)


def gate_request(instance: Instance, name: str, at_least: int) -> ModelInferRequest:
    request = ModelInferRequest(model_name="facts")
    request.set_tensors({"name": [name], "at_least": [at_least], "seconds": [10.0]})
    return request


def wait_refused(instance: Instance) -> InferenceError:
    """A draining instance takes no new call: it says so, or the connection is closed already."""
    with pytest.raises(InferenceError) as caught:
        instance.client.infer("class", {}, timeout=5)
    return caught.value


def open_gate_from_within(instance: Instance) -> None:
    """Opens the gate over the worker's own socket: its agent takes no more calls."""
    for name in instance.sockets():
        frames = Frames(f"{instance.socket_dir}/{name}")
        frames.ask(request("open-gate", again=[True]))
        frames.close()


def test_grace_ends_what_does_not_finish(tmp_path: Path) -> None:
    with serving_app(tmp_path, "--grace=0.3") as instance:
        instance.wait_log("ready")
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="stubborn"))
        instance.fact("stubborn", 1)
        began = time.monotonic()
        instance.signal(signal.SIGTERM)
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert instance.wait(10) == 0
        assert time.monotonic() - began < 5
        assert nothing_is_left(instance, tmp_path)


def test_second_interrupt_cuts_the_drain_short(tmp_path: Path) -> None:
    with serving_app(tmp_path) as instance:
        instance.wait_log("ready")
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="stubborn"))
        instance.fact("stubborn", 1)
        began = time.monotonic()
        instance.signal(signal.SIGINT)
        instance.wait_log("draining")
        instance.signal(signal.SIGINT)
        assert instance.wait(10) == 0
        assert time.monotonic() - began < 5
        assert call.code() is not grpc.StatusCode.OK
        assert instance.leftovers(2.0) == []


def test_not_ready_while_it_drains(tmp_path: Path) -> None:
    with serving_app(tmp_path) as instance:
        instance.wait_log("ready")
        assert instance.client.server_ready()
        with grpc.insecure_channel(instance.address) as channel:
            watch = channel.unary_stream(
                "/grpc.health.v1.Health/Watch", request_serializer=lambda b: b, response_deserializer=lambda b: b
            )(b"")
            assert next(watch) == b"\x08\x01"  # SERVING
            instance.signal(signal.SIGTERM)
            assert next(watch) == b"\x08\x02"  # NOT_SERVING
        assert instance.wait(10) == 0


def test_agent_without_an_app(tmp_path: Path) -> None:
    with started(directory=tmp_path) as instance:
        instance.wait_log("ready")
        assert instance.stop(signal.SIGINT) == 0
