"""File types, one request after the other."""

from file_types import FileTypes
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class MagikaModel(MLModel):
    async def load(self) -> bool:
        self._types = FileTypes()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (content,) = payload.inputs[0].data
        label, score = self._types.one(content)
        outputs = [
            ResponseOutput(name="label", datatype="BYTES", shape=[1], data=[label.encode()]),
            ResponseOutput(name="score", datatype="FP32", shape=[1], data=[float(score)]),
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
