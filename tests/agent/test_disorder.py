"""Many requests over workers that misbehave, come and go: every one ends, none is taken twice, nothing is left over."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import grpc.aio
import pytest

from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from anyserve.errors import Code
from support.client import Client
from support.instances import Instance
from support.waiting import eventually, within
from support.wire import frame, reply, request
from support.worker import Connection, ScriptedWorker

REQUESTS = 300
AT_ONCE = 24
PLACES = 4

ENDS = {Code.OK, Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.NOT_FOUND}


class Moody:
    """The script of a worker whose behaviour follows a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def __call__(self, worker: ScriptedWorker, connection: Connection) -> None:
        while True:
            if self._random.random() < 0.03:
                await connection.read_exactly(1)
                await connection.close()  # with the rest unread
                return
            payload = await connection.read_frame()
            worker.requests.append(payload)
            for _ in range(self._random.randrange(3)):
                await asyncio.sleep(0)
            mood = self._random.random()
            if mood < 0.03:
                await connection.close()
                return
            answer = frame(reply(request_id=ModelInferRequest.FromString(payload).id))
            if mood < 0.05:
                await connection.send(answer + b"\x00")
            elif mood < 0.08:
                await connection.send(answer[:-1])
                await connection.close()
                return
            elif mood < 0.12:
                await connection.read()  # until the client gives up
                return
            else:
                await connection.send(answer)


async def ask(client: Client, number: int, chance: random.Random) -> Code:
    """One request, sometimes given up; how it ended."""
    call = client.start(request("m", request_id=str(number)), timeout=1)
    if chance.random() < 0.1:
        await asyncio.sleep(0)
        call.cancel()
    try:
        got = await within(call)
    except grpc.aio.AioRpcError as error:
        return Code(error.code().value[0])
    except asyncio.CancelledError:
        return Code.CANCELLED
    assert ModelInferResponse.FromString(got) == reply("m", request_id=str(number))
    return Code.OK


async def come_and_go(instance: Instance, seed: int, done: asyncio.Event) -> None:
    """Workers leave and come back, in their own time."""
    chance = random.Random(seed)
    while not done.is_set():
        worker = chance.choice(instance.workers)
        if worker.worker_id in await instance.management.workers() and chance.random() < 0.5:
            await instance.unregister(worker.worker_id)
        else:
            await instance.management.register(worker, "m", max_concurrency=PLACES)
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("seed", range(3))
async def test_every_request_ends_none_is_taken_twice_and_nothing_is_left_over(instance: Instance, seed: int) -> None:
    for number in range(4):
        await instance.worker("m", script=Moody(seed * 10 + number), max_concurrency=PLACES)
    steady = instance.workers[0]
    chance = random.Random(seed)
    places = asyncio.Semaphore(AT_ONCE)

    async def ask_in_turn(number: int) -> Code:
        async with places:
            return await ask(instance.client, number, chance)

    done = asyncio.Event()
    changes = asyncio.ensure_future(come_and_go(instance, seed, done))
    ends = Counter(await asyncio.gather(*(ask_in_turn(number) for number in range(REQUESTS))))
    done.set()
    await changes
    assert set(ends) <= ENDS
    assert ends[Code.OK] > REQUESTS // 2, ends

    taken = Counter(payload for worker in instance.workers for payload in worker.requests)
    assert max(taken.values()) == 1
    await eventually(lambda: instance.waiting == 0, "empty queues")
    await eventually(
        lambda: all(worker["in_flight"] == 0 for worker in instance.agent.snapshot()["workers"].values()), "the end"
    )
    await instance.management.register(steady, "m", max_concurrency=PLACES)
    for worker in await instance.management.workers():
        if worker != steady.worker_id:
            await instance.unregister(worker)
    assert (await instance.management.workers())[steady.worker_id].connections <= PLACES
