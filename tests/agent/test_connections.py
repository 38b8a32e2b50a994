"""Connections to a worker: reuse, how many, and when a request is sent again (wire.md section 4)."""

from __future__ import annotations

import asyncio

import pytest

from anyserve.errors import Code
from support.client import Client
from support.instances import Instance
from support.waiting import eventually, within
from support.wire import frame, reply, request
from support.worker import Connection, Script, ScriptedWorker, silent

LARGE = request("m", raw=bytes(8 << 20))  # far more than a socket takes without being read


async def test_a_connection_is_kept_for_the_next_exchange(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", answer=lambda _: b"")
    for number in range(5):
        await client.infer(request("m", request_id=str(number)))
    assert len(worker.connections) == 1
    sent = b"".join(frame(request("m", request_id=str(number))) for number in range(5))
    assert bytes(worker.connections[0].received) == sent


async def test_no_connection_is_made_before_the_first_request(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", answer=lambda _: b"")
    await client.refused(request("other"))
    assert worker.connections == []


async def test_a_worker_may_close_after_every_reply(instance: Instance, client: Client) -> None:
    async def once(_: ScriptedWorker, connection: Connection) -> None:
        await connection.read_frame()
        await connection.send(frame(reply(request_id="once")))
        await connection.close()

    worker = await instance.worker("m", script=once)
    for _ in range(5):
        assert (await client.infer(request("m"))).id == "once"
    assert len(worker.connections) == 5


async def test_exchanges_at_once_have_connections_of_their_own(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m")
    calls = [client.background(request("m", request_id=str(number))) for number in range(3)]
    exchanges = [await worker.exchange() for _ in calls]
    assert len({id(exchange.connection) for exchange in exchanges}) == 3
    for exchange in reversed(exchanges):  # the last one first: none waits for another
        await exchange.answer()
    assert [(await call).id for call in calls] == ["0", "1", "2"]


@pytest.mark.parametrize(("registered", "limit"), [(0, 10), (1, 1), (3, 3), (20, 20)])
async def test_at_most_max_concurrency_connections(
    instance: Instance, client: Client, registered: int, limit: int
) -> None:
    worker = await instance.worker("m", max_concurrency=registered)
    calls = [client.background(request("m", request_id=str(number))) for number in range(50)]
    exchanges = [await worker.exchange() for _ in range(limit)]
    await eventually(lambda: instance.waiting == 50 - limit, "the others in the queue")
    assert len(worker.connections) == limit
    for _ in range(50 - limit):
        await exchanges.pop(0).answer()
        exchanges.append(await worker.exchange())
    for exchange in exchanges:
        await exchange.answer()
    assert [(await call).id for call in calls] == [str(number) for number in range(50)]
    assert len(worker.connections) == limit


async def test_registrations_without_a_number_share_the_default_limit(instance: Instance, client: Client) -> None:
    worker = await instance.worker("a")
    await instance.management.register(worker, "b")
    calls = [client.background(request(name)) for name in ["a", "b"] * 10]
    exchanges = [await worker.exchange() for _ in range(10)]
    await eventually(lambda: instance.waiting == 10, "the others in the queue")
    assert len(worker.connections) == 10
    for exchange in exchanges:
        await exchange.answer()
    for _ in range(10):
        await (await worker.exchange()).answer()
    await asyncio.gather(*calls)


async def test_a_registration_with_a_number_has_that_many_places_of_its_own(instance: Instance, client: Client) -> None:
    worker = await instance.worker("a", max_concurrency=1)
    await instance.management.register(worker, "b", max_concurrency=2)
    calls = [client.background(request(name)) for name in ["a", "a", "b", "b", "b"]]
    exchanges = [await worker.exchange() for _ in range(3)]
    await eventually(lambda: instance.waiting == 2, "the others in the queue")
    assert sorted(exchange.payload for exchange in exchanges) == [
        request(name).SerializeToString() for name in ("a", "b", "b")
    ]
    for exchange in exchanges:
        await exchange.answer()
    for _ in range(2):
        await (await worker.exchange()).answer()
    await asyncio.gather(*calls)
    assert len(worker.connections) == 3


async def test_cancelled_exchanges_do_not_add_to_the_connections(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", max_concurrency=1)
    for _ in range(5):
        call = client.start(request("m"))
        exchange = await worker.exchange()
        call.cancel()
        await exchange.cancelled()
    call = client.background(request("m"))
    await (await worker.exchange()).answer()
    await call
    assert worker.open_connections == 1


async def reject(_: ScriptedWorker, connection: Connection) -> None:
    """Closes with bytes left unread."""
    await connection.read_exactly(1)
    await connection.close()


async def two_workers(instance: Instance, first: Script | None) -> tuple[ScriptedWorker, ScriptedWorker]:
    """One that is asked first, with a script, and one that answers."""
    bad = await instance.worker("m", worker_id="bad", priority=1, script=first)
    good = await instance.worker("m", worker_id="good", answer=lambda _: reply(request_id="good"))
    return bad, good


async def test_a_request_goes_elsewhere_when_the_connection_is_refused(instance: Instance, client: Client) -> None:
    bad, good = await two_workers(instance, None)
    await bad.refuse()
    assert (await client.infer(request("m"))).id == "good"
    assert good.requests == [request("m").SerializeToString()]


@pytest.mark.parametrize("size", [1, 8 << 20])
async def test_a_request_goes_elsewhere_when_the_worker_closes_with_bytes_unread(
    instance: Instance, client: Client, size: int
) -> None:
    bad, good = await two_workers(instance, reject)
    message = request("m", raw=bytes(size))
    assert (await client.infer(message)).id == "good"
    assert good.requests == [message.SerializeToString()]
    assert len(bad.connections) == 1


async def test_a_request_goes_elsewhere_when_the_worker_closes_at_once(instance: Instance, client: Client) -> None:
    async def close(_: ScriptedWorker, connection: Connection) -> None:
        await connection.close()

    await two_workers(instance, close)
    assert (await client.infer(LARGE)).id == "good"


async def test_a_request_goes_elsewhere_when_writing_fails(instance: Instance, client: Client) -> None:
    async def read_no_more(_: ScriptedWorker, connection: Connection) -> None:
        await connection.read_exactly(1)
        connection.refuse_bytes()
        while await connection.read():
            pass  # what the agent had written; there is room for more now, and writing it gets EPIPE

    bad, good = await two_workers(instance, read_no_more)
    assert (await client.infer(LARGE)).id == "good"
    assert good.requests == [LARGE.SerializeToString()]
    assert len(bad.connections) == 1


async def test_each_match_is_tried_once(instance: Instance, client: Client) -> None:
    workers = [await instance.worker("m", script=reject) for _ in range(3)]
    error = await client.refused(request("m"))
    assert error.code is Code.UNAVAILABLE
    assert [len(worker.connections) for worker in workers] == [1, 1, 1]


async def test_a_worker_that_rejected_one_request_gets_the_next(instance: Instance, client: Client) -> None:
    rejections = [True, False]

    async def script(worker: ScriptedWorker, connection: Connection) -> None:
        await (reject(worker, connection) if rejections.pop(0) else worker.serve(connection))

    worker = await instance.worker("m", script=script)
    assert (await client.refused(request("m"))).code is Code.UNAVAILABLE
    call = client.background(request("m"))
    await (await worker.exchange()).answer()
    await call


async def kept_connection(instance: Instance, client: Client) -> ScriptedWorker:
    """A worker with an idle connection, of its first exchange."""
    worker = await instance.worker("m")
    call = client.background(request("m"))
    await (await worker.exchange()).answer()
    await call
    return worker


async def test_a_kept_connection_that_the_worker_closed_is_replaced(instance: Instance, client: Client) -> None:
    worker = await kept_connection(instance, client)
    await worker.connections[0].close()
    call = client.background(request("m"))
    await (await worker.exchange()).answer(reply(request_id="new"))
    assert (await call).id == "new"


async def test_a_kept_connection_that_takes_no_bytes_is_replaced(instance: Instance, client: Client) -> None:
    worker = await kept_connection(instance, client)
    worker.connections[0].refuse_bytes()  # the agent learns of it by EPIPE only
    call = client.background(request("m"))
    await (await worker.exchange()).answer(reply(request_id="new"))
    assert (await call).id == "new"
    assert len(worker.connections) == 2


async def test_a_kept_connection_that_is_closed_without_reading_is_replaced(instance: Instance, client: Client) -> None:
    kept = asyncio.Event()

    async def script(worker: ScriptedWorker, connection: Connection) -> None:
        if kept.is_set():
            await worker.serve(connection)
            return
        await connection.read_frame()
        await connection.send(frame(reply()))
        kept.set()
        await reject(worker, connection)

    worker = await instance.worker("m", script=script)
    await client.infer(request("m"))
    call = client.background(request("m"))
    await (await worker.exchange()).answer(reply(request_id="new"))
    assert (await call).id == "new"
    assert len(worker.connections) == 2


@pytest.mark.parametrize("how", ["close", "half-close", "half-a-reply", "garbage"])
async def test_a_request_that_was_taken_whole_is_never_sent_again(instance: Instance, client: Client, how: str) -> None:
    async def take_and_fail(_: ScriptedWorker, connection: Connection) -> None:
        await connection.read_frame()
        if how == "half-close":
            connection.half_close()
            await connection.read()
            return
        if how == "half-a-reply":
            await connection.send(frame(reply("m"))[:-1])
        elif how == "garbage":
            await connection.send(b"\xff\xff\xff\xff")
            await connection.read()
        await connection.close()

    bad, good = await two_workers(instance, take_and_fail)
    error = await client.refused(request("m"))
    assert error.code is (Code.UNAVAILABLE if "close" in how else Code.INTERNAL)
    assert len(bad.connections) == 1
    assert good.connections == []


async def test_a_request_on_a_kept_connection_that_was_taken_whole_is_never_sent_again(
    instance: Instance, client: Client
) -> None:
    worker = await kept_connection(instance, client)
    spare = await instance.worker("m", answer=lambda _: b"", priority=-1)
    call = asyncio.ensure_future(client.refused(request("m")))
    await (await worker.exchange()).close()
    assert (await call).code is Code.UNAVAILABLE
    assert len(worker.connections) == 1
    assert spare.connections == []


@pytest.mark.parametrize("message", [request("m"), LARGE], ids=["small", "large"])
async def test_cancelling_before_the_worker_reads_closes_the_connection(
    instance: Instance, client: Client, message: bytes
) -> None:
    worker = await instance.worker("m", script=silent)
    spare = await instance.worker("m", priority=-1, answer=lambda _: b"")
    call = client.start(message)
    connection = await worker.connected()
    await within(connection.read_exactly(4))
    call.cancel()
    while await within(connection.read()):
        pass  # what was on its way
    assert spare.connections == []


async def test_a_worker_that_never_reads_does_not_hold_up_others(instance: Instance, client: Client) -> None:
    stuck = await instance.worker("stuck", script=silent)
    await instance.worker("m", answer=lambda _: reply(request_id="fine"))
    calls = [client.start(request("stuck", raw=bytes(1 << 20))) for _ in range(5)]
    await stuck.connected(5)
    assert (await client.infer(LARGE)).id == "fine"
    for call in calls:
        call.cancel()
