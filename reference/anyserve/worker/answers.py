"""Between handlers and the wire: requests as handlers get them, and what comes of handlers. Knows no worker loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.errors import Code, InferenceError
from anyserve.wire import CAPABILITY, ERROR_CODE, ERROR_MESSAGE, TIMEOUT_MS, TRACEPARENT

if TYPE_CHECKING:
    from anyserve.app import Declaration
    from anyserve.handlers import Handler
    from anyserve.worker.context import Context, Stream

__all__ = [
    "HandlerFailed",
    "as_inference_error",
    "asend_all",
    "awaited",
    "called",
    "checked_end",
    "failure",
    "request_of",
    "send_all",
    "stream_failure",
]

log = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 8192
"""Of a failure's message: more than an agent passes on, less than any limit of a reply."""

Result = TypeVar("Result")


class HandlerFailed(Exception):
    """Carries whatever a handler raised, also what asyncio would take for its own (StopIteration, CancelledError)."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__()


def request_of(payload: bytes) -> pb.ModelInferRequest:
    """The request as the handler gets it: without what the agent added.

    Raises:
        InferenceError: INVALID_ARGUMENT, it is none.
    """
    try:
        request = pb.ModelInferRequest.FromString(payload)
    except DecodeError as error:
        raise InferenceError(Code.INVALID_ARGUMENT, f"not a ModelInferRequest: {error}") from error
    for name in (CAPABILITY, TIMEOUT_MS, TRACEPARENT):
        if name in request.parameters:
            del request.parameters[name]
    return request


def called(function: Callable[..., Result], *args: Any) -> Result:
    """Calls a sync handler.

    Raises:
        HandlerFailed: it raised.
    """
    try:
        return function(*args)
    except BaseException as error:
        raise HandlerFailed(error) from error


async def awaited(function: Callable[..., Any], *args: Any) -> Any:
    """Calls an async handler.

    Raises:
        HandlerFailed: it raised.
        asyncio.CancelledError: the client has gone.
    """
    try:
        return await function(*args)
    except GeneratorExit:
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the client has gone
        raise HandlerFailed(error) from error


async def asend_all(handler: Handler, request: pb.ModelInferRequest, context: Context, stream: Stream) -> None:
    """Sends what an async generator yields."""
    async with aclosing(handler.call(request, context)) as replies:
        async for reply in replies:
            await stream.asend(reply)


def send_all(handler: Handler, request: pb.ModelInferRequest, context: Context, stream: Stream) -> None:
    """Sends what a generator yields."""
    replies = handler.call(request, context)
    try:
        for reply in replies:
            stream.send(reply)
    finally:
        replies.close()  # runs the generator's `finally` when the client has gone


def checked_end(returned: Any) -> None:
    """What a streaming handler returned.

    Raises:
        TypeError: something.
    """
    if returned is not None:
        raise TypeError(f"a handler with stream=True sends its replies; it returned {type(returned).__name__}")


def failure(error: InferenceError) -> bytes:
    """A unary failure reply (`frame.error.code`)."""
    reply: bytes = pb.ModelInferResponse(parameters=_error_parameters(error)).SerializeToString()
    return reply


def stream_failure(request_id: str, error: InferenceError) -> bytes:
    """The same among the replies of a stream (`stream.error.worker-id`)."""
    response = pb.ModelInferResponse(id=request_id, parameters=_error_parameters(error))
    message = _encodable(error.message) or error.code.name
    reply: bytes = pb.ModelStreamInferResponse(error_message=message, infer_response=response).SerializeToString()
    return reply


def as_inference_error(error: BaseException, declaration: Declaration) -> InferenceError:
    """The handler's own choice, or INTERNAL with the exception's message; the traceback stays in the log."""
    cause = error.error if isinstance(error, HandlerFailed) else error
    if isinstance(cause, InferenceError):
        return cause
    log.error("handler failed", exc_info=cause, extra={"capability": str(declaration.capability)})
    return InferenceError(Code.INTERNAL, _text(cause) or type(cause).__name__)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # it is the app's code
        return ""


def _error_parameters(error: InferenceError) -> Mapping[str, pb.InferParameter]:
    return {
        ERROR_CODE: pb.InferParameter(int64_param=int(error.code)),
        ERROR_MESSAGE: pb.InferParameter(string_param=_encodable(error.message)),
    }


def _encodable(text: str) -> str:
    """The text, cut, with what UTF-8 cannot hold (lone surrogates, as in names of files) written as escapes."""
    return text[:MAX_ERROR_CHARACTERS].encode(errors="backslashreplace").decode()
