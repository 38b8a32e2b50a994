"""The responses of a stream: their order, their bytes, what the agent fills in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_streaming.steps import error_code, streaming, under_way
from anyserve_conformance.requirement import requirement

LOOK_AT = "what the agent makes of a worker's reply frame before it sends it"
ORDER = "the way of reply frames from a worker to the stream"


@requirement("stream.order.within", look_at=ORDER)
def test_in_the_order_of_the_frames(agent: Agent) -> None:
    """The responses to one request come in the order of the worker's frames, with other requests in between."""
    name = agent.name()
    worker = streaming(agent, name)
    stream = agent.stream()
    for request_id in ("a", "b"):
        stream.send(wire.request(name, request_id=request_id))
    exchanges = {exchange.request.id: exchange for exchange in (worker.exchange(), worker.exchange())}
    for i in range(20):
        for request_id in ("a", "b"):
            exchanges[request_id].send(wire.stream_reply(request_id=request_id, i=i))
    for exchange in exchanges.values():
        exchange.end()
    told: dict[str, list[object]] = {"a": [], "b": []}
    for reply in stream.end().replies():
        told[reply.response.id].append(wire.parameters_of(reply.response)["i"])
    assert told == {"a": list(range(20)), "b": list(range(20))}
    stream.answer().expect_ok()


@requirement("stream.order.within", look_at=ORDER)
@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=12), st.integers(1, 997))
def test_however_the_frames_are_cut(agent: Agent, sizes: list[int], piece: int) -> None:
    """Replies of any sizes come whole and in order, in whatever pieces their bytes arrive."""
    name = agent.name(f"cut-{len(agent.workers)}")
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    replies = [wire.stream_reply(raw=bytes([i]) * size, i=i) for i, size in enumerate(sizes)]
    data = b"".join(map(wire.frame, replies)) + wire.frame()
    for start in range(0, len(data), piece):
        exchange.connection.send(data[start : start + piece])
    exchange.over.set()
    told = [list(reply.response.raw_output_contents) for reply in stream.end().replies()]
    assert told == [[bytes([i]) * size] if size else [] for i, size in enumerate(sizes)]
    stream.answer().expect_ok()
    agent.management.unregister(worker.worker_id)


@requirement("stream.order.prompt", look_at=ORDER)
def test_at_once(agent: Agent) -> None:
    """Each response is sent when its frame has come, without waiting for the next one."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    for i in range(3):
        exchange.send(wire.stream_reply(i=i))
        assert wire.parameters_of(stream.receive().response)["i"] == i
    exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.order.between", look_at=ORDER)
def test_a_slow_request_holds_up_no_other(agent: Agent) -> None:
    """Responses to a later request may come before those to an earlier one, and the client gets them."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, first = under_way(agent, worker, name, request_id="1")
    stream.send(wire.request(name, request_id="2"))
    second = worker.exchange()
    second.send(wire.stream_reply(request_id="2"))
    second.end()
    assert stream.receive().response.id == "2"
    first.end()
    stream.end().answer().expect_ok()


@requirement("stream.reply.verbatim")
@pytest.mark.parametrize("error", ["", "odd"], ids=["response", "error"])
def test_bytes_as_they_are(agent: Agent, error: str) -> None:
    """A reply to which nothing is to be added is sent byte for byte, with unknown fields and in its order."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    inner = wire.field(3, "the id") + wire.field(77, b"unknown") + wire.field(1, "the name") + wire.field(2, "v")
    payload = wire.field(99, b"unknown") + wire.field(2, inner) + (wire.field(1, error) if error else b"")
    exchange.send(payload)
    assert stream.receive().payload == payload, "the response has other bytes than the worker's reply"
    exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.reply.extend")
def test_one_field_2_at_the_end(agent: Agent) -> None:
    """Where something is filled in, the other fields come first and one `infer_response` behind them."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    inner = wire.field(3, "7")
    exchange.send(wire.field(1, "no") + wire.field(2, inner) + wire.key(3, 0) + b"\x01")
    wanted = wire.field(1, "no") + wire.key(3, 0) + b"\x01" + wire.field(2, inner + wire.field(1, name))
    assert stream.receive().payload == wanted, "the response is put together otherwise"
    exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.reply.extend")
def test_several_infer_responses(agent: Agent) -> None:
    """A reply with several fields 2 becomes one with all of their bytes in one field 2, in their order."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    exchange.send(wire.field(2, wire.field(3, "1")) + wire.field(9, b"x") + wire.field(2, wire.field(2, "v")))
    inner = wire.field(3, "1") + wire.field(2, "v") + wire.field(1, name)
    assert stream.receive().payload == wire.field(9, b"x") + wire.field(2, inner)
    exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.reply.fill")
def test_filled_in(agent: Agent) -> None:
    """Each response gets the name, version and id that the worker has left empty, also one with an error."""
    name = agent.name()
    worker = streaming(agent, name, version="3")
    stream, exchange = under_way(agent, worker, name, request_id="7")
    exchange.send(wire.stream_reply())
    exchange.send(wire.stream_reply(error="half"))
    exchange.send(wire.stream_reply(error="whole", n=1))
    for _ in range(3):
        response = stream.receive().response
        assert (response.model_name, response.model_version, response.id) == (name, "3", "7")
    exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.reply.fill")
def test_what_the_worker_gave_stays(agent: Agent) -> None:
    """Name, version and id that the worker gave are left as they are."""
    name = agent.name()
    worker = streaming(agent, name, version="3")
    stream, exchange = under_way(agent, worker, name, request_id="7")
    given = wire.stream_reply()
    given.infer_response.CopyFrom(wire.reply("own", "9", request_id="mine"))
    exchange.send(given)
    response = stream.receive().response
    assert (response.model_name, response.model_version, response.id) == ("own", "9", "mine")
    exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.reply.none")
def test_no_replies_at_all(agent: Agent) -> None:
    """A request whose exchange ends at once has no response, and the call goes on."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    exchange.end()
    assert not stream.pending(), "a response came, or the call ended"
    stream.send(wire.request(name, request_id="2"))
    second = worker.exchange()
    second.send(wire.stream_reply())
    assert stream.receive().response.id == "2"
    second.end()
    stream.end().answer().expect_ok()


@requirement("stream.reply.malformed")
@pytest.mark.parametrize(
    "payload",
    [b"\xff", wire.field(2, b"\xff"), wire.key(1, 0) + b"\x01", wire.field(1, b"\xff"), wire.field(2, b"x")[:-1]],
    ids=["varint", "inner", "wire-type", "utf-8", "cut"],
)
def test_no_reply_message(agent: Agent, payload: bytes) -> None:
    """A frame that is no ModelStreamInferResponse fails the request with INTERNAL and ends the connection."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name, request_id="7")
    exchange.send(payload)
    reply = stream.receive()
    assert (error_code(reply), reply.response.id) == (13, "7")
    exchange.cancelled()
    exchange.close()
    stream.end().answer().expect_ok()


@requirement("stream.reply.cut-off")
def test_the_worker_dies_between_replies(agent: Agent) -> None:
    """When the connection ends before the empty frame, the request fails with UNAVAILABLE behind its replies."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name, request_id="7")
    exchange.send(wire.stream_reply(i=1))
    exchange.close()
    assert wire.parameters_of(stream.receive().response)["i"] == 1
    reply = stream.receive()
    assert (error_code(reply), reply.response.id) == (14, "7")
    stream.end().answer().expect_ok()
