"""Handlers that reach other capabilities of their instance: `context.call` and its siblings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anyserve import Code, InferenceError, ModelInferRequest, ModelInferResponse
from support.command import FACTS, Instance, serving

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

APP = (
    FACTS
    + """
import asyncio


def facts_of(context):
    return {"left": [context.time_remaining() or 0.0], "trace": [context.metadata.get("traceparent", "none")]}


@app.capability(type="inner", model="inner-1", max_concurrency=64)
def inner(request, context):
    return {**request.tensors(), **facts_of(context)}


@app.capability(type="tokens", max_concurrency=64)
def tokens(request, context):
    for n in range(3):
        yield {"n": [n], **facts_of(context)}


@app.capability(type="fails", max_concurrency=64)
def fails(request):
    raise InferenceError(Code.OUT_OF_RANGE, "inner says no")


@app.capability(type="waits", max_concurrency=64)
def waits(request, context):
    facts.add("inner started")
    facts.add("inner cancelled" if context.cancellation.wait(20) else "in vain")


@app.capability(type="tokens-wait", max_concurrency=64)
def tokens_wait(request, context):
    yield {"n": [0]}
    facts.add("inner started")
    facts.add("inner cancelled" if context.cancellation.wait(20) else "in vain")


def target(request):
    return request.parameters["target"].string_param


@app.capability(type="outer")
def outer(request, context):
    try:
        return context.call(target(request), dict(request.tensors()))
    except InferenceError as error:
        facts.add(f"outer saw {error.code.name}")
        raise


@app.capability(type="async-outer")
async def async_outer(request, context):
    return await context.acall(target(request), dict(request.tensors()))


@app.capability(type="outer-query")
def outer_query(request, context):
    ready = ModelInferRequest(id="mine")
    ready.set_tensors({"x": [5]})
    return context.call({"type": "inner", "model": "inner-*"}, ready, timeout=3.0)


@app.capability(type="outer-stream")
def outer_stream(request, context):
    try:
        yield from context.call_stream(target(request), {})
    except InferenceError as error:
        facts.add(f"outer saw {error.code.name}")
        raise


@app.capability(type="async-outer-stream")
async def async_outer_stream(request, context):
    async for reply in context.acall_stream(target(request), {}):
        yield reply


@app.capability(type="first-of-stream")
def first_of_stream(request, context):
    for reply in context.call_stream(target(request), {}):
        return reply


@app.capability(type="call-on-loop")
async def call_on_loop(request, context):
    return context.call("inner-1", {})


@app.capability(type="call-stream-on-loop")
async def call_stream_on_loop(request, context):
    return list(context.call_stream("tokens", {}))[0]
