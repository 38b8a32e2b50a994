"""mosec with one model. Usage: serve.py echo|magika|magika_batched, and mosec's own options."""

import sys

import numpy as np
from mosec import Server, Worker


class Echo(Worker):
    """Identity on a numpy array."""

    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.float32)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: np.ndarray) -> np.ndarray:
        return data


class Magika(Worker):
    """File types, one request after the other."""

    def __init__(self) -> None:
        from file_types import FileTypes, as_json  # not for the other model, whose start is measured too

        super().__init__()
        self._types = FileTypes()
        self._as_json = as_json

    def deserialize(self, data: bytes) -> bytes:
        return bytes(data)  # mosec hands over a bytearray

    def serialize(self, data: tuple[str, float]) -> bytes:
        return self._as_json(data)

    def forward(self, data: bytes) -> tuple[str, float]:
        return self._types.one(data)


class MagikaBatched(Magika):
    """The same, with mosec's batches."""

    def forward(self, data: list[bytes]) -> list[tuple[str, float]]:
        return self._types.many(data)


if __name__ == "__main__":
    server = Server()
    model = sys.argv[1]
    if model == "magika_batched":
        server.append_worker(MagikaBatched, num=1, max_batch_size=32, max_wait_time=5)
    else:
        server.append_worker({"echo": Echo, "magika": Magika}[model], num=1)
    server.run()
