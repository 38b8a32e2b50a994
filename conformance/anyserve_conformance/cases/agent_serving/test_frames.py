"""Reply frames as they arrive: lengths, limits, and the pieces that they come in."""

from __future__ import annotations

import hypothesis
import pytest
from grpc import StatusCode
from hypothesis import strategies as st

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving import messages
from anyserve_conformance.cases.agent_serving.steps import answer_raw, hold, serve_once
from anyserve_conformance.requirement import requirement

LOOK_AT = "how reply frames are taken out of what the socket yields"

LIMIT = 65_536
SMALL = {"max-message-bytes": LIMIT}


@requirement("frame.length.limit", needs=SMALL, look_at="the check of the length before the payload is read")
@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 24, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_closes_without_waiting(agent: Agent, length: int) -> None:
    """A reply frame with a length above the limit ends the connection before its payload comes."""
    name = agent.name("long")
    worker = agent.worker(name)
    call, exchange = hold(agent, worker, name)
    exchange.connection.send(length.to_bytes(4, "big"), "a length above the limit")
    exchange.cancelled()
    call.answer().expect(StatusCode.INTERNAL)


@requirement("frame.length.limit", needs=SMALL, look_at="the check of the length before the payload is read")
def test_closes_with_the_payload_there(agent: Agent) -> None:
    """A reply frame with a length one above the limit ends the connection also when all of it has come."""
    name = agent.name("long")
    worker = agent.worker(name)
    call, exchange = hold(agent, worker, name)
    reply = messages.of_size(wire.field(1, name), LIMIT + 1)
    exchange.connection.send(wire.frame(reply), "a frame one byte above the limit")
    exchange.cancelled()
    call.answer().expect(StatusCode.INTERNAL)


@requirement("frame.length.limit", needs=SMALL, look_at="the byte order of the length")
def test_length_in_little_endian(agent: Agent) -> None:
    """A worker that writes its lengths in little-endian is found out at its first frame."""
    name = agent.name("little")
    worker = agent.worker(name)
    call, exchange = hold(agent, worker, name)
    reply = wire.reply(name, request_id="1").SerializeToString()
    exchange.connection.send(len(reply).to_bytes(4, "little") + reply, "a frame with its length in little-endian")
    exchange.cancelled()
    call.answer().expect(StatusCode.INTERNAL)


@requirement("frame.length.at-limit", "frame.limit.reply", needs=SMALL)
@pytest.mark.parametrize("short_by", [0, 1])
def test_reply_at_the_limit(agent: Agent, short_by: int) -> None:
    """A reply frame whose length is `--max-message-bytes`, or one below, reaches the client whole."""
    name = agent.name("limit")
    worker = agent.worker(name)
    reply = messages.of_size(wire.field(1, name), LIMIT - short_by)
    answer = serve_once(agent, worker, name, reply)
    assert answer.payload == reply, "the client got other bytes than the worker sent"


@requirement("frame.limit.reply", needs=SMALL, look_at="the limit is that of the frame, not of what the client gets")
def test_filling_in_may_exceed_the_limit(agent: Agent) -> None:
    """A reply frame at the limit is taken also when the agent has to fill in name and id."""
    name = agent.name("limit")
    worker = agent.worker(name)
    reply = messages.of_size(b"", LIMIT)
    call, exchange = hold(agent, worker, wire.request(name, request_id="an id"))
    exchange.answer(reply)
    answer = call.answer().expect_ok()
    assert answer.payload == reply + wire.field(1, name) + wire.field(3, "an id"), "the client got other bytes"


