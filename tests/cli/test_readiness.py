"""An instance is live from the start, and ready when all of its workers have registered."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from anyserve import Code, InferenceError
from support.command import started, write_app
from support.processes import eventually

# The pipe holds a worker up in `on_start` until the test opens it.
APP = """
    from anyserve import AnyServe, Worker

    app = AnyServe()

    @app.capability(type="quick")
    def quick(request):
        return {"n": [1]}

    @app.worker(capabilities=[{"type": "slow"}])
    class Slow(Worker):
        def on_start(self):
            open("begun", "w").close()
            with open("go-on") as go_on:
                go_on.read()

        def handle(self, request):
            return {"n": [2]}
"""


def health(address: str) -> bytes:
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        return bytes(check(b"", timeout=10))


def test_not_ready_before_the_last_worker_has_registered(tmp_path: Path) -> None:
    write_app(tmp_path, APP)
    os.mkfifo(tmp_path / "go-on")
    with started("my_app:app", directory=tmp_path) as instance:
        client = instance.client
        eventually((tmp_path / "begun").exists, "the slow one starts")
        eventually(lambda: client.model_ready("quick"), "the quick one serves")
        assert client.server_live()
        assert not client.server_ready()
        assert health(instance.address) == b"\x08\x02"  # NOT_SERVING
        assert client.infer("quick", {}).tensors()["n"].tolist() == [1]  # what is there serves
        with pytest.raises(InferenceError) as caught:
            client.infer("slow", {})
        assert caught.value.code is Code.NOT_FOUND
        with pytest.raises(TimeoutError, match="not ready"):
            client.wait_ready(timeout=0.2)
        assert not instance.logs("ready")
        (tmp_path / "go-on").write_text("!")
        client.wait_ready(timeout=20)
        assert health(instance.address) == b"\x08\x01"  # SERVING
        assert client.infer("slow", {}).tensors()["n"].tolist() == [2]
        assert instance.stop() == 0


def test_stop_before_it_was_ready(tmp_path: Path) -> None:
    write_app(tmp_path, APP)
    os.mkfifo(tmp_path / "go-on")
    with started("my_app:app", directory=tmp_path) as instance:
        eventually((tmp_path / "begun").exists, "the slow one starts")
        assert instance.stop(timeout=10) == 0
        assert instance.leftovers(2.0) == []
        assert instance.sockets() == []
