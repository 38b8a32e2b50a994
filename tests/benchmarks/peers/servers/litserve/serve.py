"""LitServe with one model. Usage: serve.py PORT echo|magika.

A request's body is taken as it is, by FastAPI's own type for that: LitServe's default is JSON.
"""

import sys
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body, Response

Octets = Annotated[bytes, Body(media_type="application/octet-stream")]


class Echo(litserve.LitAPI):
    """Identity on a numpy array."""

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Octets) -> np.ndarray:
        return np.frombuffer(request, dtype=np.float32)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


class Magika(litserve.LitAPI):
    """File types, one request after the other."""

    def setup(self, device: str) -> None:
        from file_types import FileTypes, as_json  # not for the other model, whose start is measured too

        self._types = FileTypes()
        self._as_json = as_json

    def decode_request(self, request: Octets) -> bytes:
        return request

    def predict(self, x: bytes) -> tuple[str, float]:
        return self._types.one(x)

    def encode_response(self, output: Any) -> Response:
        return Response(self._as_json(output), media_type="application/json")


if __name__ == "__main__":
    port, model = int(sys.argv[1]), sys.argv[2]
    server = litserve.LitServer(
        {"echo": Echo, "magika": Magika}[model](), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True
    )
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", generate_client_file=False)
