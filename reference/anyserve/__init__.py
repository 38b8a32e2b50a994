"""Serve any capability from any process over the KServe v2 gRPC protocol."""

from anyserve.app import AnyServe, Worker
from anyserve.batches import Batch
from anyserve.capability import Capability
from anyserve.client import AnyserveClient, AsyncAnyserveClient
from anyserve.errors import Code, InferenceError
from anyserve.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from anyserve.tensors import TensorSpec
from anyserve.worker.context import Context, Stream

__all__ = [
    "AnyServe",
    "AnyserveClient",
    "AsyncAnyserveClient",
    "Batch",
    "Capability",
    "Code",
    "Context",
    "InferenceError",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelStreamInferResponse",
    "Stream",
    "TensorSpec",
    "Worker",
]
