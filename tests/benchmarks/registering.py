"""An agent with very many registrations."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc.aio

from anyserve import rpc
from anyserve._proto import worker_management_pb2 as management
from benchmarks.subjects import MANAGEMENT, Subject

__all__ = ["register_many"]

AT_ONCE = 64


def register_many(subject: Subject, path: str, count: int) -> str:
    """Registers models `m0`, `m1`, … of one worker, each with a capability of its own; returns the last one's name."""
    asyncio.run(_register(subject.management, path, iter(range(count))))
    return f"m{count - 1}"


async def _register(target: str, path: str, numbers: Iterator[int]) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        call = rpc.callables(channel, MANAGEMENT)["RegisterModel"]

        async def some() -> None:
            for number in numbers:
                name = f"m{number}"
                reply = await call(
                    management.RegisterModelRequest(
                        model_name=name,
                        worker_id="w",
                        worker_address=f"unix://{path}",
                        capability={"type": "echo", "model": name},
                    )
                )
                assert reply.success, reply.message

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