@requirement("frame.limit.reply")
def test_default_limit(agent: Agent) -> None:
    """A reply frame of four megabytes and one byte is taken at the default limit."""
    size = (4 << 20) + 1
    name = agent.name("large")
    worker = agent.worker(name)
    reply = wire.field(1, name) + wire.field(6, bytes(min(size, agent.option("max-message-bytes") // 2)))
    answer = serve_once(agent, worker, name, reply)
    assert answer.payload == reply, "the client got other bytes than the worker sent"


@requirement("frame.length.zero")
def test_empty_frame_is_an_empty_reply(agent: Agent) -> None:
    """An empty frame is the reply without fields of a unary worker, and ends the exchange."""
    name = agent.name("empty")
    worker = agent.worker(name)
    for _ in range(2):
        answer = serve_once(agent, worker, name, b"")
        assert answer.payload == wire.field(1, name), "the client got other bytes than an empty reply with its name"
    assert len(worker.connections) == 1, "the connection was not kept after an empty reply"


@requirement("frame.length.zero", "frame.length.format")
def test_empty_request(agent: Agent) -> None:
    """A request without fields is sent as an empty frame."""
    name = agent.name("empty")
    worker = agent.worker(name, raw=True)
    call = agent.start_infer(b"", query={"type": name})
    connection = worker.connection()
    header = connection.read_exactly(4)
    assert header == bytes(4), f"the frame of an empty request begins with {header.hex(' ')}"
    connection.send_frame(b"")
    call.answer().expect_ok()


@requirement("frame.length.split")
def test_byte_by_byte(agent: Agent) -> None:
    """A reply whose bytes arrive one by one, each read before the next is sent, comes whole."""
    name = agent.name("slow")
    worker = agent.worker(name)
    reply = wire.reply(name, request_id="slow", raw=bytes(range(50))).SerializeToString()
    for _ in range(2):
        call, exchange = hold(agent, worker, name)
        for byte in wire.frame(reply):
            exchange.connection.send(bytes((byte,)))
            exchange.connection.taken()
        exchange.over.set()
        assert call.answer().expect_ok().payload == reply, "the client got other bytes than the worker sent"
    assert len(worker.connections) == 1, "the connection was not kept"


@requirement("frame.length.split")
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, -1])
def test_two_pieces(agent: Agent, at: int) -> None:
    """A reply in two pieces, cut in its length, behind it, or in its payload, comes whole."""
    name = agent.name("cut")
    worker = agent.worker(name)
    data = wire.frame(wire.reply(name, request_id="cut", raw=b"abc"))
    call, exchange = hold(agent, worker, name)
    exchange.connection.send(data[:at])
    exchange.connection.taken()
    agent.patience.while_nothing(lambda: call.done, "the call ended before the reply was complete", for_=0.03)
    exchange.connection.send(data[at:])
    exchange.over.set()
    assert call.answer().expect_ok().payload == data[4:], "the client got other bytes than the worker sent"


@requirement("frame.length.split")
@hypothesis.given(reply=messages.replies, data=st.data())
def test_any_split(agent: Agent, reply: bytes, data: st.DataObject) -> None:
    """Any reply in any pieces comes whole, and the connection serves the next one."""
    name = agent.name("cut")
    worker = agent.workers[0] if agent.workers else agent.worker(name)
    pieces = data.draw(messages.cut(wire.frame(reply)))
    call, exchange = hold(agent, worker, name)
    for piece in pieces:
        exchange.connection.send(piece)
        exchange.connection.taken()
    exchange.over.set()
    answer = call.answer().expect_ok()
    assert answer.payload is not None
    assert answer.payload.startswith(reply), "the client got other bytes than the worker sent"
    assert len(worker.connections) == 1, "the connection was not kept"


@requirement("frame.length.split")
def test_several_frames_at_once(agent: Agent) -> None:
    """Reply frames of a streaming worker that come in one piece, with the end behind them, are all taken."""
    name = agent.name("stream")
    worker = agent.worker(name, stream=True)
    stream = agent.stream().send(wire.request(name))
    exchange = worker.exchange()
    replies = [wire.stream_reply(request_id=str(number), raw=bytes(number)) for number in range(10)]
    exchange.connection.send(b"".join(map(wire.frame, replies)) + wire.frame(), "ten frames and the end")
    exchange.over.set()
    got = [reply.response.id for reply in (stream.receive() for _ in replies)]
    assert got == [str(number) for number in range(10)], f"replies came as {got}"
    stream.end().answer().expect_ok()


@requirement("frame.length.split")
@hypothesis.given(data=st.data())
def test_frames_and_parts_of_frames_at_once(agent: Agent, data: st.DataObject) -> None:
    """Several frames cut at any places, so that pieces hold parts of several of them, are all taken."""
    name = agent.name("stream")
    worker = agent.workers[0] if agent.workers else agent.worker(name, stream=True)
    sizes = data.draw(st.lists(st.integers(0, 300), max_size=5))
    replies = [wire.stream_reply(request_id=str(number), raw=bytes(size)) for number, size in enumerate(sizes)]
    pieces = data.draw(messages.cut(b"".join(map(wire.frame, replies)) + wire.frame()))
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    for piece in pieces:
        exchange.connection.send(piece)
        exchange.connection.taken()
    exchange.over.set()
    got = [(reply.response.id, sum(map(len, reply.response.raw_output_contents))) for reply in stream.replies()]
    assert got == [(str(number), size) for number, size in enumerate(sizes)], f"replies came as {got}"
    stream.answer().expect_ok()
    assert len(worker.connections) == 1, "the connection was not kept"


@requirement("frame.length.format", look_at="the byte order of the length")
@pytest.mark.parametrize("length", [128, 255, 256, 258, 65_793])
def test_length_of_a_reply(agent: Agent, length: int) -> None:
    """The length of a reply is read as four bytes, big-endian."""
    name = agent.name("length")
    worker = agent.worker(name)
    reply = messages.of_size(wire.field(1, name), length)
    answer = answer_raw(agent, worker, name, length.to_bytes(4, "big") + reply).expect_ok()
    assert answer.payload == reply, "the client got other bytes than the worker sent"
    assert proto.ModelInferResponse.FromString(reply).model_name == name
