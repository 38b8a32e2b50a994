"""One exchange: reads the request, calls the handler that it means, turns what comes of it into replies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.app import Declaration
from anyserve.errors import Code, InferenceError
from anyserve.handlers import Handler, as_response
from anyserve.scan import REQUEST_FIELDS, MessageHead, scan_message
from anyserve.wire import CAPABILITY, TIMEOUT_MS, TRACEPARENT
from anyserve.worker.answers import (
    as_inference_error,
    asend_all,
    awaited,
    called,
    checked_end,
    failure,
    request_of,
    send_all,
    stream_failure,
)
from anyserve.worker.context import Context, Contexts, Stream, checked_length

if TYPE_CHECKING:
    from anyserve.worker.server import Connection

__all__ = ["Exchanges", "Served"]


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
        contexts: makes their contexts.
    """

    def __init__(self, served: Sequence[Served], *, max_frame_bytes: int, contexts: Contexts) -> None:
        self._by_capability = {s.declaration.capability.encoded: s for s in served}
        self._by_name = {(s.declaration.model_name, s.declaration.model_version): s for s in served}
        self._only = served[0] if len(served) == 1 else None
        self._max_frame_bytes = max_frame_bytes
        self._contexts = contexts
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
            connection.write(failure(InferenceError(Code.NOT_FOUND, message)))
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
            request = request_of(payload)
            reply = as_response(await self._call(served, served.handler.call, request, context))
            connection.write(checked_length(reply.SerializeToString(), self._max_frame_bytes))
        except asyncio.CancelledError:
            context.cancel()
            raise
        except Exception as error:
            connection.write(failure(as_inference_error(error, served.declaration)))

    async def _streaming(self, payload: bytes, head: MessageHead, served: Served, connection: Connection) -> None:
        context = self._context(head, served)
        with connection.stream_outbox() as outbox:
            stream = Stream(outbox, threading.get_ident(), self._max_frame_bytes)
            try:
                request = request_of(payload)
                await self._replies(served, request, context, stream)
            except asyncio.CancelledError:
                context.cancel()
                raise
            except Exception as error:
                await outbox.put(stream_failure(head.id, as_inference_error(error, served.declaration)))
            await outbox.put(b"")

    async def _replies(self, served: Served, request: pb.ModelInferRequest, context: Context, stream: Stream) -> None:
        handler = served.handler
        if not handler.generator:
            checked_end(await self._call(served, handler.call, request, context, stream))
        elif handler.asynchronous:
            async with served.places:
                await awaited(asend_all, handler, request, context, stream)
        else:
            await self._call(served, send_all, handler, request, context, stream)

    async def _call(self, served: Served, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a handler where it belongs: on the loop if it is async, else in a thread."""
        if served.handler.asynchronous:
            async with served.places:
                return await awaited(function, *args)
        await served.places.acquire()
        future = self._pool.submit(called, function, *args)
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
        return self._contexts.of(
            head.id,
            served.declaration.capability,
            traceparent if isinstance(traceparent, str) else None,
            self._loop.time() + timeout_ms / 1000 if isinstance(timeout_ms, int) else None,
        )
