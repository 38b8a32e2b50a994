"""The app that the clients talk to: a handler for each thing that a client can notice."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from anyserve import (
    AnyServe,
    Context,
    InferenceError,
    ModelInferRequest,
    ModelInferResponse,
    TensorSpec,
    Worker,
)

app = AnyServe()
LIMIT = 30.0  # seconds that a handler waits for what a test makes happen


@app.capability(type="echo")
def echo(request: ModelInferRequest) -> ModelInferResponse:
    """Tensors as they came, raw or typed, and all parameters."""
    response = ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for name, value in request.parameters.items():
        response.parameters[name].CopyFrom(value)
    for tensor in request.inputs:
        # Input and output tensors are two messages with the same fields.
        response.outputs.add().MergeFromString(tensor.SerializeToString())
    return response


@app.tensors(
    type="arithmetic",
    model="add",
    version="2",
    inputs=[TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))],
    outputs=[TensorSpec("sum", "FP32", (-1,))],
    platform="numpy",
)
def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + b


@app.tensors(type="arithmetic", model="add", version="10")
def add_and_say_so(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    return {"sum": a + b, "version": np.array([b"10"], object)}


@app.tensors(type="halve", inputs=[TensorSpec("x", "BF16", (-1, 2))], outputs=[TensorSpec("y", "BF16", (-1, 2))])
def halve(x: np.ndarray) -> np.ndarray:
    return x / 2


@app.tensors(type="chat", model="llama-7b")
def small(**_inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {"answered_by": np.array([b"llama-7b"], object)}


@app.tensors(type="chat", model="llama-70b", priority=1)
def large(**_inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {"answered_by": np.array([b"llama-70b"], object)}


@app.capability(type="count", platform="generator")
def count(request: ModelInferRequest) -> Iterator[dict[str, np.ndarray]]:
    """Streams 0, 1, 2, … up to the input `to`; a negative one fails after as many replies."""
    to = int(request.tensors()["to"][0])
    for index in range(abs(to)):
        yield {"index": np.array([index], np.int64)}
    if to < 0:
        raise InferenceError("OUT_OF_RANGE", f"cannot count to {to}")


@app.capability(type="fail")
def fail(request: ModelInferRequest) -> ModelInferResponse:
    """Fails with the status that the parameter `code` names; without one, with an exception of Python's."""
    if "code" in request.parameters:
        raise InferenceError(request.parameters["code"].string_param, request.parameters["message"].string_param)
    raise ZeroDivisionError("the model divided by zero")


@app.tensors(type="time_remaining")
def time_remaining(context: Context) -> dict[str, np.ndarray]:
    left = context.time_remaining()
    return {"seconds": np.array([np.inf if left is None else left])}


_happened: dict[str, set[str]] = defaultdict(set)  # request id -> what happened to it
_changed = threading.Condition()


@app.capability(type="wait")
def wait(_request: ModelInferRequest, context: Context) -> ModelInferResponse:
    """Never answers: waits until the client has gone, and remembers that."""
    _note(context.request_id, "started")
    if context.cancellation.wait(LIMIT):
        _note(context.request_id, "cancelled")
    raise InferenceError("ABORTED", "nobody is waiting any more")


@app.capability(type="witness", max_concurrency=20)
def witness(request: ModelInferRequest) -> ModelInferResponse:
    """Answers once `event` has happened to the request of `wait` that has the same id."""
    event = request.parameters["event"].string_param
    with _changed:
        if not _changed.wait_for(lambda: event in _happened[request.id], LIMIT):
            raise InferenceError("ABORTED", f"request {request.id!r}: not {event} after {LIMIT:.0f} s")
    return ModelInferResponse()


def _note(request_id: str, event: str) -> None:
    with _changed:
        _happened[request_id].add(event)
        _changed.notify_all()


@app.worker(capabilities=[{"type": "loadable"}])
class Loadable(Worker):
    """In a process of its own, so that it can be unloaded alone; answers with its process id."""

    def on_start(self) -> None:
        self.pid = np.array([os.getpid()], np.int64)

    def handle(self, _request: ModelInferRequest) -> dict[str, np.ndarray]:
        return {"pid": self.pid}
