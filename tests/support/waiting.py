"""Waiting for what must happen, and giving up after a generous time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar

__all__ = ["LIMIT", "eventually", "settled", "within"]

LIMIT = 15.0
"""Seconds that anything may take on a slow machine; reached only by a failing test."""

T = TypeVar("T")


async def within(awaitable: Awaitable[T], limit: float = LIMIT) -> T:
    """Awaits something that must happen.

    Raises:
        TimeoutError: it did not happen in time.
    """
    async with asyncio.timeout(limit):
        return await awaitable


async def eventually(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Waits until `condition()`, awaited if need be, is true, where nothing tells when it becomes so.

    Raises:
        AssertionError: it stayed false; `what` names it.
    """
    give_up = asyncio.get_running_loop().time() + LIMIT
    while not (await found if isawaitable(found := condition()) else found):
        assert asyncio.get_running_loop().time() < give_up, f"{what} did not come true"
        await asyncio.sleep(0.002)


async def settled(value: Callable[[], int], still: float = 0.3) -> int:
    """Waits until `value()` has not changed for `still` seconds, and returns it."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + LIMIT
    last, since = value(), loop.time()
    while loop.time() - since < still:
        assert loop.time() < give_up, "the value never came to rest"
        await asyncio.sleep(still / 20)
        if (now := value()) != last:
            last, since = now, loop.time()
    return last
