"""Agents that die: their workers clean up and go, or find an agent that comes back in time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import grpc
import pytest

from anyserve import InferenceError, ModelInferRequest
from support.command import FACTS, Instance, started, write_app
from support.processes import eventually, marked

APP = (
    "import os\nfrom pathlib import Path\n"
    + FACTS
    + """

@app.worker(capabilities=[{"type": "it"}])
class It(Worker):
    def on_cleanup(self):
        Path(f"cleaned-{os.getpid()}").touch()

    def handle(self, request):
        return {"pid": [os.getpid()]}


@app.worker(capabilities=[{"type": "held"}])
class Held(Worker):
    def on_cleanup(self):
        Path(f"cleaned-{os.getpid()}").touch()

    def handle(self, request, context):
        Path("held").touch()
        if context.cancellation.wait(20):
            Path("cancelled").touch()
"""
)


def workers(instance: Instance) -> list[int]:
    return [int(line["pid"]) for line in instance.logs("worker started")]


def test_workers_clean_up_and_go(tmp_path: Path) -> None:
    """After kill -9 of the agent its workers end within `--orphan-timeout`, clean up, and leave no socket."""
    write_app(tmp_path, APP)
    options = ("my_app:app", "--workers=2", "--orphan-timeout=0.5", "--heartbeat-interval=0.1")
    with started(*options, directory=tmp_path) as instance:
        instance.wait_log("ready")
        pids = workers(instance)
        assert len(pids) == 6
        began = time.monotonic()
        instance.signal(signal.SIGKILL)
        assert instance.wait() == -signal.SIGKILL
        assert instance.leftovers(15.0) == []
        assert 0.4 < time.monotonic() - began < 10
        assert instance.sockets() == []
        cleaned = {int(path.name.partition("-")[2]) for path in tmp_path.glob("cleaned-*")}
        assert len(cleaned & set(pids)) == 4  # two classes, two processes each
        assert instance.noise() == []  # not even from the libraries whose connections broke


def test_handlers_are_told(tmp_path: Path) -> None:
    """What was in flight when the agent died is cancelled at once, not at the end of the orphan timeout."""
    write_app(tmp_path, APP)
    with started("my_app:app", "--orphan-timeout=30", directory=tmp_path) as instance:
        instance.wait_log("ready")
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="held"))
        eventually((tmp_path / "held").exists, "held")
        instance.signal(signal.SIGKILL)
        eventually((tmp_path / "cancelled").exists, "cancelled")
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        for pid in marked(instance.mark):
            os.kill(pid, signal.SIGTERM)  # an orphan listens to SIGTERM too
        assert instance.leftovers(10.0) == []
        assert instance.sockets() == []


@pytest.mark.slow
def test_bare_agent_that_comes_back_gets_the_workers_back(tmp_path: Path) -> None:
    """An agent on the same ports within the orphan timeout serves the same worker processes as before."""
    write_app(tmp_path, APP)
    options = ("--orphan-timeout=30", "--heartbeat-interval=0.1")
    with started("my_app:app", *options, directory=tmp_path) as first:
        first.wait_log("ready")
        before = int(first.client.infer("it", {}).tensors()["pid"][0])
        pids = set(workers(first))
        ports = (
            f"--port={first.address.rpartition(':')[2]}",
            f"--management-port={first.management.rpartition(':')[2]}",
            f"--socket-dir={first.socket_dir}",
        )
        first.signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        with started(*ports, directory=tmp_path) as second:
            second.wait_log("ready")
            second.wait_log("registered", model="it")
            eventually(lambda: pid_of(second) == before, "the same worker answers", timeout=10)
            assert set(marked(first.mark)) == pids
            assert not second.logs("removed stale sockets")
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
            assert first.leftovers(10.0) == []
            with pytest.raises(InferenceError, match="no worker serves"):
                second.client.infer("it", {})
            assert second.stop() == 0
        assert first.sockets() == []


def pid_of(instance: Instance) -> int | None:
    """The worker that answers; None while the client still holds the dead agent's connection."""
    try:
        return int(instance.client.infer("it", {}).tensors()["pid"][0])
    except InferenceError:
        return None


def test_agent_that_dies_while_the_app_loads(tmp_path: Path) -> None:
    """A worker whose agent died before it could register goes as well, after its orphan timeout."""
    source = """
        import time
        from pathlib import Path

        from anyserve import AnyServe

        app = AnyServe()

        @app.capability(type="it")
        def it(request):
            return {}

        Path("loading").touch()
        while not Path("go-on").exists():
            time.sleep(0.01)
    """
    write_app(tmp_path, source)
    with started("my_app:app", "--orphan-timeout=0.5", directory=tmp_path) as instance:
        eventually((tmp_path / "loading").exists, "loading")
        instance.signal(signal.SIGKILL)
        instance.wait()
        (tmp_path / "go-on").touch()
        assert instance.leftovers(15.0) == []
        assert instance.sockets() == []


def test_next_instance_starts_after_a_kill(tmp_path: Path) -> None:
    """After kill -9 of everything, the next start removes the dead sockets and serves."""
    write_app(tmp_path, APP)
    with started("my_app:app", directory=tmp_path) as first:
        first.wait_log("ready")
        dead = first.sockets()
        assert len(dead) == 3
        first.kill_all()
        assert first.sockets() == dead
        with started("my_app:app", f"--socket-dir={first.socket_dir}", directory=tmp_path) as second:
            second.wait_log("ready")
            assert sorted(second.logs("removed stale sockets")[0]["sockets"]) == dead
            assert second.client.infer("it", {}).tensors()["pid"].size == 1
            assert second.stop() == 0
        assert first.sockets() == []
