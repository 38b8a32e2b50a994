"""A client's RPCs as values: arguments in; request, metadata, deadline and how to read the answer out.

Pure: `client_channels.py` knows where they go, `client.py` sends them. Nothing here
knows how an agent routes; patterns and names are judged by the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from anyserve import tensors
from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve._proto import worker_management_pb2 as management
from anyserve.errors import Code, InferenceError
from anyserve.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from anyserve.wire import ERROR_CODE

__all__ = [
    "MANAGEMENT",
    "SERVING",
    "Call",
    "Calls",
    "Inputs",
    "Metadata",
    "Parameters",
    "Target",
    "encode_pattern",
    "infer_request",
    "request_metadata",
    "streamed_response",
]

T = TypeVar("T")
Target = str | Mapping[str, str]
Inputs = ModelInferRequest | Mapping[str, ArrayLike]
Parameters = Mapping[str, bool | int | str | float]
Metadata = tuple[tuple[str, str], ...]

SERVING = kserve.DESCRIPTOR.services_by_name["GRPCInferenceService"]
MANAGEMENT = management.DESCRIPTOR.services_by_name["WorkerManagement"]
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_PATTERN_SAFE = _PRINTABLE.replace("%", "")


class _RequestOptions(TypedDict):
    version: str
    request_id: str
    parameters: Parameters | None
    datatypes: Mapping[str, str] | None


class _Options(_RequestOptions):
    metadata: Mapping[str, str] | None
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One RPC as a value: what to send, how, and how to read each message of the answer."""

    service: ServiceDescriptor
    method: str
    request: Message
    read: Callable[[Any], T]
    timeout: float | None
    metadata: Metadata = ()


class Calls:
    """The RPCs of the API, as values."""

    def __init__(self, timeout: float | None, token: str | None) -> None:
        self._timeout = timeout
        self._token: Metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def infer(self, target: Target, inputs: Inputs, **options: Unpack[_Options]) -> Call[ModelInferResponse]:
        """One request on ModelInfer, read as its response."""
        return self._inference("ModelInfer", lambda response: response, target, inputs, **options)

    def stream(self, target: Target, inputs: Inputs, **options: Unpack[_Options]) -> Call[ModelInferResponse]:
        """One request on ModelStreamInfer; each message is read as a response."""
        return self._inference("ModelStreamInfer", streamed_response, target, inputs, **options)

    def server_live(self) -> Call[bool]:
        return self._serving("ServerLive", kserve.ServerLiveRequest(), lambda reply: reply.live)

    def server_ready(self, timeout: float | None = None) -> Call[bool]:
        return self._serving("ServerReady", kserve.ServerReadyRequest(), lambda reply: reply.ready, timeout)

    def model_ready(self, name: str, version: str) -> Call[bool]:
        request = kserve.ModelReadyRequest(name=name, version=version)
        return self._serving("ModelReady", request, lambda reply: reply.ready)

    def server_metadata(self) -> Call[kserve.ServerMetadataResponse]:
        return self._serving("ServerMetadata", kserve.ServerMetadataRequest(), lambda reply: reply)

    def model_metadata(self, name: str, version: str) -> Call[kserve.ModelMetadataResponse]:
        request = kserve.ModelMetadataRequest(name=name, version=version)
        return self._serving("ModelMetadata", request, lambda reply: reply)

    def workers(self) -> Call[list[management.Worker]]:
        request = management.ListWorkersRequest()
        return Call(MANAGEMENT, "ListWorkers", request, lambda reply: list(reply.workers), self._timeout, self._token)

    def _inference(
        self,
        method: str,
        read: Callable[[Any], ModelInferResponse],
        target: Target,
        inputs: Inputs,
        *,
        metadata: Mapping[str, str] | None,
        timeout: float | None,
        **request: Unpack[_RequestOptions],
    ) -> Call[ModelInferResponse]:
        pairs = request_metadata(target, metadata)
        return self._serving(method, infer_request(target, inputs, **request), read, timeout, pairs)

    def _serving(
        self,
        method: str,
        request: Message,
        read: Callable[[Any], T],
        timeout: float | None = None,
        pairs: Metadata = (),
    ) -> Call[T]:
        return Call(SERVING, method, request, read, self._timeout if timeout is None else timeout, pairs)


