"""Bytes by hand: protobuf fields and frames, written without the code under test.

What knows no message class is the conformance suite's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyserve._proto.grpc_predict_v2_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from anyserve_conformance.wire import (
    Parameter,
    capability_text,
    frame,
    key,
    parameters_of,
    query_metadata,
    raw_bytes,
    varint,
)
from anyserve_conformance.wire import field as length_delimited

__all__ = [
    "Parameter",
    "capability_text",
    "frame",
    "key",
    "length_delimited",
    "parameters_of",
    "query_metadata",
    "raw_bytes",
    "reply",
    "request",
    "stream_reply",
    "varint",
]


def request(
    name: str = "", *, version: str = "", request_id: str = "", raw: bytes = b"", **parameters: Parameter
) -> ModelInferRequest:
    """A ModelInferRequest; `raw` is its only tensor, if there is any."""
    message = ModelInferRequest(model_name=name, model_version=version, id=request_id)
    if raw:
        message.inputs.add(name="in", datatype="UINT8", shape=[len(raw)])
        message.raw_input_contents.append(raw)
    _set_parameters(message, parameters)
    return message


def reply(
    name: str = "", *, version: str = "", request_id: str = "", raw: bytes = b"", **parameters: Parameter
) -> ModelInferResponse:
    """A ModelInferResponse; `raw` is its only tensor, if there is any."""
    message = ModelInferResponse(model_name=name, model_version=version, id=request_id)
    if raw:
        message.outputs.add(name="out", datatype="UINT8", shape=[len(raw)])
        message.raw_output_contents.append(raw)
    _set_parameters(message, parameters)
    return message


def stream_reply(*, error: str = "", raw: bytes = b"", request_id: str = "", **parameters: Any) -> bytes:
    """A ModelStreamInferResponse as bytes."""
    message = ModelStreamInferResponse(error_message=error)
    if raw or request_id or parameters or not error:
        message.infer_response.CopyFrom(reply(raw=raw, request_id=request_id, **parameters))
    return raw_bytes(message)


def _set_parameters(message: ModelInferRequest | ModelInferResponse, parameters: Mapping[str, Parameter]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        elif isinstance(value, int):
            message.parameters[name].int64_param = value
        elif isinstance(value, str):
            message.parameters[name].string_param = value
        else:
            message.parameters[name].double_param = value
