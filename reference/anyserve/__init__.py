"""Serve any capability from any process over the KServe v2 gRPC protocol.

What stands here is imported when it is first used: an agent, and commands, need little of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_ROOMS = {
    "app": ("AnyServe", "Worker"),
    "batches": ("Batch",),
    "capability": ("Capability",),
    "client": ("AnyserveClient", "AsyncAnyserveClient"),
    "errors": ("Code", "InferenceError"),
    "messages": ("ModelInferRequest", "ModelInferResponse", "ModelStreamInferResponse"),
    "tensors": ("TensorSpec",),
    "worker.context": ("Context", "Stream"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value  # so that this is not asked again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
