"""What a handler learns from its context: id, capability, metadata, deadline, cancellation."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from anyserve import Code, InferenceError, ModelInferRequest
from anyserve._proto import grpc_predict_v2_pb2 as pb
from support.command import FACTS, Instance, serving
from support.processes import PATIENCE

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

APP = (
    FACTS
    + """
import asyncio


@app.capability(type="about", model="me", size="7")
def about(request, context):
    return {
        "id": [context.request_id],
        "capability": [f"{key}={value}" for key, value in context.capability.items()],
        "metadata": [f"{key}={value}" for key, value in context.metadata.items()],
        "parameters": sorted(request.parameters),
        "cancelled": [context.cancelled(), context.cancellation.is_set()],
    }


@app.capability(type="left")
def left(request, context):
    remaining = context.time_remaining()
    return {"left": [np.nan if remaining is None else remaining]}


@app.capability(type="waits", max_concurrency=3)
def waits(request, context):
    facts.add("started")
    facts.add("cancelled" if context.cancellation.wait(20) and context.cancelled() else "in vain")


@app.capability(type="async-waits")
async def async_waits(request, context):
    facts.add("async started")
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        facts.add("async cancelled")
        raise


@app.capability(type="async-stubborn")
async def async_stubborn(request, context):
    facts.add("async stubborn")
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        pass
    facts.add("async stubborn ended")
    return {}


@app.capability(type="tasks")
async def tasks(request):
    return {"n": [len(asyncio.all_tasks())]}


@app.capability(type="stream-waits", stream=True)
def stream_waits(request, context, stream):
    stream.send({"n": [1]})
    facts.add("stream started")
    facts.add("stream cancelled" if context.cancellation.wait(20) else "in vain")


@app.capability(type="endless")
def endless(request, context):
    try:
        while True:
            yield {"n": np.zeros(1000)}
    finally:
        facts.add("endless ended")


@app.capability(type="async-endless")
async def async_endless(request, context):
    try:
        while True:
            yield {"n": np.zeros(1000)}
    finally:
        facts.add("async endless ended")
"""
)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with serving(APP, directory=tmp_path_factory.mktemp("context")) as instance:
        yield instance


def test_what_a_handler_is_told(instance: Instance) -> None:
    reply = instance.client.infer(
        "me",
        {"x": [1]},
        request_id="id-9",
        parameters={"mine": 1},
        metadata={"traceparent": TRACEPARENT, "other": "kept by the agent"},
    )
    tensors = {name: [v.decode() if isinstance(v, bytes) else v for v in a] for name, a in reply.tensors().items()}
    assert tensors["id"] == ["id-9"]
    assert sorted(tensors["capability"]) == ["model=me", "size=7", "type=about"]
    assert tensors["metadata"] == [f"traceparent={TRACEPARENT}"]
    assert tensors["parameters"] == ["mine"]  # what the agent appended is not the handler's
    assert tensors["cancelled"] == [False, False]


def test_without_id_and_traceparent(instance: Instance) -> None:
    tensors = instance.client.infer({"type": "about"}, {"x": [1]}).tensors()
    assert tensors["id"].tolist() == [b""]
    assert tensors["metadata"].size == 0


def test_time_remaining(instance: Instance) -> None:
    left = instance.client.infer("left", {}, timeout=7.0).tensors()["left"][0]
    assert 5.0 < left <= 7.1  # grpc rounds timeouts up


def test_no_deadline_no_time_remaining(instance: Instance) -> None:
    left = instance.calls["ModelInfer"](pb.ModelInferRequest(model_name="left")).SerializeToString()
    remaining = pb.ModelInferResponse.FromString(left).tensors()["left"]
    assert np.isnan(remaining).tolist() == [True]


@pytest.mark.parametrize("prefix", ["", "async "])
def test_client_that_goes_away_cancels(instance: Instance, prefix: str) -> None:
    model = f"{prefix.strip()}-waits".removeprefix("-")
    before = instance.fact(f"{prefix}started"), instance.fact(f"{prefix}cancelled")
    call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name=model))
    instance.fact(f"{prefix}started", before[0] + 1)
    call.cancel()
    instance.fact(f"{prefix}cancelled", before[1] + 1)
    assert instance.fact("in vain") == 0


def test_handler_that_swallows_its_cancellation_leaves_nothing_behind(instance: Instance) -> None:
    """BUG(lead): the task of the closed connection waits for its next request for ever."""

    def tasks() -> int:
        return int(instance.client.infer("tasks", {}).tensors()["n"][0])

    before = tasks()
    for count in range(1, 11):
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="async-stubborn"))
        instance.fact("async stubborn", count)
        call.cancel()
        instance.fact("async stubborn ended", count)
    assert tasks() < before + 10


@pytest.mark.parametrize("prefix", ["", "async "])
def test_deadline_cancels(instance: Instance, prefix: str) -> None:
    model = f"{prefix.strip()}-waits".removeprefix("-")
    before = instance.fact(f"{prefix}cancelled")
    with pytest.raises(InferenceError) as caught:
        instance.client.infer(model, {}, timeout=0.3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    instance.fact(f"{prefix}cancelled", before + 1)


def test_leaving_a_stream_cancels_it(instance: Instance) -> None:
    stream = instance.client.stream("stream-waits", {})
    next(stream)
    instance.fact("stream started", 1)
    stream.close()
    instance.fact("stream cancelled", 1)


@pytest.mark.parametrize("prefix", ["", "async "])
def test_leaving_an_endless_generator_runs_its_finally(instance: Instance, prefix: str) -> None:
    stream = instance.client.stream(f"{prefix.strip()}-endless".removeprefix("-"), {})
    for _ in range(3):
        next(stream)
    stream.close()
    instance.fact(f"{prefix}endless ended", 1)


def test_cancelling_a_stream_of_several_requests_cancels_all(instance: Instance) -> None:
    before = instance.fact("started"), instance.fact("cancelled")
    requests = [ModelInferRequest(model_name="waits", id=str(n)) for n in range(3)]
    call = instance.calls["ModelStreamInfer"](iter(requests), timeout=PATIENCE)
    instance.fact("started", before[0] + 3)
    call.cancel()
    instance.fact("cancelled", before[1] + 3)


def test_stop_cuts_off_handlers_after_the_grace(tmp_path: Path) -> None:
    source = (
        FACTS
        + """
import asyncio
from pathlib import Path


@app.capability(type="waits")
async def waits(request, context):
    facts.add("started")
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        Path("cancelled").touch()
        raise
"""
    )
    with serving(source, "--grace=0.2", directory=tmp_path) as instance:
        call = instance.calls["ModelInfer"].future(ModelInferRequest(model_name="waits"))
        instance.fact("started", 1)
        instance.signal(signal.SIGTERM)
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert instance.wait(10) == 0
    assert (tmp_path / "cancelled").exists()
