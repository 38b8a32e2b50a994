"""What both services need of gRPC: statuses of errors, and calls that end with the server."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import wraps
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio

from anyserve.errors import Code, InferenceError

__all__ = ["STATUS", "Context", "aborting", "carries", "status_message", "until"]

Context = grpc.aio.ServicerContext[Any, Any]

MAX_STATUS_MESSAGE = 4096
"""Bytes of a percent-encoded status message."""
ELLIPSIS = "..."
PRINTABLE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
"""What grpc-message carries as it is."""

STATUS: Mapping[Code, grpc.StatusCode] = {Code(status.value[0]): status for status in grpc.StatusCode}
"""The one mapping from our codes to gRPC's."""


def aborting(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Answers a call whose handler raised `InferenceError` with its status and message."""

    @wraps(handler)
    async def wrapper(request: Any, context: Context) -> Any:
        try:
            return await handler(request, context)
        except InferenceError as error:
            try:
                await context.abort(STATUS[error.code], status_message(error.message))
            except grpc.aio.InternalError:
                # The call has ended meanwhile, e.g. by its deadline: nobody is there to be told.
                raise asyncio.CancelledError from None

    return wrapper


def status_message(message: str) -> str:
    """`message`, cut to what every client accepts in trailers (`serving.status.message-length`).

    Clients refuse metadata above 8 or 16 KiB, and then see RESOURCE_EXHAUSTED instead
    of the status; grpc-message is percent-encoded, three bytes for each of ours.
    """
    clean = message.encode(errors="backslashreplace").decode()
    if len(_quoted(clean)) <= MAX_STATUS_MESSAGE:
        return clean
    kept, size = 0, len(ELLIPSIS)
    for character in clean[:MAX_STATUS_MESSAGE]:
        size += len(_quoted(character))
        if size > MAX_STATUS_MESSAGE:
            break
        kept += 1
    return clean[:kept] + ELLIPSIS


def _quoted(text: str) -> str:
    return quote(text, safe=PRINTABLE)


def carries(metadata: Iterable[tuple[str, str | bytes]] | None, key: str, secret: str) -> bool:
    """Whether a call's metadata has `secret` under `key`; takes equally long whatever was given."""
    given = dict(metadata or ()).get(key, "")
    return isinstance(given, str) and hmac.compare_digest(given.encode(), secret.encode())


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