def infer_request(
    target: Target,
    inputs: Inputs,
    *,
    version: str = "",
    request_id: str = "",
    parameters: Parameters | None = None,
    datatypes: Mapping[str, str] | None = None,
) -> ModelInferRequest:
    """Builds the request for `target`; a ready one is copied and never changed.

    Raises:
        TypeError: an argument, an array or a parameter of a type that cannot be sent.
        ValueError: arguments that contradict one another or the ready request.
    """
    request = ModelInferRequest()
    if isinstance(inputs, ModelInferRequest):
        if datatypes is not None:
            raise ValueError("datatypes goes with arrays; the inputs of a ModelInferRequest have theirs")
        request.CopyFrom(inputs)
    elif isinstance(inputs, Mapping):
        tensors.encode(request, inputs, datatypes=datatypes)
    else:
        raise TypeError(f"inputs must be a ModelInferRequest or a mapping of arrays, got {type(inputs).__name__}")
    if isinstance(target, str):
        _fill(request, "model_name", target)
        _fill(request, "model_version", version)
    elif version:
        raise ValueError("version goes with a model name; in a capability query write it as one more key")
    _fill(request, "id", request_id)
    for name, value in (parameters or {}).items():
        request.parameters[name].CopyFrom(_parameter(name, value))
    return request


def _fill(request: ModelInferRequest, field: str, value: str) -> None:
    there = getattr(request, field)
    # Sending a request on to another model without renaming it is easily done and would go to the wrong one.
    if value and there and there != value:
        raise ValueError(f"the request has {field} {there!r}, the call says {value!r}; clear one of them")
    setattr(request, field, there or value)


def _parameter(name: str, value: object) -> kserve.InferParameter:
    if isinstance(value, bool):  # before int, which bool is a kind of
        return kserve.InferParameter(bool_param=value)
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return kserve.InferParameter(int64_param=value)
        if 0 <= value < 1 << 64:
            return kserve.InferParameter(uint64_param=value)
        raise ValueError(f"parameter {name!r} does not fit into 64 bits: {value}")
    if isinstance(value, float):
        return kserve.InferParameter(double_param=value)
    if isinstance(value, str):
        return kserve.InferParameter(string_param=value)
    raise TypeError(f"parameter {name!r} must be a bool, int, float or str, got {type(value).__name__}")


def request_metadata(target: Target, metadata: Mapping[str, str] | None = None) -> Metadata:
    """Builds the metadata of a request: `x-cap-<key>` for each key of a capability query, then `metadata`.

    Raises:
        TypeError: `target` is neither a name nor a mapping, or has values that are not strings.
        ValueError: a key or value that metadata cannot carry, or an empty query.
    """
    pairs: list[tuple[str, str]] = []
    if isinstance(target, Mapping):
        if not target:
            raise ValueError("an empty capability query matches nothing; give at least one key, or a model name")
        pairs += [(f"x-cap-{key}", encode_pattern(pattern)) for key, pattern in target.items()]
    elif not isinstance(target, str):
        raise TypeError(f"target must be a model name or a mapping of patterns, got {type(target).__name__}")
    pairs += [(key.lower(), value) for key, value in (metadata or {}).items()]
    for key, value in pairs:
        if not _METADATA_KEY.fullmatch(key) or key.endswith("-bin"):
            raise ValueError(f"metadata key {key!r} must be of [0-9a-z_.-] and not end in -bin")
        if not set(_PRINTABLE).issuperset(value):
            raise ValueError(f"the value of metadata key {key!r} must be printable ASCII, got {value!r}")
    return tuple(pairs)


def encode_pattern(pattern: str) -> str:
    """Percent-encodes what is not printable ASCII, `%`, and spaces at the ends, which HTTP/2 peers may strip."""
    if not isinstance(pattern, str):
        raise TypeError(f"a pattern is a string, got {pattern!r}")
    return re.sub("^ +| +$", lambda spaces: "%20" * len(spaces[0]), quote(pattern, safe=_PATTERN_SAFE))


def streamed_response(message: ModelStreamInferResponse) -> ModelInferResponse:
    """Takes the response out of a stream's message.

    Raises:
        InferenceError: the message is an in-band error. Its code is the
            parameter `anyserve_error_code` where that is one, else UNKNOWN.
    """
    if not message.error_message:
        return message.infer_response
    number = message.infer_response.parameters[ERROR_CODE].int64_param
    raise InferenceError(number if number in set(Code) - {Code.OK} else Code.UNKNOWN, message.error_message)
