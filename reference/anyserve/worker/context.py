"""What a handler may ask and do beside its request: `Context` and `Stream`.

Both are safe to use from the thread that runs a sync handler and from the event
loop that runs an async one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from anyserve.capability import Capability
from anyserve.errors import Code, InferenceError
from anyserve.handlers import Reply, as_stream_response
from anyserve.wire import INSTANCE_KEY, TRACEPARENT

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from anyserve.client import AsyncAnyserveClient
    from anyserve.messages import ModelInferRequest, ModelInferResponse

__all__ = ["Context", "Contexts", "Outbox", "Stream", "checked_length"]

EXCHANGE_OVER = "the exchange is over: the client has gone, or the handler has returned"

Target = str | Mapping[str, str]
Result = TypeVar("Result")


class Context:
    """One exchange, as its handler sees it.

    Attributes:
        request_id: the request's `id`, as the client sent it.
        capability: the registered capability that the request matched.
    """

    __slots__ = (
        "_calls",
        "_cancellation",
        "_cancelled",
        "_deadline",
        "_maker",
        "_traceparent",
        "capability",
        "request_id",
    )

    def __init__(
        self,
        maker: Contexts,
        request_id: str,
        capability: Capability,
        traceparent: str | None,
        deadline: float | None,
    ) -> None:
        self.request_id = request_id
        self.capability = capability
        self._maker = maker
        self._traceparent = traceparent
        self._deadline = deadline  # loop time
        self._cancelled = False
        self._cancellation: threading.Event | None = None
        self._calls: set[concurrent.futures.Future[Any]] = set()

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the agent passes on of the call, e.g. `traceparent`."""
        return {TRACEPARENT: self._traceparent} if self._traceparent is not None else {}

    @property
    def cancellation(self) -> threading.Event:
        """Set when the client has gone, the deadline has passed or the worker gives up; to wait on."""
        if self._cancellation is None:  # most handlers never ask
            with self._maker.lock:
                if self._cancellation is None:
                    self._cancellation = threading.Event()
                    if self._cancelled:
                        self._cancellation.set()
        return self._cancellation

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, not below 0; None if there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - self._maker.loop.time())

    def cancelled(self) -> bool:
        """Whether the reply is no longer wanted."""
        return self._cancelled

    def call(
        self, target: Target, inputs: ModelInferRequest | Mapping[str, ArrayLike], *, timeout: float | None = None
    ) -> ModelInferResponse:
        """Calls another capability of this instance, from a sync handler.

        Args:
            target: a model name, or a capability query such as `{"type": "embed"}`.
            inputs: a request, or named arrays.
            timeout: seconds; the deadline left of this exchange if that is sooner.

        Raises:
            InferenceError: the call failed; CANCELLED when this exchange was cancelled.
            RuntimeError: called on the event loop, where it would block: use `acall`.
        """
        return self._blocking(self.acall(target, inputs, timeout=timeout), "acall")

    def call_stream(
        self, target: Target, inputs: ModelInferRequest | Mapping[str, ArrayLike], *, timeout: float | None = None
    ) -> Iterator[ModelInferResponse]:
        """Like `call`, for a capability that streams its replies.

        Raises:
            InferenceError: the call failed; CANCELLED when this exchange was cancelled.
            RuntimeError: called on the event loop: use `acall_stream`.
        """
        replies = self.acall_stream(target, inputs, timeout=timeout)
        try:
            while (reply := self._blocking(_next_or_none(replies), "acall_stream")) is not None:
                yield reply
        finally:
            if not self._maker.loop.is_closed():
                asyncio.run_coroutine_threadsafe(_close(replies), self._maker.loop)

    async def acall(
        self, target: Target, inputs: ModelInferRequest | Mapping[str, ArrayLike], *, timeout: float | None = None
    ) -> ModelInferResponse:
        """Calls another capability of this instance, from an async handler; see `call`."""
        client = self._maker.client()
        return await client.infer(target, inputs, metadata=self._call_metadata(), timeout=self._timeout(timeout))

    async def acall_stream(
        self, target: Target, inputs: ModelInferRequest | Mapping[str, ArrayLike], *, timeout: float | None = None
    ) -> AsyncIterator[ModelInferResponse]:
        """Like `acall`, for a capability that streams its replies."""
        client = self._maker.client()
        replies = client.stream(target, inputs, metadata=self._call_metadata(), timeout=self._timeout(timeout))
        async with aclosing(replies) as closing:
            async for reply in closing:
                yield reply

    def cancel(self) -> None:
        """Tells the handler that the reply is no longer wanted, and ends its calls. Runs on the loop."""
        with self._maker.lock:
            self._cancelled = True
            if self._cancellation is not None:
                self._cancellation.set()
        for call in tuple(self._calls):
            call.cancel()

    def _call_metadata(self) -> Mapping[str, str]:
        return {**self.metadata, **self._maker.call_metadata}

    def _timeout(self, timeout: float | None) -> float | None:
        left = self.time_remaining()
        given = [t for t in (timeout, left) if t is not None]
        return min(given) if given else None

    def _blocking(self, call: Coroutine[Any, Any, Result], instead: str) -> Result:
        if threading.get_ident() == self._maker.loop_thread:
            call.close()
            raise RuntimeError(f"this call would block the event loop: use `await context.{instead}(...)`")
        if self.cancelled():
            call.close()
            raise InferenceError(Code.CANCELLED, "the exchange was cancelled")
        future = asyncio.run_coroutine_threadsafe(call, self._maker.loop)
        self._calls.add(future)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise InferenceError(Code.CANCELLED, "the exchange was cancelled") from None
        finally:
            self._calls.discard(future)


