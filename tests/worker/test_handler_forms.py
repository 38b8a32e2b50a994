"""Every form that a handler may have, served: sync and async, unary and streaming, functions and methods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.command import Instance, serving

APP = """
    import asyncio
    import threading

    from anyserve import AnyServe, ModelInferResponse, ModelStreamInferResponse, Worker

    app = AnyServe()

    def here():
        return ["main" if threading.current_thread() is threading.main_thread() else "thread"]

    def message(number):
        response = ModelInferResponse()
        response.set_tensors({"n": [number], "where": here()})
        return response

    @app.capability(type="function")
    def function(request):
        return {"n": request.tensors()["n"], "where": here()}

    @app.capability(type="function-context")
    def function_context(request, context):
        return {"n": request.tensors()["n"], "where": here(), "id": [context.request_id]}

    @app.capability(type="async-function")
    async def async_function(request):
        await asyncio.sleep(0)
        return {"n": request.tensors()["n"], "where": here()}

    @app.capability(type="async-function-context")
    async def async_function_context(request, context):
        return {"n": request.tensors()["n"], "where": here(), "id": [context.request_id]}

    @app.capability(type="generator")
    def generator(request):
        for n in range(3):
            yield {"n": [n], "where": here()}

    @app.capability(type="generator-context")
    def generator_context(request, context):
        for n in range(3):
            yield message(n)

    @app.capability(type="async-generator")
    async def async_generator(request):
        for n in range(3):
            await asyncio.sleep(0)
            yield ModelStreamInferResponse(infer_response=message(n))

    @app.capability(type="async-generator-context")
    async def async_generator_context(request, context):
        for n in range(3):
            yield {"n": [n], "where": here()}

    @app.capability(type="stream", stream=True)
    def stream_sync(request, context, stream):
        stream.send({"n": [0], "where": here()})
        stream.send(message(1))
        stream.send(ModelStreamInferResponse(infer_response=message(2)))

    @app.capability(type="async-stream", stream=True)
    async def stream_async(request, context, stream):
        await stream.asend({"n": [0], "where": here()})
        await stream.asend(message(1))
        await stream.asend(ModelStreamInferResponse(infer_response=message(2)))

    @app.capability(type="declared-generator", stream=True)
    def declared_generator(request):
        for n in range(3):
            yield {"n": [n], "where": here()}

    @app.capability(type="no-replies")
    def no_replies(request):
        return
        yield

    @app.worker(capabilities=[{"type": "method"}])
    class Method(Worker):
        def on_start(self):
            self.added = 100

        def handle(self, request):
            return {"n": request.tensors()["n"] + self.added, "where": here()}

    @app.worker(capabilities=[{"type": "async-method"}])
    class AsyncMethod(Worker):
        async def on_start(self):
            self.added = 100

        async def handle(self, request, context):
            return {"n": request.tensors()["n"] + self.added, "where": here(), "id": [context.request_id]}

    @app.worker(capabilities=[{"type": "generator-method"}])
    class GeneratorMethod(Worker):
        def handle(self, request, context):
            for n in range(3):
                yield {"n": [n], "where": here()}

    @app.worker(capabilities=[{"type": "async-generator-method"}])
    class AsyncGeneratorMethod(Worker):
        async def handle(self, request):
            for n in range(3):
                yield {"n": [n], "where": here()}

    @app.worker(capabilities=[{"type": "stream-method"}], stream=True)
    class StreamMethod(Worker):
        def handle(self, request, context, stream):
            for n in range(3):
                stream.send({"n": [n], "where": here()})
"""

UNARY = (
    "function",
    "function-context",
    "async-function",
    "async-function-context",
    "method",
    "async-method",
)
STREAMING = (
    "generator",
    "generator-context",
    "async-generator",
    "async-generator-context",
    "stream",
    "async-stream",
    "declared-generator",
    "generator-method",
    "async-generator-method",
    "stream-method",
)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with serving(APP, directory=tmp_path_factory.mktemp("forms")) as instance:
        yield instance


def where_it_runs(name: str) -> bytes:
    """Sync handlers run in threads, so that they may block; async ones on the loop, in the main thread."""
    return b"main" if name.startswith("async") else b"thread"


@pytest.mark.parametrize("name", UNARY)
def test_unary_forms(instance: Instance, name: str) -> None:
    reply = instance.client.infer(name, {"n": [7]}, request_id="id-1")
    assert reply.id == "id-1"
    assert reply.model_name == name
    tensors = reply.tensors()
    assert tensors["n"].tolist() == [107 if "method" in name else 7]
    assert tensors["where"].tolist() == [where_it_runs(name)]
    if "context" in name or name == "async-method":
        assert tensors["id"].tolist() == [b"id-1"]


@pytest.mark.parametrize("name", STREAMING)
def test_streaming_forms(instance: Instance, name: str) -> None:
    replies = list(instance.client.stream(name, {"n": [7]}, request_id="id-2"))
    assert [reply.tensors()["n"].tolist() for reply in replies] == [[0], [1], [2]]
    assert {reply.id for reply in replies} == {"id-2"}
    assert {reply.tensors()["where"][0] for reply in replies} == {where_it_runs(name)}


def test_unary_form_over_a_stream(instance: Instance) -> None:
    replies = list(instance.client.stream("function", {"n": [7]}))
    assert [reply.tensors()["n"].tolist() for reply in replies] == [[7]]


def test_stream_without_replies(instance: Instance) -> None:
    assert list(instance.client.stream("no-replies", {"n": [7]})) == []
