"""WatchEvents: what is told, in which order, to how many (wire.md section 3)."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc.aio

from anyserve._proto import worker_management_pb2 as pb
from anyserve.errors import Code
from support.client import Client, Management, failure
from support.instances import Instance, StartInstance
from support.waiting import LIMIT, eventually, within
from support.wire import request

REGISTERED, UNREGISTERED = pb.Event.MODEL_REGISTERED, pb.Event.MODEL_UNREGISTERED
LOST, LEFT = pb.Event.WORKER_LOST, pb.Event.WORKER_UNREGISTERED


async def events(watch: Any, count: int, limit: float = LIMIT) -> list[pb.Event]:
    """The next `count` events."""
    return [await within(watch.read(), limit) for _ in range(count)]


async def watching(instance: Instance) -> Any:
    """A watcher that is there for sure: it has been told of the one registration that holds."""
    await instance.worker("witness", worker_id="witness")
    watch = instance.management.watch(include_existing=True)
    assert (await within(watch.read())).worker_id == "witness"
    return watch


def facts(event: pb.Event) -> tuple[int, str, str]:
    return event.type, event.worker_id, event.registration.model_name


async def test_events_tell_registrations_and_leave_in_order(instance: Instance, management: Management) -> None:
    watch = await watching(instance)
    worker = await instance.worker("a", "1", worker_id="w", capability={"type": "x"}, priority=3, stream=True)
    await management.register(worker, "b")
    await within(
        management.UnregisterModel(pb.UnregisterModelRequest(worker_id="w", model_name="a", model_version="1"))
    )
    await instance.unregister("w")
    got = await events(watch, 5)
    assert [facts(event) for event in got] == [
        (REGISTERED, "w", "a"),
        (REGISTERED, "w", "b"),
        (UNREGISTERED, "w", "a"),
        (UNREGISTERED, "w", "b"),
        (LEFT, "w", ""),
    ]
    assert [event.sequence - got[0].sequence for event in got] == [0, 1, 2, 3, 4]
    assert all(event.time_unix_ms > 1_600_000_000_000 for event in got)
    assert got[0].registration == pb.Registration(
        model_name="a", model_version="1", capability={"type": "x"}, priority=3, stream=True
    )


async def test_the_loss_of_a_worker_is_told_with_its_reason(instance: Instance, client: Client) -> None:
    watch = await watching(instance)
    worker = await instance.worker("a", worker_id="w")
    await worker.refuse()
    await client.refused(request("a"))
    registered, *lost = await events(watch, 3)
    assert facts(registered) == (REGISTERED, "w", "a")
    assert {facts(event) for event in lost} == {(LOST, "w", ""), (UNREGISTERED, "w", "a")}
    (message,) = (event.message for event in lost if event.type == LOST)
    assert "refused" in message


async def test_every_watcher_is_told(instance: Instance) -> None:
    watches = [await watching(instance)]
    watches.append(instance.management.watch(include_existing=True))
    await within(watches[1].read())
    await instance.worker("a", worker_id="w")
    first, second = [(await events(watch, 1))[0] for watch in watches]
    assert first == second
    assert facts(first) == (REGISTERED, "w", "a")


async def test_existing_registrations_come_first_when_asked_for(instance: Instance, management: Management) -> None:
    worker = await instance.worker("a", "1", worker_id="one", capability={"type": "x"})
    await management.register(worker, "b")
    await instance.worker("a", worker_id="two")
    watch = management.watch(include_existing=True)
    got = await events(watch, 3)
    assert {event.type for event in got} == {REGISTERED}
    assert {facts(event)[1:] for event in got} == {("one", "a"), ("one", "b"), ("two", "a")}
    await instance.worker("c", worker_id="three")
    (after,) = await events(watch, 1)
    assert facts(after) == (REGISTERED, "three", "c")
    assert all(event.sequence < after.sequence for event in got)


async def test_existing_registrations_are_left_out_when_not_asked_for(
    instance: Instance, management: Management
) -> None:
    await instance.worker("old", worker_id="old")
    watch = management.watch()
    first = asyncio.ensure_future(within(watch.read()))
    number = 0
    async with asyncio.timeout(LIMIT):
        while not first.done():  # nothing tells when the watcher is there
            number += 1
            await instance.worker("new", worker_id=f"new-{number}")
            await asyncio.sleep(0.01)
    assert (await first).worker_id.startswith("new-")


async def test_nothing_is_missed_between_what_exists_and_what_comes(instance: Instance, management: Management) -> None:
    worker = instance.new_worker("w")
    count = 400
    for number in range(count):
        await management.register(worker, f"m{number}", capability={"k": "x" * 256, "n": str(number)})
    watch = instance.new_management(window=65_536).watch(include_existing=True)
    await events(watch, 1)  # the rest does not fit into the connection, so the agent is still writing
    await management.register(worker, "late")
    told = await events(watch, count - 1)
    told += await events(watch, 1, limit=3)
    assert facts(told[-1]) == (REGISTERED, "w", "late")
    assert all(first.sequence <= second.sequence for first, second in itertools.pairwise(told))


async def test_nothing_is_told_twice(instance: Instance, management: Management) -> None:
    worker = instance.new_worker("w")
    for number in range(30):
        watch = management.watch(include_existing=True)
        first = asyncio.ensure_future(within(watch.read()))  # goes out together with the registration
        await management.register(worker, f"m{number}")
        await management.register(worker, "last", capability={"n": str(number)})
        names = [(await first).registration.model_name]
        while names.count("last") < number + 1:
            names.append((await within(watch.read())).registration.model_name)
        watch.cancel()
        assert names.count(f"m{number}") == 1
        assert len(names) == 2 * (number + 1)


async def test_at_most_max_watchers_watch(start_instance: StartInstance) -> None:
    instance = await start_instance(max_watchers=1)
    watch = await watching(instance)
    error = await failure(instance.management.watch(include_existing=False).read())
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert "1 watchers" in error.message
    watch.cancel()
    await eventually(lambda: may_watch(instance), "a place for another watcher")  # once the first was seen to go


async def may_watch(instance: Instance) -> bool:
    """Whether another watcher is let in."""
    watch = instance.management.watch()
    first = asyncio.ensure_future(watch.read())
    await instance.worker("another", worker_id="another")
    try:
        return facts(await within(first)) == (REGISTERED, "another", "another")
    except grpc.aio.AioRpcError:
        return False
    finally:
        watch.cancel()


async def test_a_watcher_beyond_the_limit_is_told_nothing_first(start_instance: StartInstance) -> None:
    instance = await start_instance(max_watchers=1)
    watch = await watching(instance)  # kept: a call that nobody refers to is cancelled
    error = await failure(instance.management.watch(include_existing=True).read())
    assert error.code is Code.RESOURCE_EXHAUSTED
    watch.cancel()


async def test_a_watcher_that_reads_nothing_holds_up_nobody(instance: Instance, client: Client) -> None:
    watch = await watching(instance)
    idle = instance.new_management(window=65_536).watch(include_existing=True)
    await within(idle.read())
    worker = instance.new_worker("w", answer=lambda _: b"")
    for number in range(1500):
        await instance.management.register(worker, f"m{number % 5}", capability={"k": "x" * 256, "l": "x" * 256})
        assert facts(await within(watch.read())) == (REGISTERED, "w", f"m{number % 5}")
    await client.infer(request("m1"))
    # It has missed some, and is told so after those that were kept for it.
    missed = await failure(rest(idle))
    assert missed.code is Code.RESOURCE_EXHAUSTED
    assert "1024 events" in missed.message


async def rest(watch: Any) -> None:
    """Reads to the end."""
    while await watch.read() is not grpc.aio.EOF:
        pass
    code = await watch.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), await watch.details())


async def test_draining_is_told_and_the_watch_ends_well(instance: Instance) -> None:
    watch = await watching(instance)
    await within(instance.stop(grace=5))
    assert (await events(watch, 1))[0].type == pb.Event.SERVER_DRAINING
    assert await within(watch.read()) is grpc.aio.EOF
