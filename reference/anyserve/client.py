"""The clients: `AnyserveClient` (blocking) and `AsyncAnyserveClient` (asyncio), over gRPC.

Pure functions turn arguments into requests, metadata and deadlines, and what comes
back into results and errors. The two classes at the end only send what those made.
Nothing here knows how an agent routes; patterns and names are judged by the server.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from anyserve import rpc, tensors
from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve._proto import worker_management_pb2 as management
from anyserve.errors import Code, InferenceError
from anyserve.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from anyserve.wire import ERROR_CODE

__all__ = ["AnyserveClient", "AsyncAnyserveClient"]

T = TypeVar("T")
Target = str | Mapping[str, str]
Inputs = ModelInferRequest | Mapping[str, ArrayLike]
Parameters = Mapping[str, bool | int | str | float]
Metadata = tuple[tuple[str, str], ...]

DEFAULT_TIMEOUT = 60.0
MAX_MESSAGE_BYTES = 64 << 20
MANAGEMENT_PORT = 9000
# A server tells nobody that it became ready, so `wait_ready` has to ask again: soon at first, because
# most servers start within a second, then seldom enough to cost the server nothing.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.5
# gRPC's own pause between connection attempts grows to two minutes; `wait_ready` would sit it out.
CHANNEL_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))

# `stream` sends one request. Said as a stream of one, grpc.aio may lose the status of a server that refuses
# at once (grpc issue 36066).# gRPC would ask $http_proxy for this very machine.
NO_PROXY = (("grpc.enable_http_proxy", 0),)

_SINGLE_REQUEST = frozenset({"ModelStreamInfer"})
_SERVING = kserve.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_MANAGEMENT = management.DESCRIPTOR.services_by_name["WorkerManagement"]
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]):(?P<port>[0-9]{1,5})")
_LOCAL = re.compile(r"localhost:|127\.|\[::1\]:|unix:")
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_PATTERN_SAFE = _PRINTABLE.replace("%", "")


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


@contextmanager
def _inference_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise InferenceError(error.code(), error.details() or "the server gave no message") from error


def _host(address: str) -> str | None:
    """Checks an address; gives its host, or None for a Unix socket."""
    if address.startswith("unix:") and len(address) > len("unix:"):
        return None
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(
            f"{address!r} is not an address: write HOST:PORT without a scheme, e.g. localhost:8000 or [::1]:8000, "
            "or unix:/path/of/socket"
        )
    return match["host"]


class _RequestOptions(TypedDict):
    version: str
    request_id: str
    parameters: Parameters | None
    datatypes: Mapping[str, str] | None


class _Options(_RequestOptions):
    metadata: Mapping[str, str] | None
    timeout: float | None


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """One RPC as a value: what to send, how, and how to read each message of the answer."""

    service: ServiceDescriptor
    method: str
    request: Message
    read: Callable[[Any], T]
    timeout: float | None
    metadata: Metadata = ()


class _Calls:
    """The RPCs of the API, as values."""

    def __init__(self, timeout: float | None, token: str | None) -> None:
        self._timeout = timeout
        self._token: Metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def infer(self, target: Target, inputs: Inputs, **options: Unpack[_Options]) -> _Call[ModelInferResponse]:
        """One request on ModelInfer, read as its response."""
        return self._inference("ModelInfer", lambda response: response, target, inputs, **options)

    def stream(self, target: Target, inputs: Inputs, **options: Unpack[_Options]) -> _Call[ModelInferResponse]:
        """One request on ModelStreamInfer; each message is read as a response."""
        return self._inference("ModelStreamInfer", streamed_response, target, inputs, **options)

    def server_live(self) -> _Call[bool]:
        return self._serving("ServerLive", kserve.ServerLiveRequest(), lambda reply: reply.live)

    def server_ready(self, timeout: float | None = None) -> _Call[bool]:
        return self._serving("ServerReady", kserve.ServerReadyRequest(), lambda reply: reply.ready, timeout)

    def model_ready(self, name: str, version: str) -> _Call[bool]:
        request = kserve.ModelReadyRequest(name=name, version=version)
        return self._serving("ModelReady", request, lambda reply: reply.ready)

    def server_metadata(self) -> _Call[kserve.ServerMetadataResponse]:
        return self._serving("ServerMetadata", kserve.ServerMetadataRequest(), lambda reply: reply)

    def model_metadata(self, name: str, version: str) -> _Call[kserve.ModelMetadataResponse]:
        request = kserve.ModelMetadataRequest(name=name, version=version)
        return self._serving("ModelMetadata", request, lambda reply: reply)

    def workers(self) -> _Call[list[management.Worker]]:
        request = management.ListWorkersRequest()
        return _Call(_MANAGEMENT, "ListWorkers", request, lambda reply: list(reply.workers), self._timeout, self._token)

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
    ) -> _Call[ModelInferResponse]:
        pairs = request_metadata(target, metadata)
        return self._serving(method, infer_request(target, inputs, **request), read, timeout, pairs)

    def _serving(
        self,
        method: str,
        request: Message,
        read: Callable[[Any], T],
        timeout: float | None = None,
        pairs: Metadata = (),
    ) -> _Call[T]:
        return _Call(_SERVING, method, request, read, self._timeout if timeout is None else timeout, pairs)


class _Channels:
    """The channels of one client, each opened when first needed; threads may share it."""

    def __init__(self, open_channel: Callable[..., Any], addresses: Mapping[str, str | None], limit: int) -> None:
        self._open_channel = open_channel
        self._addresses = addresses
        self._options = [*CHANNEL_OPTIONS, *((f"grpc.max_{way}_message_length", limit) for way in ("receive", "send"))]
        self._lock = threading.Lock()  # of two threads that come first, one opens the channel
        self._channels: dict[str, Any] = {}
        self._callables: dict[str, dict[str, Callable[..., Any]]] = {}
        self.closed = False

    def callable(self, call: _Call[Any]) -> Callable[..., Any]:
        """Finds what sends `call`.

        Raises:
            RuntimeError: the client is closed.
            ValueError: the service has no address.
        """
        service = call.service
        with self._lock:
            if self.closed:
                raise RuntimeError("the client is closed")
            if service.name not in self._channels:
                address = self._addresses[service.name]
                if address is None:
                    raise ValueError("a Unix socket has no default management port; give management_address")
                options = [*self._options, *(NO_PROXY if _LOCAL.match(address) else ())]
                channel = self._channels[service.name] = self._open_channel(address, options=options)
                self._callables[service.name] = rpc.callables(channel, service, single_request=_SINGLE_REQUEST)
            return self._callables[service.name][call.method]

    def close(self) -> list[Any]:
        """Lets no call start any more, and gives the channels to close."""
        with self._lock:
            self.closed = True
            return list(self._channels.values())


class _ReadyWait:
    """The decisions of `wait_ready`: when to ask, what to put up with, when to give up."""

    def __init__(self, address: str, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        self._deadline = time.monotonic() + timeout
        self._pause = FIRST_PAUSE
        self._failure: InferenceError | None = None

    def left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            reason = self._failure or "it answers that it is not ready yet"
            raise TimeoutError(f"{self._address} was not ready within {self._timeout:g} s: {reason}") from self._failure
        return left

    @contextmanager
    def attempt(self) -> Iterator[None]:
        try:
            yield
            self._failure = None
        except InferenceError as error:
            if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                raise
            # An earlier "connection refused" says more than the deadline that ended the last attempt.
            self._failure = self._failure if self._failure and error.code is Code.DEADLINE_EXCEEDED else error

    def pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return max(0.0, min(pause, self._deadline - time.monotonic()))


class _Client:
    _open_channel: Callable[..., Any]

    def __init__(
        self,
        address: str = "localhost:8000",
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        management_address: str | None = None,
        management_token: str | None = None,
    ) -> None:
        """Opens no connection yet.

        Args:
            address: `HOST:PORT` or `unix:/path` of the serving port.
            timeout: seconds that a call may take, streams included, where the call names none; None: no limit.
            max_message_bytes: the largest message sent or received.
            management_address: of the management port; None: port 9000 of the same host.
            management_token: what the agent's `--management-token` demands.

        Raises:
            ValueError: an address is malformed.
        """
        host = _host(address)
        if management_address is not None:
            _host(management_address)
        elif host is not None:
            management_address = f"{host}:{MANAGEMENT_PORT}"
        self._address = address
        self._calls = _Calls(timeout, management_token)
        addresses = {_SERVING.name: address, _MANAGEMENT.name: management_address}
        self._channels = _Channels(self._open_channel, addresses, max_message_bytes)


class AnyserveClient(_Client):
    """A blocking client of one anyserve instance. Threads may share it; `with` closes it."""

    _open_channel = staticmethod(grpc.insecure_channel)

    def infer(
        self,
        target: Target,
        inputs: Inputs,
        *,
        version: str = "",
        request_id: str = "",
        parameters: Parameters | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
        datatypes: Mapping[str, str] | None = None,
    ) -> ModelInferResponse:
        """Sends one request and waits for its response.

        Args:
            target: a model's name, or a capability query: key -> pattern.
            inputs: a ready request, which is copied and completed; or arrays by input name.
            version: of the model; empty: the server chooses. Only with a name.
            request_id: comes back in the response.
            parameters: request parameters, added to those of a ready request.
            metadata: more gRPC metadata, e.g. `traceparent`.
            timeout: seconds; None: the client's.
            datatypes: KServe datatypes by input name, where the array's own is not meant.

        Raises:
            InferenceError: the server or the connection failed the request.
            TypeError: an argument of a type that cannot be sent.
            ValueError: an argument with a value that cannot be sent.
        """
        return self._run(
            self._calls.infer(
                target,
                inputs,
                version=version,
                request_id=request_id,
                parameters=parameters,
                metadata=metadata,
                timeout=timeout,
                datatypes=datatypes,
            )
        )

    def stream(
        self,
        target: Target,
        inputs: Inputs,
        *,
        version: str = "",
        request_id: str = "",
        parameters: Parameters | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
        datatypes: Mapping[str, str] | None = None,
    ) -> Generator[ModelInferResponse, None, None]:
        """Sends one request and yields its responses as they come; arguments as for `infer`.

        The request goes out when the first response is asked for. Closing the
        iterator (leaving the `for` loop does) cancels what is left of it.

        Raises:
            InferenceError: while iterating: the server, the handler or the connection failed the request.
            TypeError: an argument of a type that cannot be sent.
            ValueError: an argument with a value that cannot be sent.
        """
        return self._iterate(
            self._calls.stream(
                target,
                inputs,
                version=version,
                request_id=request_id,
                parameters=parameters,
                metadata=metadata,
                timeout=timeout,
                datatypes=datatypes,
            )
        )

    def server_live(self) -> bool:
        """Tells whether the server process serves."""
        return self._run(self._calls.server_live())

    def server_ready(self) -> bool:
        """Tells whether the server takes requests: its workers have registered and it is not draining."""
        return self._run(self._calls.server_ready())

    def model_ready(self, name: str, version: str = "") -> bool:
        """Tells whether a live worker serves the model."""
        return self._run(self._calls.model_ready(name, version))

    def server_metadata(self) -> kserve.ServerMetadataResponse:
        """Asks for the server's name, version and extensions."""
        return self._run(self._calls.server_metadata())

    def model_metadata(self, name: str, version: str = "") -> kserve.ModelMetadataResponse:
        """Asks for a model's versions, platform, inputs and outputs."""
        return self._run(self._calls.model_metadata(name, version))

    def workers(self) -> list[management.Worker]:
        """Asks the management port for the workers and their registrations."""
        return self._run(self._calls.workers())

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Waits until `server_ready` is true.

        Raises:
            InferenceError: the server is there but does not know the question.
            TimeoutError: it was not ready within `timeout` seconds; the message says why.
        """
        wait = _ReadyWait(self._address, timeout)
        while True:
            with wait.attempt():
                if self._run(self._calls.server_ready(wait.left())):
                    return
            time.sleep(wait.pause())

    def close(self) -> None:
        """Closes the connections; calls under way end with CANCELLED. Closing twice is no error."""
        for channel in self._channels.close():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: _Call[T]) -> T:
        send = self._channels.callable(call)
        with _inference_errors():
            return call.read(send(call.request, timeout=call.timeout, metadata=call.metadata))

    def _iterate(self, call: _Call[T]) -> Generator[T, None, None]:
        messages = self._channels.callable(call)(call.request, timeout=call.timeout, metadata=call.metadata)
        try:
            with _inference_errors():
                for message in messages:
                    yield call.read(message)
        finally:
            messages.cancel()


class AsyncAnyserveClient(_Client):
    """`AnyserveClient` for asyncio. It belongs to the event loop of its first call; `async with` closes it."""

    _open_channel = staticmethod(grpc.aio.insecure_channel)

    async def infer(
        self,
        target: Target,
        inputs: Inputs,
        *,
        version: str = "",
        request_id: str = "",
        parameters: Parameters | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
        datatypes: Mapping[str, str] | None = None,
    ) -> ModelInferResponse:
        """As `AnyserveClient.infer`. Cancelling the task cancels the request."""
        return await self._run(
            self._calls.infer(
                target,
                inputs,
                version=version,
                request_id=request_id,
                parameters=parameters,
                metadata=metadata,
                timeout=timeout,
                datatypes=datatypes,
            )
        )

    def stream(
        self,
        target: Target,
        inputs: Inputs,
        *,
        version: str = "",
        request_id: str = "",
        parameters: Parameters | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
        datatypes: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[ModelInferResponse, None]:
        """As `AnyserveClient.stream`. Use `contextlib.aclosing` where the loop may be left early.

        Leaving an `async for` closes the iterator only when it is collected.
        """
        return self._iterate(
            self._calls.stream(
                target,
                inputs,
                version=version,
                request_id=request_id,
                parameters=parameters,
                metadata=metadata,
                timeout=timeout,
                datatypes=datatypes,
            )
        )

    async def server_live(self) -> bool:
        """As `AnyserveClient.server_live`."""
        return await self._run(self._calls.server_live())

    async def server_ready(self) -> bool:
        """As `AnyserveClient.server_ready`."""
        return await self._run(self._calls.server_ready())

    async def model_ready(self, name: str, version: str = "") -> bool:
        """As `AnyserveClient.model_ready`."""
        return await self._run(self._calls.model_ready(name, version))

    async def server_metadata(self) -> kserve.ServerMetadataResponse:
        """As `AnyserveClient.server_metadata`."""
        return await self._run(self._calls.server_metadata())

    async def model_metadata(self, name: str, version: str = "") -> kserve.ModelMetadataResponse:
        """As `AnyserveClient.model_metadata`."""
        return await self._run(self._calls.model_metadata(name, version))

    async def workers(self) -> list[management.Worker]:
        """As `AnyserveClient.workers`."""
        return await self._run(self._calls.workers())

    async def wait_ready(self, timeout: float = 30.0) -> None:
        """As `AnyserveClient.wait_ready`."""
        wait = _ReadyWait(self._address, timeout)
        while True:
            with wait.attempt():
                if await self._run(self._calls.server_ready(wait.left())):
                    return
            await asyncio.sleep(wait.pause())

    async def close(self) -> None:
        """As `AnyserveClient.close`."""
        for channel in self._channels.close():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with _inference_errors():
                yield
        except asyncio.CancelledError as error:
            # grpc.aio raises this for an RPC that close() ended, too; to asyncio it would mean that the
            # task was cancelled, which would end it without a word.
            task = asyncio.current_task()
            if not self._channels.closed or (task and task.cancelling()):
                raise
            raise InferenceError(Code.CANCELLED, "the client was closed") from error

    async def _run(self, call: _Call[T]) -> T:
        send = self._channels.callable(call)
        with self._errors():
            return call.read(await send(call.request, timeout=call.timeout, metadata=call.metadata))

    async def _iterate(self, call: _Call[T]) -> AsyncGenerator[T, None]:
        messages = self._channels.callable(call)(call.request, timeout=call.timeout, metadata=call.metadata)
        try:
            with self._errors():
                async for message in messages:
                    yield call.read(message)
        finally:
            messages.cancel()
