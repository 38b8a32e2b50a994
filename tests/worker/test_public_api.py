"""The public API as users know it, word for word: each form is served and called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyserve import Code, InferenceError
from support.command import serving


def test_echo_handler_of_a_type(tmp_path: Path) -> None:
    source = """
        from anyserve import AnyServe, ModelInferRequest, ModelInferResponse

        app = AnyServe()

        @app.capability(type="echo")
        def echo_handler(request: ModelInferRequest) -> ModelInferResponse:
            response = ModelInferResponse(model_name=request.model_name, id=request.id)
            for tensor in request.inputs:
                output = response.outputs.add()
                output.name = tensor.name
                output.datatype = tensor.datatype
                output.shape.extend(tensor.shape)
                output.contents.CopyFrom(tensor.contents)
            response.raw_output_contents.extend(request.raw_input_contents)
            return response
    """
    with serving(source, directory=tmp_path) as instance:
        response = instance.client.infer("echo", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, request_id="r-1")
        assert (response.model_name, response.id) == ("echo", "r-1")
        np.testing.assert_array_equal(response.tensors()["x"], [[0, 1, 2], [3, 4, 5]])


def test_capability_with_a_model(tmp_path: Path) -> None:
    source = """
        from anyserve import AnyServe, ModelInferRequest, ModelInferResponse

        app = AnyServe()

        @app.capability(type="chat", model="llama-70b")
        def chat_handler(request: ModelInferRequest) -> ModelInferResponse:
            response = ModelInferResponse()
            response.set_tensors({"text": ["hello"]})
            return response
    """
    with serving(source, directory=tmp_path) as instance:
        for target in ("llama-70b", {"type": "chat"}, {"model": "llama-*"}, {"type": "chat", "model": "llama-70b"}):
            response = instance.client.infer(target, {})
            assert response.model_name == "llama-70b"
            assert response.tensors()["text"].tolist() == [b"hello"]
        with pytest.raises(InferenceError) as caught:
            instance.client.infer({"type": "chat", "model": "mistral"}, {})
        assert caught.value.code is Code.NOT_FOUND


def test_model_by_name_and_version(tmp_path: Path) -> None:
    source = """
        from anyserve import AnyServe, ModelInferRequest, ModelInferResponse

        app = AnyServe()

        @app.model("add", version="1")
        def add(request: ModelInferRequest) -> ModelInferResponse:
            tensors = request.tensors()
            response = ModelInferResponse()
            response.set_tensors({"sum": tensors["a"] + tensors["b"]})
            return response
    """
    with serving(source, directory=tmp_path) as instance:
        for version in ("", "1"):
            response = instance.client.infer("add", {"a": [1, 2], "b": [10, 20]}, version=version)
            assert (response.model_name, response.model_version) == ("add", "1")
            assert response.tensors()["sum"].tolist() == [11, 22]
        assert instance.client.model_ready("add", "1")
        assert not instance.client.model_ready("add", "2")
        with pytest.raises(InferenceError, match="versions there are: 1") as caught:
            instance.client.infer("add", {"a": [1], "b": [2]}, version="2")
        assert caught.value.code is Code.NOT_FOUND


def test_streaming_handler_that_builds_its_messages(tmp_path: Path) -> None:
    source = """
        from anyserve import AnyServe
        from anyserve._proto import grpc_predict_v2_pb2

        app = AnyServe()

        @app.capability(type="chat", stream=True)
        def chat_stream(request, context, stream):
            for token in ["Hello", ",", " world"]:
                response = grpc_predict_v2_pb2.ModelStreamInferResponse(
                    infer_response=grpc_predict_v2_pb2.ModelInferResponse(
                        model_name="chat",
                        id=request.id,
                    )
                )
                output = response.infer_response.outputs.add()
                output.name = "text"
                output.datatype = "BYTES"
                output.shape.append(1)
                output.contents.bytes_contents.append(token.encode())
                stream.send(response)
    """
    with serving(source, directory=tmp_path) as instance:
        replies = list(instance.client.stream("chat", {}, request_id="r-7"))
        assert [reply.tensors()["text"].tolist() for reply in replies] == [[b"Hello"], [b","], [b" world"]]
        assert {(reply.model_name, reply.id) for reply in replies} == {("chat", "r-7")}
        with pytest.raises(InferenceError, match="use ModelStreamInfer") as caught:
            instance.client.infer("chat", {})
        assert caught.value.code is Code.UNIMPLEMENTED


def test_worker_class(tmp_path: Path) -> None:
    source = """
        from pathlib import Path

        from anyserve import AnyServe, ModelInferRequest, ModelInferResponse, Worker

        app = AnyServe()

        @app.worker(capabilities=[{"type": "chat", "model": "llama-70b"}], gpus=2)
        class ChatWorker(Worker):
            def on_start(self):
                self.model = "loaded"
                Path("started").touch()

            def on_cleanup(self):
                Path("cleaned").touch()

            def handle(self, request: ModelInferRequest) -> ModelInferResponse:
                response = ModelInferResponse()
                response.set_tensors({"state": [self.model]})
                return response
    """
    with serving(source, directory=tmp_path) as instance:
        assert (tmp_path / "started").exists()
        assert instance.client.infer("llama-70b", {}).tensors()["state"].tolist() == [b"loaded"]
        assert instance.client.infer({"type": "chat"}, {}).tensors()["state"].tolist() == [b"loaded"]
        assert not (tmp_path / "cleaned").exists()
    assert (tmp_path / "cleaned").exists()


def test_functions_and_classes_run_in_processes_of_their_own(tmp_path: Path) -> None:
    source = """
        import os

        from anyserve import AnyServe, Worker

        app = AnyServe()

        @app.capability(type="first")
        def first(request):
            return {"pid": [os.getpid()]}

        @app.capability(type="second")
        def second(request):
            return {"pid": [os.getpid()]}

        @app.worker(capabilities=[{"type": "third"}, {"type": "fourth"}])
        class Third(Worker):
            def handle(self, request):
                return {"pid": [os.getpid()]}
    """
    with serving(source, "--workers=2", directory=tmp_path) as instance:
        client = instance.client
        pids = {
            name: {int(client.infer(name, {}).tensors()["pid"][0]) for _ in range(8)}
            for name in ("first", "second", "third", "fourth")
        }
        assert pids["first"] == pids["second"]
        assert pids["third"] == pids["fourth"]
        assert len(pids["first"]) == len(pids["third"]) == 2  # the workers of a group share its load
        assert not pids["first"] & pids["third"]
        started = {instance.worker_pid(number) for number in range(1, 5)}
        assert pids["first"] | pids["third"] == started
        assert instance.pid not in started
