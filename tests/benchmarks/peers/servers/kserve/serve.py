"""KServe's Python server with one model. Usage: serve.py GRPC_PORT HTTP_PORT echo|magika."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from identity import Identity
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class MagikaModel(Model):
    """File types, one request after the other."""

    def __init__(self) -> None:
        from file_types import FileTypes  # not for the other model, whose start is measured too

        super().__init__("magika")
        self._types = FileTypes()
        self.ready = True

    async def predict(
        self,
        payload: InferRequest,
        headers: Mapping[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        (content,) = payload.inputs[0].as_numpy()
        label, score = self._types.one(content)
        outputs = [InferOutput("label", [1], "BYTES"), InferOutput("score", [1], "FP32")]
        values: list[Any] = [np.array([label.encode()], dtype=object), np.array([score], dtype=np.float32)]
        for output, value in zip(outputs, values, strict=True):
            output.set_data_from_numpy(value, binary_data=payload.use_binary_outputs)
        return InferResponse(payload.id, self.name, outputs, use_binary_outputs=payload.use_binary_outputs)


if __name__ == "__main__":
    grpc_port, http_port, model = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    server = ModelServer(grpc_port=grpc_port, http_port=http_port, workers=1, enable_latency_logging=False)
    server.start([Identity("echo", {"x": "FP32"}) if model == "echo" else MagikaModel()])
