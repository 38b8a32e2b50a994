"""RegisterModel and its counterparts: what is refused, what replaces, what adds, what goes (wire.md section 3)."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

from anyserve._proto import worker_management_pb2 as pb
from anyserve.errors import Code
from support.client import Client, Management, failure
from support.instances import Instance, StartInstance
from support.waiting import within
from support.wire import reply, request

GOOD: dict[str, Any] = {
    "model_name": "m",
    "model_version": "1",
    "worker_id": "w",
    "worker_address": "unix:///tmp/no-such.sock",
    "capability": {"type": "chat"},
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("worker_id", "", id="no-worker-id"),
        pytest.param("worker_id", "w\n", id="control-in-worker-id"),
        pytest.param("worker_id", "w" * 257, id="long-worker-id"),
        pytest.param("model_name", "a\x00b", id="nul-in-name"),
        pytest.param("model_name", "m" * 257, id="long-name"),
        pytest.param("model_version", "1\t", id="control-in-version"),
        pytest.param("model_version", "1" * 257, id="long-version"),
        pytest.param("platform", "p\x7f", id="control-in-platform"),
        pytest.param("worker_address", "", id="no-address"),
        pytest.param("worker_address", "unix://", id="no-path"),
        pytest.param("worker_address", "unix://relative.sock", id="relative-path"),
        pytest.param("worker_address", "unix:/single/slash.sock", id="one-slash"),
        pytest.param("worker_address", "/bare/path.sock", id="no-scheme"),
        pytest.param("worker_address", "tcp://127.0.0.1:1", id="tcp"),
        pytest.param("worker_address", "UNIX:///upper.sock", id="upper-case-scheme"),
        pytest.param("worker_address", "unix-abstract:name", id="abstract"),
        pytest.param("worker_address", "unix:///with\x00nul", id="nul-in-path"),
        pytest.param("worker_address", "unix:///" + "x" * 107, id="long-path"),
        pytest.param("worker_address", "unix:///" + "é" * 54, id="long-path-in-bytes"),
        pytest.param("max_concurrency", 1025, id="too-much-concurrency"),
        pytest.param("max_concurrency", (1 << 32) - 1, id="greatest-concurrency"),
        pytest.param("capability", {"": "x"}, id="empty-key"),
        pytest.param("capability", {"Type": "x"}, id="upper-case-key"),
        pytest.param("capability", {"_t": "x"}, id="key-starts-with-underscore"),
        pytest.param("capability", {"a b": "x"}, id="space-in-key"),
        pytest.param("capability", {"schlüssel": "x"}, id="key-beyond-ascii"),
        pytest.param("capability", {"k" * 65: "x"}, id="long-key"),
        pytest.param("capability", {"type": ""}, id="empty-value"),
        pytest.param("capability", {"type": "a\nb"}, id="control-in-value"),
        pytest.param("capability", {"type": "x" * 257}, id="long-value"),
        pytest.param("capability", {f"k{n}": "x" for n in range(33)}, id="too-many-keys"),
    ],
)
async def test_a_malformed_registration_is_invalid_and_changes_nothing(
    instance: Instance, management: Management, field: str, value: Any
) -> None:
    await instance.worker("other", worker_id="other")
    watch = management.watch(include_existing=True)
    assert (await within(watch.read())).worker_id == "other"
    error = await failure(management.RegisterModel(pb.RegisterModelRequest(**GOOD | {field: value})), to_worker=True)
    assert error.code is Code.INVALID_ARGUMENT
    assert field in error.message
    assert set(await management.workers()) == {"other"}
    await instance.worker("next", worker_id="next")
    assert (await within(watch.read())).worker_id == "next"


async def test_neither_name_nor_capability_is_invalid(management: Management) -> None:
    message = pb.RegisterModelRequest(**GOOD | {"model_name": "", "capability": {}})
    error = await failure(management.RegisterModel(message))
    assert error.code is Code.INVALID_ARGUMENT
    assert "model_name" in error.message
    assert "capability" in error.message
    assert await management.workers() == {}


async def test_a_malformed_registration_leaves_the_one_it_would_replace(
    instance: Instance, management: Management, client: Client
) -> None:
    worker = await instance.worker("m", answer=lambda _: reply(request_id="served"))
    for wrong in ({"worker_address": "tcp://x:1"}, {"max_concurrency": 5000}, {"platform": "\n"}):
        message = pb.RegisterModelRequest(
            **{"model_name": "m", "worker_id": worker.worker_id, "worker_address": worker.address} | wrong
        )
        assert (await failure(management.RegisterModel(message), to_worker=True)).code is Code.INVALID_ARGUMENT
    assert (await client.infer(request("m"))).id == "served"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_name", "m" * 256),
        ("model_name", "größe/✓ 1"),
        ("worker_address", "unix:///" + "x" * 106),
        ("max_concurrency", 1024),
        ("priority", -(1 << 31)),
        ("capability", {"k" * 64: "x" * 256}),
        ("capability", {f"k{n}": "x" for n in range(32)}),
        ("capability", {"a.b-c_1": "=,%|*☃"}),
        ("model_name", ""),
    ],
)
async def test_the_greatest_of_everything_is_accepted_and_listed(
    management: Management, field: str, value: Any
) -> None:
    await within(management.RegisterModel(pb.RegisterModelRequest(**GOOD | {field: value})))
    worker = (await management.workers())["w"]
    (registration,) = worker.registrations
    found: Any = worker.address if field == "worker_address" else getattr(registration, field)
    assert (dict(found) if field == "capability" else found) == value


async def test_fields_1_to_4_are_enough(instance: Instance, management: Management, client: Client) -> None:
    worker = await instance.worker("echo", "llama", answer=lambda _: b"")
    listed = (await management.workers())[worker.worker_id]
    assert listed == pb.Worker(
        worker_id=worker.worker_id,
        address=worker.address,
        registrations=[
            pb.Registration(
                model_name="echo",
                model_version="llama",
                capability={"type": "echo", "model": "llama"},
            )
        ],
        heartbeat_age_ms=-1,
    )
    await client.infer(request("echo"))


async def test_registering_the_same_again_replaces(instance: Instance, management: Management) -> None:
    worker = await instance.worker("m", "1", capability={"type": "a"}, priority=1, platform="old")
    await management.register(worker, "m", "1", capability={"type": "a"}, priority=2, stream=True)
    (registration,) = (await management.workers())[worker.worker_id].registrations
    assert (registration.priority, registration.platform, registration.stream) == (2, "", True)


@pytest.mark.parametrize("change", [{"name": "n"}, {"version": "2"}, {"capability": {"type": "b"}}])
async def test_registering_another_name_version_or_capability_adds(
    instance: Instance, management: Management, change: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"name": "m", "version": "1", "capability": {"type": "a"}}
    worker = await instance.worker(**fields)
    await management.register(worker, **fields | change)
    assert len((await management.workers())[worker.worker_id].registrations) == 2


async def test_the_same_from_another_worker_is_a_replica(
    instance: Instance, management: Management, client: Client
) -> None:
    first, second = [await instance.worker("m", answer=lambda _: b"") for _ in range(2)]
    for _ in range(4):
        await client.infer(request("m"))
    assert (len(first.requests), len(second.requests)) == (2, 2)
    assert len(await management.workers()) == 2


async def test_a_worker_that_registers_from_elsewhere_has_moved(
    instance: Instance, management: Management, client: Client
) -> None:
    old = await instance.worker("m", worker_id="w")
    held = client.background(request("m"))
    running = await old.exchange()
    new = instance.new_worker("w", answer=lambda _: reply(request_id="new"))
    await management.register(new, "m")
    assert (await client.infer(request("m"))).id == "new"
    await running.answer(reply(request_id="old"))
    assert (await held).id == "old"
    assert (await management.workers())["w"].address == new.address
    await within(running.connection.ended.wait(), 3)


async def test_unregister_model_removes_what_one_worker_registered_under_name_and_version(
    instance: Instance, management: Management
) -> None:
    worker = await instance.worker("m", "1", worker_id="w", capability={"type": "a"})
    await management.register(worker, "m", "1", capability={"type": "b"})
    await management.register(worker, "m", "2")
    await management.register(worker, "n", "1")
    await instance.worker("m", "1", worker_id="replica")
    answer = await within(
        management.UnregisterModel(pb.UnregisterModelRequest(worker_id="w", model_name="m", model_version="1"))
    )
    assert answer.success
    workers = await management.workers()
    left = {(w, r.model_name, r.model_version) for w in workers for r in workers[w].registrations}
    assert left == {("w", "m", "2"), ("w", "n", "1"), ("replica", "m", "1")}


async def test_a_worker_that_unregisters_its_last_model_is_gone(
    instance: Instance, management: Management, client: Client
) -> None:
    worker = await instance.worker("m", answer=lambda _: b"")
    await client.infer(request("m"))
    await within(management.UnregisterModel(pb.UnregisterModelRequest(worker_id=worker.worker_id, model_name="m")))
    assert await management.workers() == {}
    assert (await client.refused(request("m"))).code is Code.NOT_FOUND
    await within(worker.connections[0].ended.wait())


@pytest.mark.parametrize(
    "fields",
    [
        {"worker_id": "stranger", "model_name": "m"},
        {"worker_id": "w", "model_name": "n"},
        {"worker_id": "w", "model_name": "m", "model_version": "2"},
    ],
)
async def test_unregistering_what_is_not_there_changes_nothing(
    instance: Instance, management: Management, fields: dict[str, str]
) -> None:
    await instance.worker("m", worker_id="w")
    answer = await within(management.UnregisterModel(pb.UnregisterModelRequest(**fields)))
    assert not answer.success
    assert fields["worker_id"] in answer.message
    assert set(await management.workers()) == {"w"}


async def test_unregister_worker_removes_all_that_it_registered_and_nothing_else(
    instance: Instance, management: Management, client: Client
) -> None:
    worker = await instance.worker("m", worker_id="w")
    await management.register(worker, "n")
    await instance.worker("m", worker_id="replica", answer=lambda _: reply(request_id="replica"))
    await instance.unregister("w")
    assert set(await management.workers()) == {"replica"}
    assert (await client.infer(request("m"))).id == "replica"
    assert (await client.refused(request("n"))).code is Code.NOT_FOUND


async def test_unregister_worker_of_an_unknown_one_says_so(management: Management) -> None:
    answer = await within(management.UnregisterWorker(pb.UnregisterWorkerRequest(worker_id="stranger")))
    assert not answer.success
    assert "stranger" in answer.message


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.UnregisterWorker(pb.UnregisterWorkerRequest()),
        lambda m: m.UnregisterModel(pb.UnregisterModelRequest(model_name="m")),
    ],
)
async def test_taking_leave_without_a_worker_id_is_invalid(management: Management, call: Any) -> None:
    error = await failure(call(management))
    assert error.code is Code.INVALID_ARGUMENT
    assert "worker_id" in error.message


async def test_unregister_worker_lets_exchanges_end_and_then_closes_their_connections(
    instance: Instance, client: Client
) -> None:
    worker = await instance.worker("m")
    held = client.background(request("m"))
    running = await worker.exchange()
    await instance.unregister(worker.worker_id)
    assert (await client.refused(request("m"))).code is Code.NOT_FOUND
    await running.answer(reply(request_id="done"))
    assert (await held).id == "done"
    await within(running.connection.ended.wait(), 3)


async def test_list_workers_tells_exchanges_and_connections(
    instance: Instance, management: Management, client: Client
) -> None:
    worker = await instance.worker("m")
    held = [client.background(request("m")) for _ in range(2)]
    exchanges = [await worker.exchange() for _ in held]
    listed = (await management.workers())[worker.worker_id]
    assert (listed.in_flight, listed.connections) == (2, 2)
    for exchange in exchanges:
        await exchange.answer()
    for call in held:
        await call
    listed = (await management.workers())[worker.worker_id]
    assert (listed.in_flight, listed.connections) == (0, 2)


async def test_at_most_max_workers_register(start_instance: StartInstance) -> None:
    instance = await start_instance(max_workers=1)
    worker = await instance.worker("m", worker_id="w")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await instance.worker("m", worker_id="one-too-many")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1 workers" in (caught.value.details() or "")
    await instance.management.register(worker, "n")
    assert set(await instance.management.workers()) == {"w"}
    await instance.unregister("w")
    await instance.worker("m", worker_id="another")


async def test_at_most_max_registrations_are_held(start_instance: StartInstance) -> None:
    instance = await start_instance(max_registrations=2)
    worker = await instance.worker("a", worker_id="w")
    await instance.management.register(worker, "b")
    for other in (worker, instance.new_worker("other")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await instance.management.register(other, "c")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 registrations" in (caught.value.details() or "")
    await instance.management.register(worker, "b", priority=1)  # replaces
    assert set(await instance.management.workers()) == {"w"}
