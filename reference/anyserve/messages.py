"""The inference messages that users see: the generated classes with their tensor methods.

The methods are attached to the generated classes, which belong to anyserve alone
(they live in a descriptor pool of their own), so a request means the same object
everywhere and no copy is made.
"""

from __future__ import annotations

from anyserve import tensors
from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

__all__ = ["ModelInferRequest", "ModelInferResponse", "ModelStreamInferResponse"]

for _message in (ModelInferRequest, ModelInferResponse):
    _message.tensors = tensors.decode  # type: ignore[method-assign, assignment]
    _message.set_tensors = tensors.encode  # type: ignore[method-assign, assignment]
