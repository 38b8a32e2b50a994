"""A request under way when the server drains may still call the other stages of its instance."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anyserve import Code, InferenceError
from support.command import serving

# The pipes stand for work: the handler says that it has begun, and goes on when the test lets it.
PIPELINE = """
from anyserve import AnyServe

app = AnyServe()

@app.capability(type="inner")
def inner(request):
    return {"n": [1]}

@app.capability(type="inner-stream")
def inner_stream(request):
    yield {"n": [1]}
    yield {"n": [2]}

@app.capability(type="outer")
def outer(request, context):
    with open("begun", "w") as begun:
        begun.write("!")
    with open("go-on") as go_on:
        go_on.read()
    streamed = sum(reply.tensors()["n"] for reply in context.call_stream("inner-stream", {}))
    return {"n": context.call("inner", {}).tensors()["n"] + streamed}
"""


def test_inner_calls_belong_to_the_request_under_way(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go-on")
    with serving(PIPELINE, directory=tmp_path) as instance, ThreadPoolExecutor(1) as pool:
        outer = pool.submit(instance.client.infer, "outer", {}, timeout=30)
        (tmp_path / "begun").read_text()
        instance.signal(signal.SIGTERM)
        instance.wait_log("draining")
        with pytest.raises(InferenceError) as refused:
            instance.client.infer("inner", {})
        assert refused.value.code is Code.UNAVAILABLE
        assert "draining" in refused.value.message
        (tmp_path / "go-on").write_text("!")
        assert outer.result(30).tensors()["n"].tolist() == [4]
        assert instance.wait() == 0
