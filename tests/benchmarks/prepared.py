"""The requests that benchmarks send, as prepared bodies, and one call by grpcio that shows that the answer is right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from anyserve._proto import grpc_predict_v2_pb2 as kserve
from benchmarks.load import framed

__all__ = ["Prepared", "ask", "by_name", "prepare", "tensor", "tokens"]

MAX_MESSAGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "/inference.GRPCInferenceService/"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request: what it is and where its body lies."""

    path: str
    message: bytes
    body: Path


def tensor(size: int, model: str = "echo") -> bytes:
    """A ModelInferRequest with one raw tensor of that many bytes."""
    request = kserve.ModelInferRequest(model_name=model, id="1", raw_input_contents=[bytes(size)])
    request.inputs.add(name="x", datatype="FP32", shape=[size // 4])
    return request.SerializeToString()


def tokens(count: int) -> bytes:
    """A ModelInferRequest for a stream of that many small responses."""
    request = kserve.ModelInferRequest(model_name="tokens", id="1")
    request.parameters["tokens"].int64_param = count
    return request.SerializeToString()


def by_name(name: str) -> bytes:
    """A ModelReadyRequest."""
    return kserve.ModelReadyRequest(name=name).SerializeToString()


def prepare(directory: Path, method: str, message: bytes) -> Prepared:
    """Writes the body into a file of its own."""
    body = directory / f"{len(list(directory.iterdir()))}.body"
    body.write_bytes(framed(message))
    return Prepared(SERVICE + method, message, body)


def ask(
    port: int, request: Prepared, *, metadata: Iterable[tuple[str, str]] = (), stream: bool = False
) -> list[bytes] | grpc.StatusCode:
    """Sends a request by grpcio: the responses' bytes, or the status of the failure."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=MAX_MESSAGE) as channel:
        call: Any = (channel.stream_stream if stream else channel.unary_unary)(request.path)
        try:
            if stream:
                return list(call(iter([request.message]), metadata=tuple(metadata), timeout=60))
            return [call(request.message, metadata=tuple(metadata), timeout=60)]
        except grpc.RpcError as error:
            return error.code()