class Contexts:
    """Makes the contexts of one worker, and holds what they share. Made on the event loop.

    Args:
        client: makes the client by which handlers call other capabilities.
        instance_secret: by which the agent knows such calls.
    """

    def __init__(self, client: Callable[[], AsyncAnyserveClient], instance_secret: str) -> None:
        self.client = client
        self.call_metadata = {INSTANCE_KEY: instance_secret} if instance_secret else {}
        self.loop = asyncio.get_running_loop()
        self.loop_thread = threading.get_ident()
        self.lock = threading.Lock()
        """Guards the making of a context's event: held for a moment, by one context at a time."""

    def of(self, request_id: str, capability: Capability, traceparent: str | None, deadline: float | None) -> Context:
        """The context of one exchange; its deadline is in loop time."""
        return Context(self, request_id, capability, traceparent, deadline)


async def _next_or_none(replies: AsyncIterator[Result]) -> Result | None:
    return await anext(replies, None)


async def _close(replies: Any) -> None:
    await replies.aclose()


class Outbox(Protocol):
    """Where a stream's replies go (`server.py`)."""

    def put_from_thread(self, payload: bytes) -> bool:
        """Sends a frame from another thread; blocks while the agent is behind. False if the exchange is over."""
        ...

    async def put(self, payload: bytes) -> bool:
        """Sends a frame from the event loop; waits while the agent is behind. False if the exchange is over."""
        ...

    def encoded(self, arrays: Mapping[str, Any]) -> bytes | None:
        """A reply of named arrays, where there is a faster way to it than by a message."""
        ...


class Stream:
    """The replies of one streaming exchange, in the order sent."""

    def __init__(self, outbox: Outbox, loop_thread: int, max_frame_bytes: int) -> None:
        self._outbox = outbox
        self._loop_thread = loop_thread
        self._max_frame_bytes = max_frame_bytes

    def send(self, reply: Reply) -> None:
        """Sends one reply, from a sync handler; blocks while the client is behind.

        Args:
            reply: a ModelStreamInferResponse, a ModelInferResponse or named arrays.

        Raises:
            InferenceError: CANCELLED, the client has gone or the handler has returned.
            RuntimeError: called on the event loop: use `await stream.asend(...)`.
            TypeError: `reply` is none of these.
            ValueError: `reply` is longer than the message limit.
        """
        if threading.get_ident() == self._loop_thread:
            raise RuntimeError("stream.send would block the event loop: use `await stream.asend(...)`")
        if not self._outbox.put_from_thread(self._frame(reply)):
            raise InferenceError(Code.CANCELLED, EXCHANGE_OVER)

    async def asend(self, reply: Reply) -> None:
        """Sends one reply, from an async handler; waits while the client is behind.

        Raises:
            InferenceError: CANCELLED, the client has gone or the handler has returned.
            TypeError: `reply` is none of what `send` takes.
            ValueError: `reply` is longer than the message limit.
        """
        if not await self._outbox.put(self._frame(reply)):
            raise InferenceError(Code.CANCELLED, EXCHANGE_OVER)

    def _frame(self, reply: Reply) -> bytes:
        if isinstance(reply, Mapping) and (encoded := self._outbox.encoded(reply)) is not None:
            return checked_length(encoded, self._max_frame_bytes)
        message = as_stream_response(reply)
        payload = checked_length(message.SerializeToString(), self._max_frame_bytes)
        if not payload:  # an empty frame would end the stream
            message.infer_response.SetInParent()
            payload = message.SerializeToString()
        return payload


def checked_length(payload: bytes, limit: int) -> bytes:
    """Returns `payload`.

    Raises:
        ValueError: it is longer than the agent accepts.
    """
    if len(payload) > limit:
        raise ValueError(f"the reply has {len(payload)} bytes, the limit is {limit} (--max-message-bytes)")
    return payload
