"""What is bounded in a worker: handlers at once, the length of a reply, what waits for a slow client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from anyserve import Code, InferenceError, ModelInferRequest
from support.command import FACTS, Instance, serving

APP = (
    FACTS
    + '''
import asyncio
import resource
import os


@app.capability(type="stubborn", max_concurrency=3)
def stubborn(request):
    """Knows nothing of cancellation: runs until the gate opens."""
    facts.add("running")
    facts.add("begun")
    facts.gate.wait(20)
    facts.add("running", -1)
    return {"n": [1]}


@app.capability(type="async-held", max_concurrency=3)
async def async_held(request):
    facts.add("async running")
    try:
        while not facts.gate.is_set():
            await asyncio.sleep(0.01)
    finally:
        facts.add("async running", -1)
    return {"n": [1]}


@app.capability(type="long-reply")
def long_reply(request):
    return {"x": np.zeros(int(request.tensors()["bytes"][0]), np.uint8)}


@app.capability(type="long-stream")
def long_stream(request):
    yield {"x": np.zeros(10, np.uint8)}
    yield {"x": np.zeros(int(request.tensors()["bytes"][0]), np.uint8)}
    facts.add("sent too long")


@app.capability(type="length")
def length(request):
    return {"length": [request.ByteSize()]}


@app.capability(type="flood", stream=True)
def flood(request, context, stream):
    for _ in range(2000):
        stream.send({"x": np.zeros(256 << 10, np.uint8)})
        facts.add("sent")
    facts.add("flood ended")


@app.capability(type="async-flood")
async def async_flood(request):
    for _ in range(2000):
        yield {"x": np.zeros(256 << 10, np.uint8)}
        facts.add("async sent")
    facts.add("async flood ended")


@app.capability(type="memory", max_concurrency=64)
def memory(request):
    with open("/proc/self/statm") as file:
        return {"rss": [int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")]}
'''
)

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with serving(APP, directory=tmp_path_factory.mktemp("limits")) as instance:
        yield instance


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    directory = tmp_path_factory.mktemp("limited")
    with serving(APP, f"--max-message-bytes={LIMIT}", directory=directory) as instance:
        yield instance


@pytest.mark.parametrize(("model", "counter"), [("stubborn", "running"), ("async-held", "async running")])
def test_max_concurrency_bounds_the_handlers_that_run(instance: Instance, model: str, counter: str) -> None:
    instance.open_gate(False)
    with ThreadPoolExecutor(9) as threads:
        replies = [threads.submit(instance.client.infer, model, {}) for _ in range(9)]
        instance.fact(counter, 3)
        instance.open_gate()
        assert [reply.result().tensors()["n"].tolist() for reply in replies] == [[1]] * 9
    assert instance.fact(f"most {counter}") == 3
    assert instance.fact(counter) == 0


def test_handlers_whose_client_has_gone_keep_their_places(instance: Instance) -> None:
    instance.open_gate(False)
    begun = instance.fact("begun")
    calls = [instance.calls["ModelInfer"].future(ModelInferRequest(model_name="stubborn")) for _ in range(3)]
    instance.fact("begun", begun + 3)
    for call in calls:
        call.cancel()
    with ThreadPoolExecutor(4) as threads:
        later = [threads.submit(instance.client.infer, "stubborn", {}) for _ in range(4)]
        # Each of these goes to the worker in place of one that was cancelled, and waits there.
        with pytest.raises(InferenceError) as caught:
            instance.client.infer("stubborn", {}, timeout=0.5)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert instance.fact("begun") == begun + 3
        instance.open_gate()
        assert [reply.result().tensors()["n"].tolist() for reply in later] == [[1]] * 4
    assert instance.fact("most running") == 3
    assert instance.fact("running") == 0


def test_reply_above_the_limit(limited: Instance) -> None:
    assert limited.client.infer("long-reply", {"bytes": [LIMIT // 2]}).tensors()["x"].size == LIMIT // 2
    with pytest.raises(InferenceError, match=rf"the limit is {LIMIT} \(--max-message-bytes\)") as caught:
        limited.client.infer("long-reply", {"bytes": [2 * LIMIT]})
    assert caught.value.code is Code.INTERNAL


def test_streamed_reply_above_the_limit(limited: Instance) -> None:
    got = []
    with pytest.raises(InferenceError, match="--max-message-bytes") as caught:
        got.extend(reply.tensors()["x"].size for reply in limited.client.stream("long-stream", {"bytes": [2 * LIMIT]}))
    assert caught.value.code is Code.INTERNAL
    assert limited.fact("sent too long") == 0


def request_of(length: int) -> ModelInferRequest:
    """A request of exactly so many bytes."""
    request = ModelInferRequest(model_name="length")
    request.set_tensors({"x": np.zeros(length - 200, np.uint8)})
    request.id = "i" * (length - request.ByteSize() - 3)
    request.id += "i" * (length - request.ByteSize())
    assert request.ByteSize() == length
    return request


@pytest.mark.parametrize("below", [1000, 40, 1, 0])
def test_request_up_to_the_limit_is_served(limited: Instance, below: int) -> None:
    """What the agent appends to a request does not count against the client's limit."""
    request = request_of(LIMIT - below)
    reply = limited.calls["ModelInfer"](request, timeout=10)
    assert reply.SerializeToString()
    assert reply.id == request.id


def test_request_above_the_limit(limited: Instance) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        limited.calls["ModelInfer"](request_of(LIMIT + 1), timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("prefix", ["", "async "])
def test_slow_client_holds_a_stream_up(instance: Instance, prefix: str) -> None:
    """500 MB would be sent; a client that reads none of it gets a few MB, and the worker does not grow."""

    def memory() -> int:
        return int(instance.client.infer("memory", {}).tensors()["rss"][0])

    before = memory()
    stream = instance.client.stream(f"{prefix.strip()}-flood".removeprefix("-"), {})
    next(stream)
    instance.fact(f"{prefix}sent", 10)
    instance.stays_below(f"{prefix}sent", 200, seconds=1.0)
    assert memory() - before < 100 << 20
    stream.close()
    assert instance.fact(f"{prefix}flood ended") == 0


@pytest.mark.parametrize("form", ["def", "async def"])
def test_stream_that_is_used_after_its_end(tmp_path: Path, form: str) -> None:
    """A reply that comes too late is the handler's mistake: it is told so, and no other exchange sees it."""
    send = "await kept[-1].asend" if form == "async def" else "kept[-1].send"
    first = "await stream.asend" if form == "async def" else "stream.send"
    source = (
        FACTS
        + f"""
kept = []


@app.capability(type="keeps", stream=True)
{form} keeps(request, context, stream):
    kept.append(stream)
    {first}({{"n": [1]}})


@app.capability(type="too-late")
{form} too_late(request):
    try:
        for _ in range(3):
            {send}({{"n": [99]}})
    except Exception:
        return {{"refused": [True]}}
    return {{"refused": [False]}}
"""
    )
    with serving(source, directory=tmp_path) as instance:
        for _ in range(3):
            assert [r.tensors()["n"].tolist() for r in instance.client.stream("keeps", {})] == [[1]]
            assert instance.client.infer("too-late", {}).tensors()["refused"].tolist() == [True]
        assert instance.logs("protocol violation") == []
