"""File types, as many requests as wait by one run of the network."""

from collections.abc import Sequence

import numpy as np
from file_types import FileTypes

from anyserve import AnyServe, Batch, ModelInferRequest, ModelInferResponse, TensorSpec, Worker

app = AnyServe()


@app.worker(
    capabilities=[{"type": "file-type", "model": "magika"}],
    inputs=[TensorSpec("content", "BYTES")],
    outputs=[TensorSpec("label", "BYTES"), TensorSpec("score", "FP32")],
    batch=Batch(max_size=32, max_wait_ms=5),
)
class FileTypeBatches(Worker):
    def on_start(self) -> None:
        self._types = FileTypes()

    def handle(self, requests: Sequence[ModelInferRequest]) -> list[ModelInferResponse]:
        contents = [request.tensors()["content"][0] for request in requests]
        return [self._response(label, score) for label, score in self._types.many(contents)]

    def _response(self, label: str, score: float) -> ModelInferResponse:
        response = ModelInferResponse()
        response.set_tensors(
            {"label": np.array([label.encode()], dtype=object), "score": np.array([score], dtype=np.float32)}
        )
        return response
