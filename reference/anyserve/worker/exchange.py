"""One exchange: reads the request, calls the handler that it means, turns what comes of it into replies."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.app import Declaration
from anyserve.errors import Code, InferenceError
from anyserve.handlers import Handler, as_response
from anyserve.scan import REQUEST_FIELDS, MessageHead, scan_message
from anyserve.wire import CAPABILITY, ERROR_CODE, ERROR_MESSAGE, INSTANCE_KEY, TIMEOUT_MS, TRACEPARENT
from anyserve.worker.context import Context, Stream, checked_length

if TYPE_CHECKING:
    from anyserve.client import AsyncAnyserveClient
    from anyserve.worker.server import Connection

__all__ = ["Exchanges", "Served"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class HandlerFailed(Exception):
    """Carries whatever a handler raised, also what asyncio would take for its own (StopIteration, CancelledError)."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__(str(error))


class Served:
    """A declaration with the handler that serves it here, and its limit."""

    def __init__(self, declaration: Declaration, handler: Handler) -> None:
        self.declaration = declaration
        self.handler = handler
        self.places = asyncio.Semaphore(declaration.max_concurrency)
        """Counts handlers that run, also those whose client has gone and that have not ended yet."""


class Exchanges:
    """Runs the exchanges of one worker.

    Args:
        served: what the worker serves.
        max_frame_bytes: the greatest reply frame that the agent accepts.
        client: makes the client by which handlers call other capabilities.
        instance_secret: by which the agent knows such calls.
    """

    def __init__(
        self,
        served: Sequence[Served],
        *,
        max_frame_bytes: int,
        client: Callable[[], AsyncAnyserveClient],
        instance_secret: str,
    ) -> None:
        self._by_capability = {s.declaration.capability.encoded: s for s in served}
        self._by_name = {(s.declaration.model_name, s.declaration.model_version): s for s in served}
        self._only = served[0] if len(served) == 1 else None
        self._max_frame_bytes = max_frame_bytes
        self._client = client
        self._call_metadata = {INSTANCE_KEY: instance_secret} if instance_secret else {}
        self._loop = asyncio.get_running_loop()
        threads = sum(s.declaration.max_concurrency for s in served if not s.handler.asynchronous)
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="handler")

    def close(self) -> None:
        """Starts no more handlers; those that run in threads are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, payload: bytes, connection: Connection) -> None:
        """Serves one request frame.

        Raises:
            MalformedMessage: the frame is no request at all, so that no form of reply is known.
        """
        head = scan_message(payload, fields=REQUEST_FIELDS)
        served = self._find(head)
        if served is None:
            message = f"this worker does not serve {head.parameters.get(CAPABILITY) or head.model_name!r}"
            self._reply_error(connection, InferenceError(Code.NOT_FOUND, message))
        elif served.handler.stream:
            await self._streaming(payload, head, served, connection)
        else:
            await self._unary(payload, head, served, connection)

    def _find(self, head: MessageHead) -> Served | None:
        encoded = head.parameters.get(CAPABILITY)
        if isinstance(encoded, str):
            return self._by_capability.get(encoded)
        # An agent that does not say which registration it chose.
        return self._by_name.get((head.model_name, head.model_version)) or self._only

    async def _unary(self, payload: bytes, head: MessageHead, served: Served, connection: Connection) -> None:
        context = self._context(head, served)
        try:
            request = _request(payload)
            reply = as_response(await self._call(served, served.handler.call, request, context))
            connection.write(checked_length(reply.SerializeToString(), self._max_frame_bytes))
        except asyncio.CancelledError:
            context.cancel()
            raise
        except Exception as error:
            self._reply_error(connection, _as_inference_error(error, served))

    async def _streaming(self, payload: bytes, head: MessageHead, served: Served, connection: Connection) -> None:
        context = self._context(head, served)
        with connection.stream_outbox() as outbox:
            stream = Stream(outbox, threading.get_ident(), self._max_frame_bytes)
            try:
                request = _request(payload)
                await self._replies(served, request, context, stream)
            except asyncio.CancelledError:
                context.cancel()
                raise
            except Exception as error:
                await outbox.put(_stream_error(head, _as_inference_error(error, served)))
            await outbox.put(b"")

    async def _replies(self, served: Served, request: pb.ModelInferRequest, context: Context, stream: Stream) -> None:
        handler = served.handler
        if not handler.generator:
            returned = await self._call(served, handler.call, request, context, stream)
            if returned is not None:
                raise TypeError(f"a handler with stream=True sends its replies; it returned {type(returned).__name__}")
        elif handler.asynchronous:
            async with served.places:
                await _awaited(_asend_all, handler, request, context, stream)
        else:
            await self._call(served, _send_all, handler, request, context, stream)

    async def _call(self, served: Served, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a handler where it belongs: on the loop if it is async, else in a thread."""
        if served.handler.asynchronous:
            async with served.places:
                return await _awaited(function, *args)
        await served.places.acquire()
        future = self._pool.submit(_called, function, *args)
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._free_place(served, future)

    def _free_place(self, served: Served, future: Future[Any]) -> None:
        """A thread cannot be stopped: its place is free when the handler has really ended."""
        if future.done():
            served.places.release()
            return

        def ended(_future: Future[Any]) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(served.places.release)

        future.add_done_callback(ended)

    def _context(self, head: MessageHead, served: Served) -> Context:
        timeout_ms = head.parameters.get(TIMEOUT_MS)
        traceparent = head.parameters.get(TRACEPARENT)
        return Context(
            request_id=head.id,
            capability=served.declaration.capability,
            metadata={TRACEPARENT: traceparent} if isinstance(traceparent, str) else {},
            deadline=self._loop.time() + timeout_ms / 1000 if isinstance(timeout_ms, int) else None,
            loop=self._loop,
            client=self._client,
            call_metadata=self._call_metadata,
        )

    @staticmethod
    def _reply_error(connection: Connection, error: InferenceError) -> None:
        connection.write(pb.ModelInferResponse(parameters=_error_parameters(error)).SerializeToString())


