"""A Batcher by itself, under clients that come, go, run out of time and fail at random: each gets what is its own."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anyserve import AnyServe, Batch, InferenceError
from anyserve.worker.batching import Batcher
from anyserve.worker.call_counts import CallCounts

LIMITS = Batch(max_size=8, max_wait_ms=1, concurrency=2)
CLIENTS = 40
REQUESTS = 25


class FakeContext:
    """All that a Batcher asks of a context."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def time_remaining(self) -> float | None:
        return self._seconds


class Failed(Exception):
    """What a handler raises now and then."""


def outcomes(numbers: list[int], sizes: list[int], chance: random.Random) -> list[Any]:
    sizes.append(len(numbers))
    if chance.random() < 0.1:
        raise Failed("all of them")
    return [Failed(f"{n} alone") if n % 10 == 3 else {"n": [n]} for n in numbers]


def handlers(sizes: list[int], chance: random.Random) -> dict[str, Callable[[list[int]], Any]]:
    def sync(requests: list[int]) -> list[Any]:
        return outcomes(requests, sizes, chance)

    async def asynchronous(requests: list[int]) -> list[Any]:
        await asyncio.sleep(chance.random() / 500)
        return outcomes(requests, sizes, chance)

    return {"sync": sync, "async": asynchronous}


async def client(first: int, ask: Callable[[int, FakeContext], Awaitable[Any]], chance: random.Random) -> Counter[str]:
    """Sends its requests one after the other; how they ended."""
    ends: Counter[str] = Counter()
    for n in range(first, first + REQUESTS):
        context = FakeContext(chance.choice([None, 20.0, chance.random() / 300]))
        leaves = chance.random() / 300 if chance.random() < 0.2 else None
        try:
            async with asyncio.timeout(leaves):
                reply = await ask(n, context)
            assert reply == {"n": [n]}
            ends["replied"] += 1
        except Failed as error:
            ends[str(error).replace(f"{n} alone", "failed alone")] += 1
        except InferenceError as error:
            ends[error.code.name] += 1
        except TimeoutError:
            assert leaves is not None
            ends["left"] += 1
    return ends


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("seed", range(5))
async def test_everybody_gets_his_own(form: str, seed: int) -> None:
    chance = random.Random(seed)
    sizes: list[int] = []
    app, counts = AnyServe(), CallCounts()
    app.capability(type="m", batch=LIMITS)(handlers(sizes, chance)[form])
    (declaration,) = app.groups()[0].declarations
    batcher = Batcher(declaration.handler, declaration, counts)  # type: ignore[arg-type]
    ask = batcher.handler.call
    async with asyncio.timeout(60):
        ended = await asyncio.gather(*(client(n * REQUESTS, ask, chance) for n in range(CLIENTS)))
        ends = sum(ended, Counter())
        assert ends.total() == CLIENTS * REQUESTS
        assert set(ends) == {"replied", "failed alone", "INTERNAL", "DEADLINE_EXCEEDED", "left"}
        assert max(sizes) == LIMITS.max_size
        while True:  # nothing is left behind that would hold up a single client
            try:
                assert await ask(10, FakeContext(None)) == {"n": [10]}
            except InferenceError:
                continue
            break
    batcher.close()
