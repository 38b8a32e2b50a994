"""Start and stop: calls under way have their grace, watchers do not hold it up, ports are one agent's alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from anyserve._proto.grpc_predict_v2_pb2 import ServerReadyRequest
from anyserve.agent import PortInUse
from anyserve.errors import Code
from support.client import Client, failure
from support.instances import AgentUnderTest, Instance, StartInstance
from support.waiting import eventually, within
from support.wire import raw_bytes, reply, request, stream_reply

LONG = 60.0  # a grace that no test waits for


def port_is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def is_ready(client: Client) -> bool:
    """What ServerReady answers; an agent that takes no calls any more is not ready either."""
    try:
        return bool((await within(client.ServerReady(ServerReadyRequest()))).ready)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


async def drain(instance: Instance, grace: float = LONG) -> asyncio.Task[None]:
    """Starts to stop the instance; returns once it drains."""
    stopping = asyncio.ensure_future(instance.stop(grace))
    probe = instance.new_client()

    async def draining() -> bool:
        return not await is_ready(probe)

    await eventually(draining, "the drain")
    return stopping


async def test_ports_are_free_ones_and_differ(instance: Instance) -> None:
    assert 0 < instance.agent.port != instance.agent.management_port > 0


def named(name: str, _request: bytes) -> bytes:
    return raw_bytes(reply(request_id=name))


async def test_several_agents_run_in_one_process(start_instance: StartInstance) -> None:
    instances = [await start_instance() for _ in range(3)]
    for number, instance in enumerate(instances):
        await instance.worker("m", answer=partial(named, str(number)))
    assert [(await instance.client.infer(request("m"))).id for instance in instances] == ["0", "1", "2"]


@pytest.mark.parametrize("which", ["port", "management_port"])
async def test_a_port_in_use_is_said_by_its_number(
    instance: Instance, make_agent: Callable[..., AgentUnderTest], which: str
) -> None:
    taken = getattr(instance.agent, which)
    with pytest.raises(PortInUse, match=str(taken)):
        await make_agent(**{which: taken}).start()
    await instance.worker("m", answer=lambda _: b"")
    await instance.client.infer(request("m"))


async def test_a_port_that_something_else_listens_on_is_in_use(make_agent: Callable[..., AgentUnderTest]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(PortInUse):
        await make_agent(port=server.getsockname()[1]).start()


async def test_an_agent_that_could_not_start_leaves_no_port_open(
    instance: Instance, make_agent: Callable[..., AgentUnderTest]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    agent = make_agent(port=free, management_port=instance.agent.management_port)
    with pytest.raises(PortInUse):
        await agent.start()
    assert not port_is_open(free)


async def test_a_port_may_be_used_again_after_stop(instance: Instance, start_instance: StartInstance) -> None:
    await instance.stop()
    again = await start_instance(port=instance.agent.port, management_port=instance.agent.management_port)
    await again.worker("m", answer=lambda _: b"")
    await again.client.infer(request("m"))


async def test_stopping_an_idle_agent_takes_no_grace(instance: Instance) -> None:
    await within(instance.stop(grace=LONG))


async def test_a_call_under_way_ends_within_the_grace(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m")
    call = client.background(request("m"))
    exchange = await worker.exchange()
    stopping = await drain(instance)
    await exchange.answer(reply(request_id="done"))
    assert (await call).id == "done"
    await within(stopping)
    await exchange.cancelled()  # its connection is closed with the agent


async def test_a_request_that_waits_ends_within_the_grace(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", max_concurrency=1)
    calls = [client.background(request("m")) for _ in range(2)]
    exchange = await worker.exchange()
    await eventually(lambda: instance.waiting == 1, "a request in the queue")
    stopping = await drain(instance)
    await exchange.answer(reply(request_id="done"))
    await (await worker.exchange()).answer(reply(request_id="done"))
    assert [(await call).id for call in calls] == ["done"] * 2
    await within(stopping)


async def test_a_call_that_outlasts_the_grace_is_cut_off(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m")
    call = client.start(request("m"))
    exchange = await worker.exchange()
    stopping = asyncio.ensure_future(instance.stop(grace=0.1))
    assert (await failure(call)).code in (Code.UNAVAILABLE, Code.CANCELLED)
    await exchange.cancelled()
    await within(stopping)


async def status(call: Awaitable[object]) -> grpc.StatusCode:
    """How a call fails; the message may be the client's own, which names addresses."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await within(call)
    return caught.value.code()


