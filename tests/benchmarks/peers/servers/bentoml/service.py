"""BentoML with one model each: `bentoml serve service:Echo` or `service:Magika`."""

import bentoml
import numpy as np
from pydantic import Base64Bytes

SETTINGS = {"workers": 1, "traffic": {"timeout": 60}, "logging": {"access": {"enabled": False}}}


@bentoml.service(**SETTINGS)
class Echo:
    """Identity on a numpy array."""

    @bentoml.api
    async def echo(self, x: Base64Bytes) -> bytes:
        return np.frombuffer(x, dtype=np.float32).tobytes()


@bentoml.service(**SETTINGS)
class Magika:
    """File types, one request after the other."""

    def __init__(self) -> None:
        from file_types import FileTypes, as_json  # not for the other model, whose start is measured too

        self._types = FileTypes()
        self._as_json = as_json

    @bentoml.api
    def magika(self, x: Base64Bytes) -> bytes:
        return self._as_json(self._types.one(x))
