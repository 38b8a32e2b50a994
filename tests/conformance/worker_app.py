"""The test models of the conformance suite's profile `worker`, as a Python app. See docs/conformance.md."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from anyserve import AnyServe, Code, InferenceError, ModelInferRequest, ModelInferResponse

app = AnyServe()

_lock = threading.Lock()
_counts = {"running": 0, "produced": 0}


def _parameter(request: ModelInferRequest, name: str, default: Any) -> Any:
    if name not in request.parameters:
        return default
    parameter = request.parameters[name]
    return getattr(parameter, parameter.WhichOneof("parameter_choice") or "int64_param")


def _add(name: str, number: int) -> int:
    with _lock:
        _counts[name] += number
        return _counts[name]


@app.model("echo")
def echo(request: ModelInferRequest) -> ModelInferResponse:
    response = ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        response.outputs.add().MergeFromString(tensor.SerializeToString())
    return response


@app.model("fail")
def fail(request: ModelInferRequest) -> ModelInferResponse:
    raise InferenceError(Code(_parameter(request, "code", 3)), _parameter(request, "message", "as asked"))


@app.model("wait")
async def wait(request: ModelInferRequest) -> ModelInferResponse:
    running = _add("running", 1)
    try:
        await asyncio.sleep(_parameter(request, "ms", 0) / 1000)
    finally:
        _add("running", -1)
    response = ModelInferResponse()
    response.parameters["running"].int64_param = running
    response.parameters["produced"].int64_param = _add("produced", 0)
    return response


@app.model("count", stream=True)
def count(request: ModelInferRequest, _context: Any, stream: Any) -> None:
    size = _parameter(request, "size", -1)
    fail_at = _parameter(request, "fail_at", -1)
    for i in range(_parameter(request, "n", 3)):
        if i == fail_at:
            raise InferenceError(Code.INTERNAL, "as asked")
        response = ModelInferResponse()
        response.parameters["i"].int64_param = i
        if size >= 0:
            response.outputs.add(name="data", datatype="UINT8", shape=[size])
            response.raw_output_contents.append(bytes(size))
        stream.send(response)
        _add("produced", 1)