async def test_a_draining_agent_takes_no_new_calls(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m")
    call = client.background(request("m"))
    exchange = await worker.exchange()
    stopping = await drain(instance)
    for other in (client, instance.new_client()):
        assert await status(other.start(request("m"))) is grpc.StatusCode.UNAVAILABLE
        assert await status(other.stream().call.read()) is grpc.StatusCode.UNAVAILABLE
        assert not await is_ready(other)
    await exchange.answer()
    await call
    await within(stopping)
    assert len(worker.requests) == 1


async def test_idle_streams_end_at_once(instance: Instance, client: Client) -> None:
    await instance.worker("m", answer=lambda _: b"")
    stream = client.stream()
    await stream.send(request("m"))
    await stream.receive()
    stopping = asyncio.ensure_future(instance.stop(grace=LONG))
    error = await stream.failed()
    assert error.code is Code.UNAVAILABLE
    assert "drain" in error.message
    await within(stopping)


async def test_a_stream_with_requests_under_way_ends_after_them(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", stream=True)
    stream = client.stream()
    await stream.send(request("m", request_id="7"))
    exchange = await worker.exchange()
    stopping = await drain(instance)
    for _ in range(3):
        await exchange.send(stream_reply())
        assert (await stream.receive()).infer_response.id == "7"
    await exchange.end()
    assert (await stream.failed()).code is Code.UNAVAILABLE
    await within(stopping)


async def test_a_stream_that_its_client_has_ended_ends_well_while_draining(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", stream=True)
    stream = client.stream()
    await stream.send(request("m"))
    await stream.done_sending()
    exchange = await worker.exchange()
    assert await is_ready(client)  # on the same connection: what was sent before it has arrived
    stopping = await drain(instance)
    await exchange.send(stream_reply())
    await exchange.end()
    await stream.receive()
    assert await within(stream.call.read()) is grpc.aio.EOF
    assert await within(stream.call.code()) is grpc.StatusCode.OK
    await within(stopping)


async def test_a_stream_that_its_client_ends_while_it_drains_ends_well(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", stream=True)
    stream = client.stream()
    await stream.send(request("m"))
    exchange = await worker.exchange()
    stopping = await drain(instance)
    await stream.done_sending()
    assert not await is_ready(client)  # on the same connection: what was sent before it has arrived
    await exchange.send(stream_reply())
    await exchange.end()
    await stream.receive()
    assert await within(stream.call.read()) is grpc.aio.EOF
    assert await within(stream.call.code()) is grpc.StatusCode.OK
    await within(stopping)


async def test_a_request_that_comes_while_a_stream_drains_is_not_taken(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", stream=True)
    stream = client.stream()
    await stream.send(request("m", request_id="1"))
    exchange = await worker.exchange()
    stopping = await drain(instance)
    await stream.send(request("m", request_id="2"))
    await stream.done_sending()
    assert not await is_ready(client)
    await exchange.end()
    assert (await stream.failed()).code is Code.UNAVAILABLE
    await within(stopping)
    assert len(worker.requests) == 1


async def test_event_watchers_do_not_hold_up_the_stop(instance: Instance) -> None:
    await instance.worker("m")
    watch = instance.management.watch(include_existing=True)
    await within(watch.read())
    await within(instance.stop(grace=LONG))


async def test_health_watchers_do_not_hold_up_the_stop(instance: Instance, client: Client) -> None:
    watch = client.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest())
    await within(watch.read())
    await within(instance.stop(grace=LONG))


@pytest.mark.parametrize("package", ["v1", "v1alpha"])
async def test_reflection_streams_do_not_hold_up_the_stop(instance: Instance, client: Client, package: str) -> None:
    call: Any = client.channel.stream_stream(
        f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
    )()
    await within(call.write(reflection_pb2.ServerReflectionRequest(list_services="")))
    await within(call.read())
    await within(instance.stop(grace=LONG))


async def test_a_stopped_agent_has_closed_its_ports_and_its_connections(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m", answer=lambda _: b"")
    await client.infer(request("m"))
    await instance.stop()
    assert not port_is_open(instance.agent.port)
    assert not port_is_open(instance.agent.management_port)
    await within(worker.connections[0].ended.wait())


async def test_workers_may_take_their_leave_while_the_agent_drains(instance: Instance, client: Client) -> None:
    worker = await instance.worker("m")
    call = client.background(request("m"))
    exchange = await worker.exchange()
    stopping = await drain(instance)
    await instance.unregister(worker.worker_id)
    await exchange.answer(reply(request_id="done"))
    assert (await call).id == "done"
    await within(stopping)