"""
)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with serving(APP, directory=tmp_path_factory.mktemp("calls")) as instance:
        yield instance


@pytest.mark.parametrize("model", ["outer", "async-outer"])
def test_call_passes_deadline_and_trace_on(instance: Instance, model: str) -> None:
    reply = instance.client.infer(
        model, {"x": [1, 2]}, timeout=6.0, parameters={"target": "inner-1"}, metadata={"traceparent": TRACEPARENT}
    )
    tensors = reply.tensors()
    assert tensors["x"].tolist() == [1, 2]
    assert tensors["trace"].tolist() == [TRACEPARENT.encode()]
    assert 3.0 < tensors["left"][0] <= 6.1  # grpc rounds timeouts up


def test_call_by_query_with_a_ready_request_and_its_own_timeout(instance: Instance) -> None:
    tensors = instance.client.infer("outer-query", {}, timeout=20.0).tensors()
    assert tensors["x"].tolist() == [5]
    assert 1.0 < tensors["left"][0] <= 3.1


@pytest.mark.parametrize("model", ["outer", "async-outer", "outer-stream"])
def test_call_without_a_deadline_has_none(instance: Instance, model: str) -> None:
    """What the client did not limit, a handler's call does not limit either: a stream may go on for an hour.

    BUG(lead): the worker's client has its default of 60 s.
    """
    request = ModelInferRequest(model_name=model)
    request.parameters["target"].string_param = "tokens" if "stream" in model else "inner-1"
    if "stream" in model:
        reply = next(iter(instance.calls["ModelStreamInfer"](iter([request])))).infer_response
    else:
        reply = instance.calls["ModelInfer"](request)
    tensors = ModelInferResponse.FromString(reply.SerializeToString()).tensors()
    assert tensors["left"].tolist() == [0.0]


@pytest.mark.parametrize("model", ["outer-stream", "async-outer-stream"])
def test_call_stream(instance: Instance, model: str) -> None:
    replies = list(
        instance.client.stream(
            model, {}, timeout=6.0, parameters={"target": "tokens"}, metadata={"traceparent": TRACEPARENT}
        )
    )
    assert [int(reply.tensors()["n"][0]) for reply in replies] == [0, 1, 2]
    assert {bytes(reply.tensors()["trace"][0]) for reply in replies} == {TRACEPARENT.encode()}
    assert all(0 < reply.tensors()["left"][0] <= 6.1 for reply in replies)


@pytest.mark.parametrize("model", ["outer", "async-outer"])
@pytest.mark.parametrize(("inner", "code"), [("fails", Code.OUT_OF_RANGE), ("nowhere", Code.NOT_FOUND)])
def test_failure_of_the_inner_call_is_the_handlers_to_pass_on(
    instance: Instance, model: str, inner: str, code: Code
) -> None:
    with pytest.raises(InferenceError) as caught:
        instance.client.infer(model, {}, parameters={"target": inner})
    assert caught.value.code is code


def test_failure_of_an_inner_stream(instance: Instance) -> None:
    with pytest.raises(InferenceError, match="inner says no") as caught:
        list(instance.client.stream("outer-stream", {}, parameters={"target": "fails"}))
    assert caught.value.code is Code.OUT_OF_RANGE


@pytest.mark.parametrize(("model", "instead"), [("call-on-loop", "acall"), ("call-stream-on-loop", "acall_stream")])
def test_call_that_would_block_the_loop_is_refused(instance: Instance, model: str, instead: str) -> None:
    with pytest.raises(InferenceError, match=rf"await context\.{instead}\(") as caught:
        instance.client.infer(model, {})
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("model", ["outer", "async-outer", "outer-stream", "async-outer-stream"])
def test_cancellation_reaches_the_inner_exchange(instance: Instance, model: str) -> None:
    before = instance.fact("inner started"), instance.fact("inner cancelled")
    inner = "tokens-wait" if "stream" in model else "waits"
    request = ModelInferRequest(model_name=model)
    request.parameters["target"].string_param = inner
    if "stream" in model:
        call = instance.calls["ModelStreamInfer"](iter([request]))
        next(call)
    else:
        call = instance.calls["ModelInfer"].future(request)
    instance.fact("inner started", before[0] + 1)
    call.cancel()
    instance.fact("inner cancelled", before[1] + 1)
    assert instance.fact("in vain") == 0


def test_call_that_is_cancelled_raises_cancelled_in_the_handler(instance: Instance) -> None:
    before = instance.fact("inner started"), instance.fact("outer saw CANCELLED")
    request = ModelInferRequest(model_name="outer")
    request.parameters["target"].string_param = "waits"
    call = instance.calls["ModelInfer"].future(request)
    instance.fact("inner started", before[0] + 1)
    call.cancel()
    instance.fact("outer saw CANCELLED", before[1] + 1)


def test_leaving_an_inner_stream_cancels_it(instance: Instance) -> None:
    before = instance.fact("inner cancelled")
    reply = instance.client.infer("first-of-stream", {}, parameters={"target": "tokens-wait"})
    assert reply.tensors()["n"].tolist() == [0]
    instance.fact("inner cancelled", before + 1)


def test_deadline_ends_inner_and_outer(instance: Instance) -> None:
    before = instance.fact("inner cancelled")
    began = time.monotonic()
    with pytest.raises(InferenceError) as caught:
        instance.client.infer("outer", {}, parameters={"target": "waits"}, timeout=0.5)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5
    instance.fact("inner cancelled", before + 1)


@pytest.mark.parametrize("form", ["sync", "async"])
def test_calls_within_one_worker_do_not_take_each_others_places(tmp_path: Path, form: str) -> None:
    """Two capabilities of one process, each with one place: the outer waits for the inner, which has its own."""
    call = {"sync": "return context.call('inner', {})", "async": "return await context.acall('inner', {})"}[form]
    source = f"""
        from anyserve import AnyServe

        app = AnyServe()

        @app.capability(type="inner", max_concurrency=1)
        def inner(request):
            return {{"n": [1]}}

        @app.capability(type="outer", max_concurrency=1)
        {"async def" if form == "async" else "def"} outer(request, context):
            {call}
    """
    with serving(source, directory=tmp_path) as instance:
        assert instance.client.infer("outer", {}, timeout=5.0).tensors()["n"].tolist() == [1]
        with ThreadPoolExecutor(8) as threads:
            replies = threads.map(lambda _: instance.client.infer("outer", {}, timeout=10.0), range(24))
            assert [reply.tensors()["n"].tolist() for reply in replies] == [[1]] * 24
