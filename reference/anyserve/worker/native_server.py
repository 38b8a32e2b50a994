"""Serves exchanges by the native worker loop: socket I/O, framing and waiting are C++, Python is entered for handlers.

The same behaviour as `server.py` with `exchange.py`, which say what holds. Sync handlers run in threads that take turns
at the loop (native/worker/handler_threads.hpp); async ones on the event loop, which runs the native one itself where no
handler needs a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from anyserve import _native
from anyserve.handlers import TensorForm, as_response
from anyserve.sockets import listen_privately
from anyserve.tensors import RAW_DATATYPES
from anyserve.worker.answers import (
    as_inference_error,
    asend_all,
    awaited,
    checked_end,
    failure,
    request_of,
    send_all,
    stream_failure,
)
from anyserve.worker.context import Context, Contexts, Stream
from anyserve.worker.server import CUT_OFF

if TYPE_CHECKING:
    from anyserve.worker.exchange import Served

__all__ = ["NativeServer"]

log = logging.getLogger("anyserve.worker.server")

BURST = 16
"""Replies of one stream that are sent together, if they come without a pause."""


class _Event(IntEnum):
    """What `take_notices` tells, as native/bindings/worker.cpp numbers it."""

    REQUEST = 0
    CANCELLED = 1
    WRITABLE = 2
    DRAINED = 3
    REFUSED = 4


class _Sent(IntEnum):
    """What became of a reply, as native/worker/worker_server.hpp numbers it."""

    OVER = 0
    YES = 1
    FULL = 2


class NativeServer:
    """Listens on a Unix socket and serves the agents that connect; see `WorkerServer`.

    Args:
        served: what the worker serves.
        max_request_bytes: the greatest request frame that is accepted.
        max_reply_bytes: the greatest reply frame that the agent accepts.
        contexts: makes the contexts of exchanges.
    """

    def __init__(
        self, served: Sequence[Served], *, max_request_bytes: int, max_reply_bytes: int, contexts: Contexts
    ) -> None:
        self._served = served
        self._contexts = contexts
        self._max_reply_bytes = max_reply_bytes
        self._threads = any(not s.handler.asynchronous for s in served)
        self._io = _native.WorkerIo(
            [_row(s) for s in served],
            max_request_bytes=max_request_bytes,
            max_reply_bytes=max_reply_bytes,
            ndarray=np.ndarray,
            datatypes=dict(RAW_DATATYPES),
            start_thread=self._start_thread,
            threads=self._threads,
        )
        self._calls = [self._call_of(s) for s in served]
        self._watched: dict[int, Callable[[], Any]] = {}  # exchange: called on the loop when it is cancelled
        self._waiting: dict[int, asyncio.Event] = {}  # exchange: set when the agent has caught up
        self._tasks: set[asyncio.Task[None]] = set()
        self._drained = asyncio.Event()
        self._turn_due = False
        self._short_of_threads = False
        self._process = os.getpid()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, path: str) -> None:
        """Listens on `path`, which must not exist, for this user alone.

        Raises:
            OSError: the path cannot be listened on.
        """
        self._io.listen(listen_privately(path).detach())
        loop = asyncio.get_running_loop()
        if self._threads:
            loop.add_reader(self._io.descriptor(), self._take_notices)
            self._handler_thread().start()
        else:
            loop.add_reader(self._io.descriptor(), self._turn)
            self._turn()

    def share_memory(self, agreed: bool) -> None:
        """Whether requests by reference to shared memory may come (`frame.shared.*`)."""
        self._io.share_memory(agreed)

    async def keep_listening(self, path: str, interval: float) -> None:
        """Listens anew when the socket's file is gone, e.g. because somebody cleaned up; runs until cancelled."""
        while True:
            await asyncio.sleep(interval)
            if not os.path.exists(path):  # noqa: ASYNC240 (a stat of a local file)
                log.warning("listening anew", extra={"reason": "the file of the worker's socket was removed"})
                self._io.listen(listen_privately(path).detach())
                self.turn_soon()

    async def drain(self, grace: float) -> bool:
        """Takes no more connections, lets the exchanges under way end, and closes; False if some were cut off."""
        ended = True
        self._io.drain()
        self.turn_soon()
        try:
            async with asyncio.timeout(grace):
                await self._drained.wait()
        except TimeoutError:
            ended = False
        await self._close_all()
        return ended

    async def _close_all(self) -> None:
        """Closes the connections; handlers that are cut off are told before this returns."""
        self._drained.clear()
        self._io.close()
        self.turn_soon()
        try:
            async with asyncio.timeout(CUT_OFF):
                await self._drained.wait()
        except TimeoutError:
            log.warning("the connections were not closed in time")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CUT_OFF)

    def close(self) -> None:
        """Starts no more handlers; those that run in threads are not waited for."""
        asyncio.get_running_loop().remove_reader(self._io.descriptor())

    # The loop

    def _turn(self) -> None:
        """Runs the native loop as far as there is something to do."""
        self._turn_due = False
        self._io.poll()
        self._take_notices()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due := self._io.next_timer()) is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due), self._turn)

    def turn_soon(self) -> None:
        """Sends what has been replied, at the end of this turn of the event loop; threads do so by themselves."""
        if not (self._threads or self._turn_due):
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _take_notices(self) -> None:
        for event, what in self._io.take_notices():
            if event == _Event.REQUEST:
                self._start_task(what)
            elif event == _Event.CANCELLED:
                self._tell_cancelled(what)
                self._release(what)
            elif event == _Event.WRITABLE:
                self._release(what)
            elif event == _Event.DRAINED:
                self._drained.set()
            else:
                log.warning("closed a connection", extra={"reason": what})

    def _tell_cancelled(self, exchange: _native.Exchange) -> None:
        if (tell := self._watched.pop(exchange.key, None)) is not None:
            tell()

    def _release(self, exchange: _native.Exchange) -> None:
        if (waiting := self._waiting.pop(exchange.key, None)) is not None:
            waiting.set()

    def _handler_thread(self) -> threading.Thread:
        return threading.Thread(target=self._handle, name="handler", daemon=True)

    def _start_thread(self) -> bool:
        try:
            self._handler_thread().start()
        except RuntimeError as error:  # the system has no more; those that are there serve on
            known, self._short_of_threads = self._short_of_threads, True
            if not known:
                log.warning("no thread for a handler", extra={"reason": str(error)})
            return False
        self._short_of_threads = False
        return True

    def _handle(self) -> None:
        """A handler thread."""
        take, calls = self._io.take, self._calls
        while (exchange := take()) is not None:
            calls[exchange.served](exchange)
            del exchange  # its request's bytes go with it
        if os.getpid() != self._process:
            log.error("ended a process", extra={"reason": "a handler forked it, and it came back from the handler"})
            os._exit(1)

    def _start_task(self, exchange: _native.Exchange) -> None:
        task = asyncio.get_running_loop().create_task(self._calls[exchange.served](exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Calls of handlers

    def _call_of(self, served: Served) -> Callable[[_native.Exchange], Any]:
        handler = served.handler
        if handler.asynchronous:
            return self._async_call(served, self._streamed if handler.stream else self._answered)
        if handler.stream:
            return self._thread_call(served, self._stream, stream=True)
        if handler.form is not None:
            return self._thread_call(served, self._answer_tensors)
        return self._thread_call(served, self._answer)

    def _thread_call(
        self,
        served: Served,
        answer: Callable[[Served, _native.Exchange, Context | None], None],
        *,
        stream: bool = False,
    ) -> Callable[[_native.Exchange], None]:
        form = served.handler.form
        wants_context = form.takes_context if form is not None else served.handler.parameters > 1 or stream

        def call(exchange: _native.Exchange) -> None:
            context = self._context(served, exchange) if wants_context else None
            try:
                if context is not None:
                    self._watch(exchange, context.cancel)
                answer(served, exchange, context)
            except BaseException as error:  # whatever it is, it is the handler's
                self._fail(served, exchange, error)
            finally:
                if context is not None:
                    self._watched.pop(exchange.key, None)
                exchange.ended()

        return call

    def _answer(self, served: Served, exchange: _native.Exchange, context: Context | None) -> None:
        reply = as_response(served.handler.call(request_of(exchange.payload()), context))
        exchange.reply(reply.SerializeToString(), now=False)

    def _answer_tensors(self, served: Served, exchange: _native.Exchange, context: Context | None) -> None:
        form: TensorForm = served.handler.form  # type: ignore[assignment]  # its caller has looked
        taken = exchange.tensors()
        if taken is None:
            self._answer(served, exchange, context)
            return
        # The reply's arrays must be nowhere but in `outputs`: only then can they be sent from where they are.
        outputs = form.outputs(form.function(**form.arguments(*taken, context)))
        self._reply_tensors(exchange, form, outputs, now=False)

    def _reply_tensors(self, exchange: _native.Exchange, form: TensorForm, outputs: Any, *, now: bool) -> None:
        arrays = all(isinstance(array, np.ndarray) for array in outputs.values())
        if form.datatypes is not None and arrays:
            form.check(outputs)
        checked = form.datatypes is None or arrays
        if not (checked and exchange.reply_tensors(outputs, form.datatypes, now=now)):
            exchange.reply(form.response(outputs).SerializeToString(), now=now)

    def _stream(self, served: Served, exchange: _native.Exchange, context: Any) -> None:
        handler = served.handler
        stream = Stream(self.outbox(exchange), self._contexts.loop_thread, self._max_reply_bytes)
        request = request_of(exchange.payload())
        if handler.generator:
            send_all(handler, request, context, stream)
        else:
            checked_end(handler.call(request, context, stream))
        exchange.send(b"", last=True, now=True)

    def _fail(self, served: Served, exchange: _native.Exchange, error: BaseException) -> None:
        if exchange.cancelled:
            return  # nobody wants to know
        told = as_inference_error(error, served.declaration)
        if served.handler.stream:
            exchange.send(stream_failure(exchange.id, told), last=False, now=True)
            exchange.send(b"", last=True, now=True)
        else:
            exchange.reply(failure(told), now=self._threads and served.handler.asynchronous)

    def _async_call(
        self, served: Served, answer: Callable[[Served, _native.Exchange, Context], Coroutine[Any, Any, None]]
    ) -> Callable[[_native.Exchange], Coroutine[Any, Any, None]]:
        async def call(exchange: _native.Exchange) -> None:
            context = self._context(served, exchange)
            task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # this is one
            self._watch(exchange, task.cancel)
            try:
                await answer(served, exchange, context)
            except asyncio.CancelledError:
                context.cancel()
            except Exception as error:
                self._fail(served, exchange, error)
            finally:
                self._watched.pop(exchange.key, None)
                self._release(exchange)
                exchange.ended()
                self.turn_soon()

        return call

    async def _answered(self, served: Served, exchange: _native.Exchange, context: Context) -> None:
        handler = served.handler
        form = handler.form
        taken = exchange.tensors() if form is not None else None
        if form is None or taken is None:
            reply = as_response(await awaited(handler.call, request_of(exchange.payload()), context))
            exchange.reply(reply.SerializeToString(), now=self._threads)
        else:
            outputs = form.outputs(await awaited(_with_keywords, form.function, form.arguments(*taken, context)))
            self._reply_tensors(exchange, form, outputs, now=self._threads)

    async def _streamed(self, served: Served, exchange: _native.Exchange, context: Context) -> None:
        handler = served.handler
        stream = Stream(self.outbox(exchange), self._contexts.loop_thread, self._max_reply_bytes)
        request = request_of(exchange.payload())
        if handler.generator:
            await awaited(asend_all, handler, request, context, stream)
        else:
            checked_end(await awaited(handler.call, request, context, stream))
        exchange.send(b"", last=True, now=self._threads)

    def _context(self, served: Served, exchange: _native.Exchange) -> Context:
        capability = served.declaration.capability
        return self._contexts.of(exchange.id, capability, exchange.traceparent, exchange.deadline)

    def _watch(self, exchange: _native.Exchange, tell: Callable[[], Any]) -> None:
        self._watched[exchange.key] = tell
        if exchange.cancelled:  # perhaps before anybody watched
            self._tell_cancelled(exchange)

    def outbox(self, exchange: _native.Exchange) -> _Outbox:
        """Where the replies of a streaming exchange go."""
        return _Outbox(self, exchange, self._io, now=self._threads)

    async def caught_up(self, exchange: _native.Exchange) -> None:
        """Waits until the agent has taken what waits for it, or the exchange is over."""
        waiting = self._waiting.setdefault(exchange.key, asyncio.Event())  # a handler may send from several tasks
        if exchange.full:  # else that has happened already, and nobody will tell
            self.turn_soon()
            await waiting.wait()


class _Outbox:
    """Where the replies of one streaming exchange go (`context.Outbox`)."""

    def __init__(self, server: NativeServer, exchange: _native.Exchange, io: _native.WorkerIo, *, now: bool) -> None:
        self._server = server
        self._exchange = exchange
        self._now = now
        self._burst = 0
        self.encoded = io.stream_reply

    def put_from_thread(self, payload: bytes) -> bool:
        sent = self._exchange.send(payload, last=False, now=True)
        return sent == _Sent.YES or (sent == _Sent.FULL and self._exchange.wait_writable())

    async def put(self, payload: bytes) -> bool:
        sent = self._exchange.send(payload, last=False, now=self._now)
        self._server.turn_soon()
        self._burst += 1
        if sent == _Sent.FULL:
            await self._server.caught_up(self._exchange)
        elif self._burst >= BURST:
            self._burst = 0
            await asyncio.sleep(0)  # a handler that never waits for anything must not keep the loop from all others
        return sent != _Sent.OVER


async def _with_keywords(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    return await function(**arguments)


def _row(served: Served) -> tuple[str, str, str, int, bool, bool]:
    of = served.declaration
    return (
        of.capability.encoded,
        of.model_name,
        of.model_version,
        of.max_concurrency,
        served.handler.stream,
        not served.handler.asynchronous,
    )
