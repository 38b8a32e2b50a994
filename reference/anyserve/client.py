"""The clients: `AnyserveClient` (blocking) and `AsyncAnyserveClient` (asyncio), over gRPC.

The two classes only send what `client_calls.py` made, over `client_channels.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve._proto import worker_management_pb2 as management
from anyserve.client_calls import MANAGEMENT, SERVING, Call, Calls, Inputs, Parameters, Target
from anyserve.client_channels import (
    Channels,
    ReadyWait,
    channel_credentials,
    host_of,
    inference_error,
    inference_errors,
)
from anyserve.errors import Code, InferenceError
from anyserve.messages import ModelInferResponse

__all__ = ["AnyserveClient", "AsyncAnyserveClient"]

T = TypeVar("T")

DEFAULT_TIMEOUT = 60.0
MAX_MESSAGE_BYTES = 64 << 20
MANAGEMENT_PORT = 9000


class _Client:
    _open_channel: Callable[..., Any]
    _open_secure_channel: Callable[..., Any]

    def __init__(
        self,
        address: str = "localhost:8000",
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        management_address: str | None = None,
        management_token: str | None = None,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
    ) -> None:
        """Opens no connection yet.

        Args:
            address: `HOST:PORT` or `unix:/path` of the serving port.
            timeout: seconds that a call may take, streams included, where the call names none; None: no limit.
            max_message_bytes: the largest message sent or received.
            management_address: of the management port; None: port 9000 of the same host.
            management_token: what the agent's `--management-token` demands.
            tls_ca: PEM file of those that may have issued the server's certificate: talk TLS to the serving port.
            tls_cert: PEM file of a client certificate, where the server demands one.
            tls_key: PEM file of its private key.

        Raises:
            OSError: a file cannot be read.
            ValueError: an address is malformed, or files are given that need others.
        """
        host = host_of(address)
        if management_address is not None:
            host_of(management_address)
        elif host is not None:
            management_address = f"{host}:{MANAGEMENT_PORT}"
        self._address = address
        self._calls = Calls(timeout, management_token)
        addresses = {SERVING.name: address, MANAGEMENT.name: management_address}
        open_channel = dict.fromkeys(addresses, self._open_channel)
        if credentials := channel_credentials(tls_ca, tls_cert, tls_key):
            open_channel[SERVING.name] = partial(self._open_secure_channel, credentials=credentials)
        self._channels = Channels(open_channel, addresses, max_message_bytes)


class AnyserveClient(_Client):
    """A blocking client of one anyserve instance. Threads may share it; `with` closes it."""

    _open_channel = staticmethod(grpc.insecure_channel)
    _open_secure_channel = staticmethod(grpc.secure_channel)

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
        wait = ReadyWait(self._address, timeout)
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

    def _run(self, call: Call[T]) -> T:
        send = self._channels.callable(call)
        with inference_errors():
            return call.read(send(call.request, timeout=call.timeout, metadata=call.metadata))

    def _iterate(self, call: Call[T]) -> Generator[T, None, None]:
        messages = self._channels.callable(call)(call.request, timeout=call.timeout, metadata=call.metadata)
        failure: InferenceError | None = None
        try:
            for message in messages:
                yield call.read(message)
        except grpc.RpcError as error:  # which is `messages` itself
            failure = inference_error(error)
            error.__traceback__ = None  # its frames have it in turn: a cycle
        finally:
            # No exception may keep this object: collected when the interpreter ends, it waits for a lock that a
            # thread of grpc, which has ended by then, may hold.
            messages.cancel()
            del messages
        if failure is not None:
            raise failure


class AsyncAnyserveClient(_Client):
    """`AnyserveClient` for asyncio. It belongs to the event loop of its first call; `async with` closes it."""

    _open_channel = staticmethod(grpc.aio.insecure_channel)
    _open_secure_channel = staticmethod(grpc.aio.secure_channel)

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
        wait = ReadyWait(self._address, timeout)
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
            with inference_errors():
                yield
        except asyncio.CancelledError as error:
            # grpc.aio raises this for an RPC that close() ended, too; to asyncio it would mean that the
            # task was cancelled, which would end it without a word.
            task = asyncio.current_task()
            if not self._channels.closed or (task and task.cancelling()):
                raise
            raise InferenceError(Code.CANCELLED, "the client was closed") from error

    async def _run(self, call: Call[T]) -> T:
        send = self._channels.callable(call)
        with self._errors():
            return call.read(await send(call.request, timeout=call.timeout, metadata=call.metadata))

    async def _iterate(self, call: Call[T]) -> AsyncGenerator[T, None]:
        messages = self._channels.callable(call)(call.request, timeout=call.timeout, metadata=call.metadata)
        try:
            with self._errors():
                async for message in messages:
                    yield call.read(message)
        finally:
            messages.cancel()
