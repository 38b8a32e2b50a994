"""File types by Magika, a small neural model: one worker class that loads the model once."""

import numpy as np
from magika import Magika

from anyserve import AnyServe, Code, InferenceError, ModelInferRequest, ModelInferResponse, TensorSpec, Worker

app = AnyServe()


@app.worker(
    capabilities=[{"type": "file-type", "model": "magika"}],
    inputs=[TensorSpec("content", "BYTES")],
    outputs=[TensorSpec("label", "BYTES"), TensorSpec("score", "FP32")],
    platform="onnxruntime",
)
class FileType(Worker):
    def on_start(self) -> None:
        self._magika = Magika()

    def handle(self, request: ModelInferRequest) -> ModelInferResponse:
        contents = request.tensors().get("content")
        if contents is None or contents.ndim != 1 or contents.dtype != object:
            raise InferenceError(Code.INVALID_ARGUMENT, "file-type takes one BYTES tensor `content` of shape [files]")
        results = [self._magika.identify_bytes(content) for content in contents]
        response = ModelInferResponse()
        response.set_tensors(
            {
                "label": np.array([result.output.label.encode() for result in results], dtype=object),
                "score": np.array([result.score for result in results], dtype=np.float32),
            }
        )
        return response
