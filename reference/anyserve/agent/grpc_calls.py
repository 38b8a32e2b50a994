"""What both services need of gRPC: statuses of errors, and calls that end with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import wraps
from typing import Any

import grpc
import grpc.aio

from anyserve.errors import Code, InferenceError

__all__ = ["STATUS", "Context", "aborting", "until"]

Context = grpc.aio.ServicerContext[Any, Any]

STATUS: Mapping[Code, grpc.StatusCode] = {Code(status.value[0]): status for status in grpc.StatusCode}
"""The one mapping from our codes to gRPC's."""


def aborting(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Answers a call whose handler raised `InferenceError` with its status and message."""

    @wraps(handler)
    async def wrapper(request: Any, context: Context) -> Any:
        try:
            return await handler(request, context)
        except InferenceError as error:
            await context.abort(STATUS[error.code], error.message)

    return wrapper


async def until(closing: asyncio.Event, call: Coroutine[Any, Any, None]) -> None:
    """Runs a call that may last as long as its client likes, and ends it when `closing` is set."""
    serving = asyncio.ensure_future(call)
    waiting = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        serving.cancel()
        waiting.cancel()
        await asyncio.wait((serving, waiting))
