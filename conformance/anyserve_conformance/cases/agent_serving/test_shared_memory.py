"""Payloads by shared memory, as an agent sends and takes them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.client import Call
from anyserve_conformance.requirement import not_applicable, requirement
from anyserve_conformance.scripted_worker import Connection, ScriptedWorker
from anyserve_conformance.shared_memory import (
    BODY_SEALS,
    ROOM_SEALS,
    SharedRequest,
    encode,
    memory_of,
    read_request,
    seals_of,
    which,
)

LOOK_AT = "how requests and replies go by shared memory"

LARGE = 1 << 20
"""Well above the least size that goes by shared memory."""


def random(size: int = LARGE) -> bytes:
    """Bytes that no other request has."""
    return os.urandom(size)


@dataclass
class Sharing:
    """A worker that takes payloads by shared memory, and its one model."""

    agent: Agent
    name: str
    worker: ScriptedWorker
    requests: list[SharedRequest] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    def take(self, connection: Connection | None = None) -> tuple[Connection, SharedRequest]:
        """The next request, on a connection that has had one, or on a new one."""
        connection = connection or self.worker.connection()
        request = read_request(connection)
        self.requests.append(request)
        return connection, request

    def start(self, raw: bytes = b"") -> Call:
        """A request with so much of a tensor."""
        return self.agent.start_infer(wire.request(self.name, raw=raw))

    def exchange(self, connection: Connection | None, raw: bytes = b"", reply: Any = b"") -> Connection:
        """One good exchange whose reply goes inline."""
        call = self.start(raw)
        connection, _ = self.take(connection)
        connection.send_frame(reply)
        call.answer().expect_ok()
        return connection

    def with_room(self) -> tuple[Call, Connection, SharedRequest]:
        """A request that offers room, as the reply before it was large."""
        connection = self.exchange(None, reply=wire.reply(raw=random()))
        call = self.start()
        _, request = self.take(connection)
        if not request.room_size:
            connection.send_frame()
            call.answer()
            not_applicable("the agent offers no room to a request whose last reply was large")
        return call, connection, request

    def answer_in_room(self, connection: Connection, raw: bytes) -> None:
        """The reply to the next request, in its room."""
        _, request = self.take(connection)
        if not request.room_size:
            not_applicable("the agent offers no room to a request whose last reply was large")
        payload = wire.reply(raw=raw).SerializeToString()
        request.put(payload)
        connection.send(encode(len(payload)))

    def last(self) -> SharedRequest:
        """The last request, which must have a body."""
        if not self.requests[-1].by_reference:
            not_applicable("the agent sends a large request inline")
        return self.requests[-1]


Share = Callable[..., Sharing]


@pytest.fixture
def share(agent: Agent) -> Iterator[Share]:
    """`share(model, **fields)`: a worker that has agreed with the agent."""
    made: list[Sharing] = []

    def start(base: str = "shared", **fields: Any) -> Sharing:
        name = agent.name(base)
        worker = agent.listener(base, raw=True)
        registration = agent.management.registration(worker, name, shared_memory=True, **fields)
        answer = agent.management.call("RegisterModel", registration).message
        assert answer.success, answer.message
        if not answer.shared_memory:
            not_applicable("the agent does not send payloads by shared memory")
        made.append(Sharing(agent, name, worker))
        return made[-1]

    yield start
    for sharing in made:
        for request in sharing.requests:
            request.close()


@requirement("frame.shared.agreed")
def test_not_without_asking(agent: Agent, share: Share) -> None:
    """A worker that did not ask gets large requests in one piece, also while another one takes shared memory."""
    share("other")
    name = agent.name("plain")
    worker = agent.worker(name)
    request = wire.request(name, raw=random()).SerializeToString()
    call = agent.start_infer(request)
    exchange = worker.exchange()
    assert exchange.payload == request, "not the request's bytes in one frame"
    exchange.answer()
    call.answer().expect_ok()


@requirement("frame.shared.agreed")
def test_no_longer(agent: Agent, share: Share) -> None:
    """A worker that registers again without asking gets them in one piece from then on."""
    sharing = share()
    connection = sharing.exchange(None, random())
    agent.management.register(sharing.worker, sharing.name)
    sharing.exchange(connection, random())
    assert not sharing.requests[-1].by_reference, "a frame by reference after the worker took that back"


@requirement("frame.shared.request", "frame.shared.descriptors", "frame.shared.size")
def test_large_request(share: Share) -> None:
    """A large request: numbers and descriptors as the table has them, the client's bytes before the agent's."""
    sharing = share(capability={"type": "shared"})
    raw = random()
    sharing.exchange(None, raw)
    request = sharing.last()
    sent = wire.request(sharing.name, raw=raw).SerializeToString()
    assert request.payload[: len(sent)] == sent, "the payload does not begin with the client's bytes"
    assert b"anyserve_capability" in request.payload[len(sent) :], "what the agent appends does not stand behind them"


@requirement("frame.shared.request")
def test_small_request_beside_its_room(share: Share) -> None:
    """A small request with room for its reply is all inline."""
    sharing = share()
    call, connection, request = sharing.with_room()
    assert request.payload == wire.request(sharing.name).SerializeToString()
    connection.send_frame()
    call.answer().expect_ok()


@requirement("frame.shared.body-seals")
def test_body_seals(share: Share) -> None:
    """A worker can neither write a body nor change its size."""
    sharing = share()
    sharing.exchange(None, random())
    request = sharing.last()
    assert seals_of(request.body) & BODY_SEALS == BODY_SEALS, f"its seals are {seals_of(request.body):#x}"
    with pytest.raises(PermissionError):
        mmap.mmap(request.body, request.body_size)
    with pytest.raises(PermissionError):
        os.ftruncate(request.body, 0)


@requirement("frame.shared.room-seals")
def test_room_seals(share: Share) -> None:
    """A worker can write a room, and cannot change its size."""
    sharing = share()
    call, connection, request = sharing.with_room()
    seals = seals_of(request.room)
    assert seals & ROOM_SEALS == ROOM_SEALS, f"its seals are {seals:#x}"
    request.put(b"written")
    with pytest.raises(PermissionError):
        os.ftruncate(request.room, 0)
    connection.send_frame()
    call.answer().expect_ok()


@requirement("frame.shared.room-unary")
def test_no_room_for_streams(share: Share) -> None:
    """A streaming registration is offered no room, however large its replies are."""
    sharing = share(stream=True)
    connection = None
    for _ in range(3):
        stream = sharing.agent.stream().send(wire.request(sharing.name)).end()
        connection, request = sharing.take(connection)
        assert not request.room_size, "a room for a stream"
        connection.send_frame(wire.stream_reply(raw=random()))
        connection.send_frame()
        assert stream.receive().message.infer_response.raw_output_contents
        assert stream.next() is None


@requirement("frame.shared.room-own")
def test_rooms_are_a_workers_own(share: Share) -> None:
    """Two workers never get the same room."""
    rooms = []
    for base in ("one", "two"):
        sharing = share(base)
        call, connection, request = sharing.with_room()
        connection.send_frame(wire.reply(raw=random()))
        call.answer().expect_ok()
        rooms.append(which(request.room))
    assert rooms[0] != rooms[1], "a worker got a room that another one had"


@requirement("frame.shared.body-free")
def test_body_of_an_exchange_under_way(share: Share) -> None:
    """The bytes of a body stay as long as its exchange is under way, whatever else is sent."""
    sharing = share()
    raw = random()
    held = sharing.start(raw)
    first, _ = sharing.take()
    request = sharing.last()
    connection = None
    for _ in range(4):
        connection = sharing.exchange(connection, random())
    assert raw in request.payload, "the body has other bytes before its exchange has ended"
    first.send_frame()
    held.answer().expect_ok()


@requirement("frame.shared.body-free")
def test_body_of_a_cancelled_exchange(share: Share) -> None:
    """The bytes of a body stay for ever when its exchange was cancelled."""
    sharing = share()
    raw = random()
    call = sharing.start(raw)
    connection, _ = sharing.take()
    request = sharing.last()
    call.cancel()
    connection.expect_end()
    other = None
    for _ in range(4):
        other = sharing.exchange(other, random())
    assert raw in request.payload, "the body of a cancelled exchange was used again"


@requirement("frame.shared.room-free")
def test_room_of_a_cancelled_exchange(share: Share) -> None:
    """A room is not offered again when its exchange was cancelled."""
    sharing = share()
    call, connection, request = sharing.with_room()
    call.cancel()
    connection.expect_end()
    other = sharing.exchange(None, reply=wire.reply(raw=random()))
    for _ in range(3):
        sharing.exchange(other, reply=wire.reply(raw=random()))
        later = sharing.requests[-1]
        assert not later.room_size or which(later.room) != which(request.room), "its room was offered again"


@requirement("frame.shared.room-free")
def test_room_of_a_reply_under_way(share: Share) -> None:
    """A room is not offered again while the reply in it waits for its client."""
    sharing = share()
    contents = [random() for _ in range(4)]
    slow = sharing.agent.new_client(window=1 << 16).stream()
    connection = sharing.exchange(None, reply=wire.reply(raw=random()))
    slow.send(wire.request(sharing.name)).end()
    sharing.answer_in_room(connection, contents[0])
    for raw in contents[1:]:
        call = sharing.start()
        sharing.answer_in_room(connection, raw)
        assert list(call.answer().expect_ok().message.raw_output_contents) == [raw]
    waited = slow.receive().message.infer_response
    assert list(waited.raw_output_contents) == contents[:1], "a reply was overwritten in its room by a later one"


@requirement("frame.shared.payload")
@pytest.mark.parametrize("inline", [0, 1, 100, 1 << 20], ids=["none", "one", "some", "all"])
def test_reply_in_a_room(share: Share, inline: int) -> None:
    """The reply is what lies in the room, and behind it what is inline."""
    sharing = share()
    call, connection, request = sharing.with_room()
    raw = random(LARGE - 1000)
    payload = wire.reply(raw=raw, request_id="of-the-room").SerializeToString()
    in_room = max(len(payload) - inline, 0)
    request.put(payload[:in_room])
    connection.send(encode(in_room, 0, payload[in_room:]))
    answer = call.answer().expect_ok().message
    assert list(answer.raw_output_contents) == [raw], "not the bytes of the room and the inline ones behind them"
    assert answer.id == "of-the-room"
    sharing.exchange(connection)


@requirement("frame.shared.unoffered")
@pytest.mark.parametrize("size", [0, 1])
def test_reply_without_a_room(share: Share, size: int) -> None:
    """A reply by reference to a request that offered no room is a violation."""
    sharing = share()
    call = sharing.start(random())
    connection, _ = sharing.take()
    connection.send(encode(size, 0, b"" if size else wire.field(3, "inline")))
    call.answer().expect(StatusCode.INTERNAL)
    connection.expect_end()


@requirement("frame.shared.beyond")
@pytest.mark.parametrize(
    "reply",
    [
        lambda room: encode(room + 1),
        lambda _: encode((1 << 64) - 1),
        lambda _: encode((1 << 64) - 4, 0, b"1234"),
        lambda _: encode(4, 1),
        lambda _: encode(4, 1 << 63),
    ],
    ids=["one-more", "all-ones", "sum-overflows", "third-number", "third-number-high"],
)
def test_reply_beyond_its_room(share: Share, reply: Callable[[int], bytes]) -> None:
    """A reply that tells more than the room has, or a third number, is a violation."""
    sharing = share()
    call, connection, request = sharing.with_room()
    connection.send(reply(request.room_size))
    call.answer().expect(StatusCode.INTERNAL)
    connection.expect_end()


@requirement("frame.shared.beyond", needs={"max-message-bytes": 1 << 20})
def test_reply_above_the_limit(share: Share) -> None:
    """A reply of more bytes than --max-message-bytes, room and inline together, is a violation."""
    sharing = share()
    connection = sharing.exchange(None, reply=wire.reply(raw=random(LARGE - 1000)))
    call = sharing.start()
    _, request = sharing.take(connection)
    if not request.room_size:
        not_applicable("the agent offers no room to a request whose last reply was large")
    connection.send(encode(min(request.room_size, LARGE), 0, b"x"))
    call.answer().expect(StatusCode.INTERNAL)
    connection.expect_end()


@requirement("frame.shared.broken")
def test_room_that_changes(share: Share) -> None:
    """A worker that goes on writing into its room, or takes its pages away, spoils nothing but its own reply."""
    sharing, good = share(), share("good")
    kept = good.exchange(None, random())
    call, connection, request = sharing.with_room()
    payload = wire.reply(raw=random()).SerializeToString()
    request.put(payload)
    connection.send(encode(len(payload)))
    for _ in range(20):
        request.put(random(len(payload)))
    call.answer()
    raw = random()
    good.exchange(kept, raw)
    assert memory_of(good.last().body, good.last().body_size).count(raw) == 1
