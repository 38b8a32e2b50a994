"""A stream's way back breaks while its call goes on, as no client can bring about: the reference agent alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from anyserve.agent import Agent
from support.instances import IMPLEMENTATIONS, Instance
from support.waiting import eventually, within
from support.wire import raw_bytes, request, stream_reply


class WriteFailed(Exception):
    """What gRPC may say."""


class BrokenCall:
    """A call to which nothing can be written."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def write(self, _reply: bytes) -> None:
        raise WriteFailed


async def requests(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield raw_bytes(request("m"))
    await asyncio.Event().wait()  # the client's side stays open


@pytest.mark.parametrize("make_agent", [IMPLEMENTATIONS["reference"]], ids=["reference"])
async def test_a_write_that_fails_ends_the_call_and_its_exchanges(instance: Instance) -> None:
    worker = await instance.worker("m", stream=True)
    assert isinstance(instance.agent, Agent)
    context: Any = BrokenCall()
    call = asyncio.ensure_future(instance.agent._kserve.model_stream_infer(requests(3), context))
    exchanges = [await worker.exchange() for _ in range(3)]
    for exchange in exchanges[:2]:
        await exchange.send(stream_reply())
    with pytest.raises(WriteFailed):
        await within(call)
    for exchange in exchanges:
        await exchange.cancelled()
    await eventually(lambda: instance.agent.snapshot()["workers"][worker.worker_id]["in_flight"] == 0, "no exchange")
