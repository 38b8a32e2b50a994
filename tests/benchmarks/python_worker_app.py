"""The app of `test_python_worker.py`: handlers that do nothing but what is measured."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from anyserve import AnyServe, ModelInferRequest, ModelInferResponse, TensorSpec

TOKEN = {"token": np.array([b" token"], dtype=object)}

app = AnyServe()


@app.tensors(type="tensors", outputs=[TensorSpec("x", "FP32", (-1,))])
def identity(x: np.ndarray) -> np.ndarray:
    return x


@app.capability(type="message")
def echo(request: ModelInferRequest) -> ModelInferResponse:
    reply = ModelInferResponse(raw_output_contents=request.raw_input_contents)
    reply.outputs.add(name="x", datatype="FP32", shape=request.inputs[0].shape)
    return reply


@app.capability(type="tokens", max_concurrency=64)
async def tokens(request: ModelInferRequest) -> AsyncIterator[dict[str, np.ndarray]]:
    for _ in range(request.parameters["tokens"].int64_param):
        yield TOKEN
