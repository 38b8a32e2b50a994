"""What goes to a worker and what comes back: bytes as they are, and the few that the agent adds."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest
from support.client import Client
from support.instances import Instance, StartInstance
from support.wire import capability_text, frame, length_delimited, parameters_of, raw_bytes, reply, request

UNKNOWN_FIELDS = length_delimited(1000, b"field of tomorrow") + bytes((0xC0, 0x3E, 7))  # and 1000 as a varint
EVERYTHING = request("echo", version="1", request_id="7", raw=bytes(range(256)), flag=True, n=-3, s="ü", d=0.5)


async def test_a_worker_without_a_capability_map_gets_exactly_the_clients_bytes(
    instance: Instance, client: Client
) -> None:
    worker = await instance.worker("echo", "1", answer=lambda _: b"")
    payload = EVERYTHING.SerializeToString() + UNKNOWN_FIELDS
    await client.infer(payload, timeout=10, metadata=(("traceparent", "00-1-2-01"),))
    assert worker.requests == [payload]
    assert bytes(worker.connections[0].received) == frame(payload)


async def test_a_worker_with_a_capability_map_gets_the_clients_bytes_and_parameters_behind_them(
    instance: Instance, client: Client
) -> None:
    capability = {"type": "ümlaut, a=b", "model": "m/1"}
    worker = await instance.worker("echo", "1", capability=capability, answer=lambda _: b"")
    payload = EVERYTHING.SerializeToString() + UNKNOWN_FIELDS
    await client.infer(payload, timeout=10, metadata=(("traceparent", "00-1-2-01"),))
    (got,) = worker.requests
    assert got.startswith(payload)
    parameters = parameters_of(ModelInferRequest.FromString(got))
    left = parameters.pop("anyserve_timeout_ms")
    assert isinstance(left, int)
    assert 9_000 < left < 10_500  # gRPC itself rounds timeouts up
    assert parameters == parameters_of(EVERYTHING) | {
        "anyserve_capability": capability_text(capability),
        "traceparent": "00-1-2-01",
    }


async def test_what_is_appended_is_parameters_and_nothing_else(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo", "1", capability={"type": "echo"}, answer=lambda _: b"")
    await client.infer(EVERYTHING)
    got = ModelInferRequest.FromString(worker.requests[0])
    assert parameters_of(got) == parameters_of(EVERYTHING) | {"anyserve_capability": "type=echo"}
    del got.parameters["anyserve_capability"]
    assert got == EVERYTHING


async def test_the_chosen_registration_is_named_when_a_worker_has_several(instance: Instance, client: Client) -> None:
    worker = await instance.worker("a", capability={"type": "a"}, answer=lambda _: b"")
    await instance.management.register(worker, "b", capability={"type": "b"})
    for name in ("a", "b"):
        await client.infer(request(name))
    chosen = [parameters_of(ModelInferRequest.FromString(got))["anyserve_capability"] for got in worker.requests]
    assert chosen == ["type=a", "type=b"]


async def test_replies_keep_their_bytes(instance: Instance, client: Client) -> None:
    answer = reply("echo", version="1", request_id="7", raw=bytes(1000), note="x").SerializeToString() + UNKNOWN_FIELDS
    await instance.worker("echo", "1", answer=lambda _: answer)
    assert await client.infer_bytes(EVERYTHING) == answer


async def test_compressed_requests_reach_the_worker_as_they_were(instance: Instance, client: Client) -> None:
    worker = await instance.worker("echo", "1", answer=lambda _: b"")
    call: Any = client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    await call(EVERYTHING.SerializeToString(), compression=grpc.Compression.Gzip)
    assert worker.requests == [EVERYTHING.SerializeToString()]


@pytest.mark.parametrize(
    ("answer", "filled"),
    [
        pytest.param(reply(), ("asked", "2", "id-1"), id="all-empty"),
        pytest.param(reply("mine"), ("mine", "2", "id-1"), id="name-set"),
        pytest.param(reply(version="9"), ("asked", "9", "id-1"), id="version-set"),
        pytest.param(reply(request_id="other"), ("asked", "2", "other"), id="id-set"),
        pytest.param(reply("mine", version="9", request_id="other"), ("mine", "9", "other"), id="all-set"),
    ],
)
async def test_name_version_and_id_are_filled_only_where_the_worker_left_them_empty(
    instance: Instance, client: Client, answer: bytes, filled: tuple[str, str, str]
) -> None:
    await instance.worker("asked", "2", answer=lambda _: answer)
    got = await client.infer(request("asked", request_id="id-1"))
    assert (got.model_name, got.model_version, got.id) == filled


async def test_a_reply_to_a_request_without_an_id_has_none(instance: Instance, client: Client) -> None:
    await instance.worker("echo", answer=lambda _: b"")
    got = await client.infer(request("echo"))
    assert (got.model_name, got.model_version, got.id) == ("echo", "", "")


async def test_a_request_by_capability_is_answered_with_the_registered_name(instance: Instance, client: Client) -> None:
    await instance.worker("chat-model", "3", capability={"type": "chat"}, answer=lambda _: b"")
    got = await client.infer(request(request_id="1"), query={"type": "chat"})
    assert (got.model_name, got.model_version, got.id) == ("chat-model", "3", "1")


async def test_a_registration_without_a_name_goes_by_the_model_and_version_of_its_capability(
    instance: Instance, client: Client
) -> None:
    await instance.worker(capability={"type": "chat", "model": "llama", "version": "3"}, answer=lambda _: b"")
    for message, query in ((request("llama"), {}), (request(), {"type": "chat"})):
        got = await client.infer(message, query=query)
        assert (got.model_name, got.model_version) == ("llama", "3")


@pytest.mark.parametrize("annotated", [False, True])
async def test_16_mib_go_both_ways(instance: Instance, client: Client, annotated: bool) -> None:
    tensor = bytes(range(256)) * (16 << 12)

    def answer(payload: bytes) -> bytes:
        got = ModelInferRequest.FromString(payload)
        return raw_bytes(reply(raw=got.raw_input_contents[0]))

    worker = await instance.worker("echo", capability={"type": "echo"} if annotated else {}, answer=answer)
    got = await client.infer(request("echo", raw=tensor))
    assert got.raw_output_contents == [tensor]
    assert worker.requests[0].startswith(request("echo", raw=tensor).SerializeToString())


@pytest.mark.parametrize("spare", [0, 1000])
async def test_messages_up_to_the_limit_pass_in_both_directions(start_instance: StartInstance, spare: int) -> None:
    limit = 1 << 16
    instance = await start_instance(max_message_bytes=limit)
    empty = len(request("echo", raw=b"x" * 60_000).SerializeToString()) - 60_000
    payload = request("echo", raw=bytes(limit - empty - spare)).SerializeToString()
    assert len(payload) == limit - spare
    worker = await instance.worker("echo", answer=lambda got: got)
    assert len(await instance.client.infer_bytes(payload)) >= limit - spare
    assert worker.requests == [payload]