def _stream_error(head: MessageHead, error: InferenceError) -> bytes:
    response = pb.ModelInferResponse(id=head.id, parameters=_error_parameters(error))
    message = _encodable(error.message) or error.code.name
    return pb.ModelStreamInferResponse(error_message=message, infer_response=response).SerializeToString()


def _called(function: Callable[..., Result], *args: Any) -> Result:
    try:
        return function(*args)
    except BaseException as error:
        raise HandlerFailed(error) from error


async def _awaited(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return await function(*args)
    except GeneratorExit:
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the client has gone
        raise HandlerFailed(error) from error


async def _asend_all(handler: Handler, request: pb.ModelInferRequest, context: Context, stream: Stream) -> None:
    async with aclosing(handler.call(request, context)) as replies:
        async for reply in replies:
            await stream.asend(reply)


def _send_all(handler: Handler, request: pb.ModelInferRequest, context: Context, stream: Stream) -> None:
    replies = handler.call(request, context)
    try:
        for reply in replies:
            stream.send(reply)
    finally:
        replies.close()  # runs the generator's `finally` when the client has gone


def _request(payload: bytes) -> pb.ModelInferRequest:
    """The request as the handler gets it: without what the agent added."""
    try:
        request = pb.ModelInferRequest.FromString(payload)
    except DecodeError as error:
        raise InferenceError(Code.INVALID_ARGUMENT, f"not a ModelInferRequest: {error}") from error
    for name in (CAPABILITY, TIMEOUT_MS, TRACEPARENT):
        if name in request.parameters:
            del request.parameters[name]
    return request


def _error_parameters(error: InferenceError) -> Mapping[str, pb.InferParameter]:
    return {
        ERROR_CODE: pb.InferParameter(int64_param=int(error.code)),
        ERROR_MESSAGE: pb.InferParameter(string_param=_encodable(error.message)),
    }


def _encodable(text: str) -> str:
    """The text with what UTF-8 cannot hold (lone surrogates, as in names of files) written as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _as_inference_error(error: Exception, served: Served) -> InferenceError:
    """The handler's own choice, or INTERNAL with the exception's message; the traceback stays in the log."""
    if isinstance(error, InferenceError):
        return error
    cause = error.error if isinstance(error, HandlerFailed) else error
    if isinstance(cause, InferenceError):
        return cause
    log.error("handler failed", exc_info=cause, extra={"capability": str(served.declaration.capability)})
    return InferenceError(Code.INTERNAL, str(cause) or type(cause).__name__)
