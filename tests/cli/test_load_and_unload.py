"""RepositoryModelLoad and Unload start and stop the workers of an app's class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from anyserve import Code, InferenceError
from anyserve._proto import grpc_predict_v2_pb2 as pb
from support.command import Instance, serving

APP = """
    import os

    from anyserve import AnyServe, Worker

    app = AnyServe()

    @app.capability(type="first")
    def first(request):
        return {}

    @app.capability(type="second")
    def second(request):
        return {}

    @app.worker(capabilities=[{"type": "chat", "model": "llama"}])
    class Chat(Worker):
        def on_start(self):
            assert not os.path.exists("broken"), "no weights"

        def on_cleanup(self):
            with open("cleaned", "a") as file:
                file.write("x")

        def handle(self, request):
            return {"pid": [os.getpid()]}
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with serving(APP, "--workers=2", directory=tmp_path) as instance:
        yield instance


def load(instance: Instance, model: str) -> Any:
    return instance.calls["RepositoryModelLoad"](pb.RepositoryModelLoadRequest(model_name=model), timeout=20)


def unload(instance: Instance, model: str) -> Any:
    return instance.calls["RepositoryModelUnload"](pb.RepositoryModelUnloadRequest(model_name=model), timeout=20)


def pids(instance: Instance) -> set[int]:
    return {int(instance.client.infer("llama", {}).tensors()["pid"][0]) for _ in range(8)}


def test_unload_and_load_again(instance: Instance, tmp_path: Path) -> None:
    before = pids(instance)
    assert len(before) == 2
    assert unload(instance, "llama").isUnloaded
    assert (tmp_path / "cleaned").read_text() == "xx"
    assert not set(instance.leftovers()) & before
    assert not instance.client.model_ready("llama")
    with pytest.raises(InferenceError) as caught:
        instance.client.infer("llama", {})
    assert caught.value.code is Code.NOT_FOUND
    assert instance.client.model_ready("first")
    assert load(instance, "llama").isLoaded
    after = pids(instance)
    assert len(after) == 2
    assert not after & before


def test_twice_changes_nothing(instance: Instance) -> None:
    before = pids(instance)
    load(instance, "llama")
    assert pids(instance) == before
    unload(instance, "llama")
    unload(instance, "llama")
    assert not instance.client.model_ready("llama")


def test_model_that_shares_its_workers(instance: Instance) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unload(instance, "first")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "'second'" in caught.value.details()
    assert instance.client.model_ready("first")


@pytest.mark.parametrize("call", [load, unload])
def test_unknown_model(instance: Instance, call: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(instance, "nowhere")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_load_that_fails_can_be_tried_again(instance: Instance, tmp_path: Path) -> None:
    unload(instance, "llama")
    (tmp_path / "broken").touch()
    with pytest.raises(grpc.RpcError) as caught:
        load(instance, "llama")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    (tmp_path / "broken").unlink()
    assert load(instance, "llama").isLoaded
    assert len(pids(instance)) == 2


def test_unload_of_what_has_just_crashed(tmp_path: Path) -> None:
    with serving(APP, directory=tmp_path) as instance:
        (crashed,) = pids(instance)
        (tmp_path / "broken").touch()  # so that it does not come back
        instance.kill_worker(crashed)
        with pytest.raises(InferenceError) as caught:
            instance.client.infer("llama", {})
        assert caught.value.code is Code.UNAVAILABLE  # it is to be started again
        assert unload(instance, "llama").isUnloaded
        with pytest.raises(InferenceError) as caught:
            instance.client.infer("llama", {})
        assert caught.value.code is Code.NOT_FOUND
        (tmp_path / "broken").unlink()
        assert load(instance, "llama").isLoaded
        assert pids(instance)


def test_stop_after_an_unload(instance: Instance) -> None:
    unload(instance, "llama")
    assert instance.stop() == 0
    assert not instance.logs("worker crashed")
