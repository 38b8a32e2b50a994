"""The only implementation of a model: its outputs are its inputs, as MLServer hands them over."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Identity(MLModel):  # type: ignore[misc]  # MLServer is not installed where mypy runs
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            ResponseOutput(name=given.name, datatype=given.datatype, shape=given.shape, data=given.data)
            for given in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
