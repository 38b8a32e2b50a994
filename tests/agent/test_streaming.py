"""ModelStreamInfer that goes well: order, interleaving, final responses, limits, kinds of clients and workers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc.aio
import pytest

from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest, ModelStreamInferResponse
from support.client import Client
from support.instances import Instance, StartInstance
from support.waiting import eventually, settled, within
from support.wire import (
    capability_text,
    length_delimited,
    parameters_of,
    raw_bytes,
    reply,
    request,
    stream_reply,
)

FINAL, NOT_FINAL = {"triton_final_response": True}, {"triton_final_response": False}
Marks = list[dict[str, Any]]


async def test_the_responses_of_a_request_keep_their_order(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(request("chat", request_id="7"))
    exchange = await worker.exchange()
    for number in range(100):
        await exchange.send(stream_reply(raw=str(number).encode()))
    await exchange.end()
    replies = await stream.rest()
    assert [r.infer_response.raw_output_contents[0] for r in replies] == [str(n).encode() for n in range(100)]
    assert {r.infer_response.id for r in replies} == {"7"}
    assert {r.error_message for r in replies} == {""}


async def test_each_response_arrives_before_the_next_is_made(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(request("chat"))
    exchange = await worker.exchange()
    for number in range(3):
        await exchange.send(stream_reply(request_id=str(number)))
        assert (await stream.receive()).infer_response.id == str(number)
    await exchange.end()
    assert await stream.rest() == []


async def test_a_worker_may_end_without_any_response(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(request("chat"))
    await (await worker.exchange()).end()
    assert await stream.rest() == []


async def test_a_stream_without_requests_ends_well(client: Client) -> None:
    assert await client.stream().rest() == []


async def test_two_requests_run_at_once_and_their_responses_interleave(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    for request_id in "ab":
        await stream.send(request("chat", request_id=request_id))
    exchanges = [await worker.exchange() for _ in range(2)]
    order = []
    for turn in (0, 1, 1, 0, 1, 0):
        await exchanges[turn].send(stream_reply())
        order.append((await stream.receive()).infer_response.id)
    assert order == ["a", "b", "b", "a", "b", "a"]
    for exchange in exchanges:
        await exchange.end()
    assert await stream.rest() == []


async def test_a_later_request_does_not_wait_for_an_earlier_one(instance: Instance, client: Client) -> None:
    slow = await instance.worker("slow", stream=True)
    await instance.worker("quick", answer=lambda _: reply())
    stream = client.stream()
    await stream.send(request("slow", request_id="slow"))
    exchange = await slow.exchange()
    await stream.send(request("quick", request_id="quick"))
    assert (await stream.receive()).infer_response.id == "quick"
    await exchange.end()
    assert await stream.rest() == []


async def test_requests_of_one_stream_go_to_different_models(instance: Instance, client: Client) -> None:
    for name in "abc":
        await instance.worker(name, answer=lambda _: b"")
    stream = client.stream()
    for name in "cab":
        await stream.send(request(name))
    assert sorted(r.infer_response.model_name for r in await stream.rest()) == ["a", "b", "c"]


async def test_a_query_holds_for_every_request_of_its_stream(instance: Instance, client: Client) -> None:
    await instance.worker("a", capability={"type": "chat"}, answer=lambda _: reply("asked"))
    await instance.worker("b", answer=lambda _: reply("named"))
    stream = client.stream(query={"type": "chat"})
    for name in ("", "b"):
        await stream.send(request(name))
    assert [r.infer_response.model_name for r in await stream.rest()] == ["asked", "asked"]


async def test_a_streaming_capability_comes_before_a_worse_ranked_unary_one(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True, priority=1)
    unary = await instance.worker("chat", answer=lambda _: b"")
    stream = client.stream()
    await stream.send(request("chat"))
    await (await worker.exchange()).end()
    assert await stream.rest() == []
    assert unary.connections == []


async def test_name_version_and_id_are_filled_only_where_the_worker_left_them_empty(
    instance: Instance, client: Client
) -> None:
    worker = await instance.worker("chat", "2", stream=True)
    stream = client.stream()
    await stream.send(request("chat", request_id="7"))
    exchange = await worker.exchange()
    for message in (reply("mine"), reply(version="9"), reply(request_id="other"), reply(raw=b"x")):
        await exchange.send(ModelStreamInferResponse(infer_response=message))
    await exchange.end()
    responses = [r.infer_response for r in await stream.rest()]
    assert [(r.model_name, r.model_version, r.id) for r in responses] == [
        ("mine", "2", "7"),
        ("chat", "9", "7"),
        ("chat", "2", "other"),
        ("chat", "2", "7"),
    ]


async def test_unknown_fields_of_streamed_responses_survive(instance: Instance, client: Client) -> None:
    inner = reply("m", version="1", request_id="7").SerializeToString() + length_delimited(1000, b"inside")
    frame = length_delimited(2, inner) + length_delimited(2000, b"outside")
    worker = await instance.worker("m", "1", stream=True)
    stream = client.stream()
    await stream.send(request("m", request_id="7"))
    exchange = await worker.exchange()
    await exchange.send(frame)
    assert await within(stream.call.read()) == frame
    await exchange.end()


async def test_unknown_fields_survive_where_a_streamed_response_is_filled(instance: Instance, client: Client) -> None:
    inside, outside = length_delimited(1000, b"inside"), length_delimited(2000, b"outside")
    worker = await instance.worker("m", "1", stream=True)
    stream = client.stream()
    await stream.send(request("m", request_id="7", triton_enable_empty_final_response=True))
    exchange = await worker.exchange()
    await exchange.send(outside + length_delimited(2, inside + raw_bytes(reply(raw=b"x"))) + outside)
    got = await within(stream.call.read())
    assert (got.count(inside), got.count(outside)) == (1, 2)
    response = ModelStreamInferResponse.FromString(got).infer_response
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "7")
    assert response.raw_output_contents == [b"x"]
    await exchange.end()


async def test_requests_on_a_stream_are_forwarded_like_others(instance: Instance, client: Client) -> None:
    plain = await instance.worker("plain", stream=True)
    annotated = await instance.worker("annotated", stream=True, capability={"type": "x"})
    stream = client.stream(metadata=(("traceparent", "00-1-2-01"),))
    payloads = {}
    for worker, name in ((plain, "plain"), (annotated, "annotated")):
        payloads[name] = request(name, raw=b"abc").SerializeToString() + length_delimited(1000, b"tomorrow")
        await stream.send(payloads[name])
        await (await worker.exchange()).end()
    assert await stream.rest() == []
    assert plain.requests == [payloads["plain"]]
    assert annotated.requests[0].startswith(payloads["annotated"])
    assert parameters_of(ModelInferRequest.FromString(annotated.requests[0])) == {
        "anyserve_capability": capability_text({"type": "x"}),
        "traceparent": "00-1-2-01",
    }


async def test_the_connection_is_kept_after_a_stream_has_ended(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True)
    for _ in range(3):
        stream = client.stream()
        await stream.send(request("chat"))
        exchange = await worker.exchange()
        await exchange.send(stream_reply())
        await exchange.end()
        assert len(await stream.rest()) == 1
    assert len(worker.connections) == 1


@pytest.mark.parametrize(
    ("asked", "sent", "expected"),
    [
        pytest.param(True, [{}, {}], [{}, {}, FINAL], id="worker-marks-none"),
        pytest.param(True, [{}, FINAL], [{}, FINAL], id="worker-marks-the-last"),
        pytest.param(True, [], [FINAL], id="worker-sends-nothing"),
        pytest.param(True, [NOT_FINAL], [NOT_FINAL, FINAL], id="marked-false"),
        pytest.param(False, [{}, {}], [{}, {}], id="not-asked"),
        pytest.param(False, [{}, FINAL], [{}, FINAL], id="not-asked-and-marked-all-the-same"),
        pytest.param(False, [], [], id="not-asked-and-nothing-sent"),
        pytest.param(None, [{}], [{}], id="asked-with-false"),
        pytest.param("yes", [{}], [{}], id="asked-with-a-text"),
    ],
)
async def test_the_final_response_of_a_streaming_capability(
    instance: Instance,
    client: Client,
    *,
    asked: bool | str | None,
    sent: Marks,
    expected: Marks,
) -> None:
    worker = await instance.worker("chat", "1", stream=True)
    stream = client.stream()
    parameters: dict[str, Any] = {} if asked is False else {"triton_enable_empty_final_response": asked or False}
    await stream.send(request("chat", request_id="7", **parameters))
    exchange = await worker.exchange()
    for marks in sent:
        await exchange.send(stream_reply(raw=b"x", **marks))
    await exchange.end()
    replies = [r.infer_response for r in await stream.rest()]
    if asked is True:  # one that is not the last may say so
        assert [parameters_of(r).get("triton_final_response", False) for r in replies] == [e == FINAL for e in expected]
    else:
        assert [parameters_of(r) for r in replies] == expected
    assert {(r.model_name, r.model_version, r.id) for r in replies} <= {("chat", "1", "7")}
    if len(expected) > len(sent):
        assert not replies[-1].outputs


@pytest.mark.parametrize("asked", [True, False])
async def test_a_unary_capability_answers_a_stream_with_one_response(
    instance: Instance, client: Client, asked: bool
) -> None:
    worker = await instance.worker("echo", "1", answer=lambda _: reply(raw=b"x"))
    stream = client.stream()
    for request_id in ("1", "2"):
        parameters: dict[str, Any] = {"triton_enable_empty_final_response": True} if asked else {}
        await stream.send(request("echo", request_id=request_id, **parameters))
        (got,) = [(await stream.receive()).infer_response]
        assert (got.model_name, got.model_version, got.id) == ("echo", "1", request_id)
        assert got.raw_output_contents == [b"x"]
        assert parameters_of(got) == (FINAL if asked else {})
    assert await stream.rest() == []
    assert len(worker.connections) == 1


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_client_generated_from_a_server_streaming_definition_is_served(
    instance: Instance, client: Client, streaming: bool
) -> None:
    worker = await instance.worker("chat", stream=streaming)
    server_streaming: Any = client.channel.unary_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    call = server_streaming(request("chat", request_id="7").SerializeToString())
    exchange = await worker.exchange()
    if streaming:
        await exchange.send(stream_reply(raw=b"x"))
        await exchange.end()
    else:
        await exchange.answer(reply(raw=b"x"))
    got = ModelStreamInferResponse.FromString(await within(call.read()))
    assert got.infer_response.id == "7"
    assert got.infer_response.raw_output_contents == [b"x"]
    assert await within(call.read()) is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_16_mib_are_streamed_back(instance: Instance, client: Client) -> None:
    tensor = bytes(range(256)) * (16 << 12)
    worker = await instance.worker("chat", stream=True)
    stream = client.stream()
    await stream.send(request("chat", raw=tensor))
    exchange = await worker.exchange()
    sending = asyncio.ensure_future(exchange.send(stream_reply(raw=tensor)))
    assert (await stream.receive()).infer_response.raw_output_contents == [tensor]
    await sending
    await exchange.end()
    assert await stream.rest() == []


async def test_at_most_max_stream_requests_of_a_stream_run_at_once(start_instance: StartInstance) -> None:
    instance = await start_instance(max_stream_requests=2)
    worker = await instance.worker("chat", stream=True)
    stream = instance.client.stream()
    for number in range(4):
        await stream.send(request("chat", request_id=str(number)))
    exchanges = [await worker.exchange() for _ in range(2)]
    assert await settled(lambda: len(worker.requests) + instance.waiting) == 2
    other = instance.client.stream()  # the limit is each stream's own
    await other.send(request("chat", request_id="other"))
    await (await worker.exchange()).end()
    assert await other.rest() == []
    await exchanges[0].end()
    exchanges.append(await worker.exchange())
    for exchange in exchanges[1:]:
        await exchange.end()
    await (await worker.exchange()).end()
    assert await stream.rest() == []
    assert worker.requests[-1] == request("chat", request_id="3").SerializeToString()


def waiting_is(instance: Instance, count: int) -> bool:
    return instance.waiting == count


async def test_requests_of_a_stream_wait_for_a_place_at_the_worker(instance: Instance, client: Client) -> None:
    worker = await instance.worker("chat", stream=True, max_concurrency=1)
    stream = client.stream()
    for number in range(3):
        await stream.send(request("chat", request_id=str(number)))
    for number in range(3):
        exchange = await worker.exchange()
        await eventually(partial(waiting_is, instance, 2 - number), "the others in the queue")
        await exchange.send(stream_reply())
        assert (await stream.receive()).infer_response.id == str(number)
        await exchange.end()
    assert await stream.rest() == []
    assert len(worker.connections) == 1
