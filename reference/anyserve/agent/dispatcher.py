"""One request's way to a worker and back: route, wait for a place, exchange, retry, fill in the reply.

Between `kserve_service.py`, which speaks gRPC, and `queues.py` and
`worker_client.py`, which know nothing of requests. Every failure leaves here as an
`InferenceError`. Rules: spec `serving.infer.*`, `frame.retry.*`, `stream.*`.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

from anyserve.agent.queues import Admission, NothingLeft, QueueFull, Slot, Ticket
from anyserve.agent.registry import Registration, Registry, Route, Target
from anyserve.agent.statistics import Statistics
from anyserve.agent.worker_client import Exchange, NotTaken, ProtocolViolation, Unreachable, WorkerGone
from anyserve.agent.workers import Workers
from anyserve.errors import Code, InferenceError
from anyserve.scan import (
    MalformedMessage,
    MessageHead,
    extend_response,
    parameter_bytes,
    scan_message,
    scan_stream_reply,
    string_field,
    submessage_field,
)
from anyserve.wire import CAPABILITY, ERROR_CODE, ERROR_MESSAGE, TIMEOUT_MS, TRACEPARENT

__all__ = ["Dispatcher", "Request", "error_reply"]

EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
FINAL_RESPONSE = "triton_final_response"

ERROR_MESSAGE_FIELD, INFER_RESPONSE_FIELD = 1, 2  # of ModelStreamInferResponse
MODEL_NAME_FIELD, MODEL_VERSION_FIELD, ID_FIELD = 1, 2, 3  # of ModelInferResponse

MAX_SUGGESTED = 200  # names compared, and characters of the asked one: the comparison is quadratic

Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """One inference request as the client sent it, and what the agent has read of it."""

    payload: bytes
    head: MessageHead
    target: Target
    deadline: float | None = None
    """Loop time."""
    traceparent: str = ""


class Dispatcher:
    """Carries requests to workers."""

    def __init__(self, registry: Registry, admission: Admission, workers: Workers, statistics: Statistics) -> None:
        self._registry = registry
        self._admission = admission
        self._workers = workers
        self._statistics = statistics

    async def unary(self, request: Request) -> bytes:
        """One exchange with one reply: the bytes of a ModelInferResponse.

        Raises:
            InferenceError: see the table in wire.md section 1.
        """
        if request.deadline is None:
            return await self._unary(request)
        try:
            async with asyncio.timeout_at(request.deadline):
                return await self._unary(request)
        except TimeoutError:
            raise _deadline_exceeded(request) from None

    async def stream(self, request: Request, write: Write) -> None:
        """One exchange with any number of replies, each passed to `write` as a ModelStreamInferResponse.

        `write` returns when the client can take more; until then nothing more is
        read from the worker than the read-ahead of its connection.

        Raises:
            InferenceError: the request failed; replies may have been written before.
        """
        try:
            async with asyncio.timeout_at(request.deadline):
                await self._stream(request, write)
        except TimeoutError:
            raise _deadline_exceeded(request) from None

    async def _unary(self, request: Request) -> bytes:
        return await self._finish_unary(request, *await self._start(request))

    async def _finish_unary(self, request: Request, slot: Slot, exchange: Exchange, measured: _Measured) -> bytes:
        try:
            reply = await self._only_reply(exchange, slot.registration)
            filled = _filled_reply(reply, request, slot.registration)
            measured.success()
            return filled
        finally:
            measured.close()
            self._admission.release(slot)

    async def _stream(self, request: Request, write: Write) -> None:
        final = request.head.parameters.get(EMPTY_FINAL_RESPONSE) is True
        slot, exchange, measured = await self._start(request)
        if not slot.registration.stream:
            # The place is free again before the reply is written, which may take a slow client long.
            reply = await self._finish_unary(request, slot, exchange, measured)
            if final:
                reply += parameter_bytes(FINAL_RESPONSE, True)
            await write(submessage_field(INFER_RESPONSE_FIELD, reply))
            return
        try:
            if not await self._relay(exchange, request, slot.registration, write, final):
                measured.success()
        finally:
            exchange.leave()
            measured.close()
            self._admission.release(slot)

    async def _relay(
        self, exchange: Exchange, request: Request, registration: Registration, write: Write, final: bool
    ) -> bool:
        """Passes a streaming worker's replies on until its empty frame; True if one of them was an error."""
        failed = marked_final = False
        while frame := await _next_reply(exchange):
            filled, error, marked_final = _filled_stream_reply(frame, request, registration, final)
            failed = failed or error
            await write(filled)
        self._finish(exchange, registration)
        if final and not marked_final:
            head = _missing_fields(MessageHead(), request, registration)
            await write(submessage_field(INFER_RESPONSE_FIELD, head + parameter_bytes(FINAL_RESPONSE, True)))
        return failed

    async def _only_reply(self, exchange: Exchange, registration: Registration) -> bytes:
        try:
            reply = await _next_reply(exchange)
            self._finish(exchange, registration, reply)
            return reply
        finally:
            exchange.leave()

    def _finish(self, exchange: Exchange, registration: Registration, reply: bytes | None = None) -> None:
        try:
            exchange.finish()
        except ProtocolViolation as violation:
            raise _broke_protocol(violation) from violation
        self._workers.succeeded(registration, reply)

    async def _start(self, request: Request) -> tuple[Slot, Exchange, _Measured]:
        """Sends the request to the best match that takes it; each match is tried once (`frame.retry.once`)."""
        ticket: Ticket | None = None
        while True:
            arrived = time.perf_counter_ns()
            slot, ticket = await self._acquire(request, ticket)
            registration = slot.registration
            measured = _Measured(self._statistics, registration, arrived)
            try:
                return slot, await self._exchange(request, registration), measured
            except (Unreachable, NotTaken) as error:
                ticket.excluded.add(registration.key)
                self._admission.release(slot)
                if isinstance(error, Unreachable):
                    self._workers.unreachable(registration.worker_id, error)
            except BaseException:
                measured.close()
                self._admission.release(slot)
                raise

    async def _exchange(self, request: Request, registration: Registration) -> Exchange:
        client = self._workers.client(registration.worker_id)
        if client is None:
            raise Unreachable("it has gone")
        try:
            return await client.start(
                _request_parts(request, registration), self._workers.lend(registration, request.payload)
            )
        except WorkerGone as error:
            raise InferenceError(Code.UNAVAILABLE, f"{error} ({request.target})") from error
        except ProtocolViolation as violation:
            raise _broke_protocol(violation) from violation

    async def _acquire(self, request: Request, earlier: Ticket | None) -> tuple[Slot, Ticket]:
        """A place at a worker: at once, or after waiting for it."""

        def resolve() -> Route:
            return self._registry.resolve(request.target)

        ticket = Ticket(resolve, excluded=earlier.excluded if earlier else set())
        try:
            slot = self._admission.submit(ticket) or await self._wait(ticket)
        except NothingLeft:
            slot = None
        except QueueFull as error:
            self._statistics.rejected(ticket.tier[0])
            raise InferenceError(Code.RESOURCE_EXHAUSTED, f"{request.target}: {error}") from error
        if slot is not None:
            return slot, ticket
        if earlier is None and not ticket.tier:
            raise self._no_match(request.target)
        raise InferenceError(
            Code.UNAVAILABLE, f"{request.target}: workers that serve it exist, but none can be reached"
        )

    async def _wait(self, ticket: Ticket) -> Slot | None:
        granted: asyncio.Future[Slot | None] = asyncio.get_running_loop().create_future()

        def grant(slot: Slot | None) -> None:
            if not granted.done():
                granted.set_result(slot)
            elif slot is not None:  # cancelled, and not yet withdrawn
                self._admission.release(slot)

        ticket.granted = grant
        try:
            return await granted
        except asyncio.CancelledError:
            self._admission.withdraw(ticket)
            if granted.done() and not granted.cancelled() and (slot := granted.result()) is not None:
                self._admission.release(slot)
            raise

    def _no_match(self, target: Target) -> InferenceError:
        workers, every = self._workers, target.streaming_too()
        if workers.expected_to_serve(target):
            return InferenceError(
                Code.UNAVAILABLE, f"{target}: the worker that serves it has gone and is expected back"
            )
        if target.unary_only and (self._registry.resolve(every).tiers or workers.expected_to_serve(every)):
            return InferenceError(Code.UNIMPLEMENTED, f"{target} streams its replies: use ModelStreamInfer")
        if target.query is not None:
            return InferenceError(Code.NOT_FOUND, f"no worker serves {target}")
        known = self._registry.model_names()
        if target.model_name in known or self._registry.named_any_version(target.model_name):
            versions = ", ".join(self._registry.versions(target.model_name)) or "none"
            return InferenceError(Code.NOT_FOUND, f"no worker serves {target} (versions there are: {versions})")
        close = difflib.get_close_matches(target.model_name[:MAX_SUGGESTED], known[:MAX_SUGGESTED], n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        return InferenceError(Code.NOT_FOUND, f"no worker serves {target}{hint}")


class _Measured:
    """Counts one exchange: a success if it was told so before it closed, else a failure."""

    def __init__(self, statistics: Statistics, registration: Registration, arrived: int) -> None:
        self._statistics = statistics
        self._registration = registration
        self._arrived = arrived
        self._started = time.perf_counter_ns()
        self._succeeded = False

    def success(self) -> None:
        self._succeeded = True

    def close(self) -> None:
        now = time.perf_counter_ns()
        self._statistics.exchanged(
            self._registration,
            succeeded=self._succeeded,
            queue_ns=self._started - self._arrived,
            compute_ns=now - self._started,
        )


async def _next_reply(exchange: Exchange) -> bytes:
    try:
        return await exchange.next_reply()
    except WorkerGone as error:
        raise InferenceError(Code.UNAVAILABLE, str(error)) from error
    except ProtocolViolation as violation:
        raise _broke_protocol(violation) from violation


def _broke_protocol(violation: ProtocolViolation) -> InferenceError:
    return InferenceError(Code.INTERNAL, f"the worker broke the protocol: {violation}")


def _deadline_exceeded(request: Request) -> InferenceError:
    return InferenceError(
        Code.DEADLINE_EXCEEDED, f"{request.target}: the deadline passed before the reply was complete"
    )


@lru_cache(maxsize=4096)
def _capability_parameter(encoded: str) -> bytes:
    return parameter_bytes(CAPABILITY, encoded)


def _request_parts(request: Request, registration: Registration) -> tuple[bytes, ...]:
    """The request frame's payload: the client's bytes, and what the agent appends (`frame.request.annotations`)."""
    if not registration.annotate:
        return (request.payload,)
    annotations = _capability_parameter(registration.capability.encoded)
    if request.deadline is not None:
        left = max(0, int((request.deadline - asyncio.get_running_loop().time()) * 1000))
        annotations += parameter_bytes(TIMEOUT_MS, left)
    if request.traceparent:
        annotations += parameter_bytes(TRACEPARENT, request.traceparent)
    return (request.payload, annotations)


def _missing_fields(head: MessageHead, request: Request, registration: Registration) -> bytes:
    """The fields of a ModelInferResponse that the worker left empty."""
    fields = b""
    if not head.model_name and (name := request.head.model_name or registration.listed_name):
        fields += string_field(MODEL_NAME_FIELD, name)
    if not head.model_version and (version := registration.listed_version):
        fields += string_field(MODEL_VERSION_FIELD, version)
    if not head.id and request.head.id:
        fields += string_field(ID_FIELD, request.head.id)
    return fields


def _filled_reply(reply: bytes, request: Request, registration: Registration) -> bytes:
    try:
        head = scan_message(reply)
    except MalformedMessage as error:
        raise InferenceError(Code.INTERNAL, f"the worker's reply is not a ModelInferResponse: {error}") from error
    if ERROR_CODE in head.parameters:
        raise _worker_error(head)
    return reply + _missing_fields(head, request, registration)


def _worker_error(head: MessageHead) -> InferenceError:
    code, given = head.parameters[ERROR_CODE], head.parameters.get(ERROR_MESSAGE)
    if isinstance(code, int) and not isinstance(code, bool) and Code.OK < code <= Code.UNAUTHENTICATED:
        return InferenceError(code, str(given or Code(code).name))
    return InferenceError(Code.INTERNAL, f"the worker failed with an unknown code {code!r}: {given or 'no message'}")


def _filled_stream_reply(
    frame: bytes, request: Request, registration: Registration, final: bool
) -> tuple[bytes, bool, bool]:
    """A worker's stream reply as the client gets it, whether it is an error, and whether it is marked as the last."""
    try:
        reply = scan_stream_reply(frame)
    except MalformedMessage as error:
        raise InferenceError(Code.INTERNAL, f"the worker's reply is not a ModelStreamInferResponse: {error}") from error
    head = reply.response or MessageHead()
    fields = _missing_fields(head, request, registration)
    if final and FINAL_RESPONSE not in head.parameters:
        fields += parameter_bytes(FINAL_RESPONSE, False)
    filled = extend_response(frame, reply, fields) if fields else frame
    return filled, bool(reply.error_message), head.parameters.get(FINAL_RESPONSE) is True


def error_reply(head: MessageHead, code: Code, message: str) -> bytes:
    """A ModelStreamInferResponse that tells the failure of one request (`stream.error.in-band`)."""
    response = string_field(ID_FIELD, head.id) if head.id else b""
    response += parameter_bytes(ERROR_CODE, int(code))
    if head.parameters.get(EMPTY_FINAL_RESPONSE) is True:
        response += parameter_bytes(FINAL_RESPONSE, True)
    return string_field(ERROR_MESSAGE_FIELD, message) + submessage_field(INFER_RESPONSE_FIELD, response)
