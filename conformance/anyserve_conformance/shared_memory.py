"""Payloads by shared memory (`frame.shared.*`): frames by reference and their memory, for both sides."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from anyserve_conformance.patience import LONG
from anyserve_conformance.scripted_worker import Connection

__all__ = [
    "BODY_SEALS",
    "ROOM_SEALS",
    "Reply",
    "SharedRequest",
    "encode",
    "memory",
    "memory_of",
    "read_reply",
    "read_request",
    "seals_of",
    "send_request",
    "which",
]

BY_REFERENCE = b"\xff\xff\xff\xff"
NUMBERS = struct.Struct(">IQQ")

F_ADD_SEALS, F_GET_SEALS = 1033, 1034  # from Python 3.12 on they have names
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_FUTURE_WRITE = 1, 2, 4, 16
ROOM_SEALS = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW
BODY_SEALS = ROOM_SEALS | SEAL_FUTURE_WRITE


def encode(in_memory: int, room: int = 0, inline: bytes = b"") -> bytes:
    """A frame by reference; `room` is 0 in a reply."""
    return BY_REFERENCE + NUMBERS.pack(len(inline), in_memory, room) + inline


def seals_of(descriptor: int) -> int:
    """The seals of a memfd.

    Raises:
        AssertionError: it is none.
    """
    try:
        return fcntl.fcntl(descriptor, F_GET_SEALS)
    except OSError:
        raise AssertionError("the descriptor is no memfd") from None


def which(descriptor: int) -> tuple[int, int]:
    """Tells memory apart."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def memory_of(descriptor: int, size: int) -> bytes:
    """The first bytes of a memfd."""
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapped:
        return mapped[:size]


# The worker's side


@dataclass
class SharedRequest:
    """A request as it came, by reference or not."""

    inline: bytes
    by_reference: bool = False
    body_size: int = 0
    room_size: int = 0
    descriptors: list[int] = field(default_factory=list)

    @property
    def body(self) -> int:
        """The body's descriptor."""
        assert self.body_size, "the request has no body"
        return self.descriptors[0]

    @property
    def room(self) -> int:
        """The room's descriptor."""
        assert self.room_size, "the request offers no room"
        return self.descriptors[-1]

    @property
    def payload(self) -> bytes:
        """All of it."""
        return (memory_of(self.body, self.body_size) if self.body_size else b"") + self.inline

    def put(self, payload: bytes) -> None:
        """Writes into the room."""
        with mmap.mmap(self.room, self.room_size) as mapped:
            mapped[: len(payload)] = payload

    def close(self) -> None:
        """Closes its descriptors."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def read_request(connection: Connection, within: float = LONG) -> SharedRequest:
    """The next request; descriptors must have come with its first byte, as many as it tells.

    Raises:
        EOFError: the other side closed before its end.
        AssertionError: it did not come, or is none.
    """
    first = connection.read_exactly(1, within)
    descriptors, connection.descriptors = connection.descriptors, []
    header = first + connection.read_exactly(3, within)
    if header != BY_REFERENCE:
        assert not descriptors, "descriptors came with a frame that is not by reference"
        return SharedRequest(connection.read_exactly(int.from_bytes(header, "big"), within))
    inline_size, body_size, room_size = NUMBERS.unpack(connection.read_exactly(NUMBERS.size, within))
    request = SharedRequest(connection.read_exactly(inline_size, within), True, body_size, room_size, descriptors)
    connection.transcript.received(
        connection.who, "frame", encode(body_size, room_size, request.inline), f"{len(descriptors)} descriptors"
    )
    assert body_size or room_size, "a frame by reference has neither body nor room"
    wanted = (body_size > 0) + (room_size > 0)
    assert len(descriptors) == wanted, f"{len(descriptors)} descriptors came with its first byte instead of {wanted}"
    for descriptor, size in zip(descriptors, filter(None, (body_size, room_size)), strict=True):
        assert os.fstat(descriptor).st_size >= size, "more bytes are told than the memfd has"
    return request


# The agent's side


@contextmanager
def memory(contents: bytes, size: int = 0, seals: int = BODY_SEALS) -> Iterator[tuple[int, mmap.mmap]]:
    """A memfd that begins with these bytes, and a mapping of it that may be written."""
    size = size or max(len(contents), 1)
    descriptor = os.memfd_create("suite", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, size) as mapped:
            mapped[: len(contents)] = contents
            fcntl.fcntl(descriptor, F_ADD_SEALS, seals)
            yield descriptor, mapped
    finally:
        os.close(descriptor)


def send_request(connection: Connection, frame: bytes, descriptors: list[int]) -> None:
    """Writes a small frame with its descriptors."""
    connection.transcript.sent(connection.who, "frame", frame, f"{len(descriptors)} descriptors")
    sent = socket.send_fds(connection.socket, [frame], descriptors)
    assert sent == len(frame), "the suite's own fault: the frame is too long for the socket"


@dataclass(frozen=True)
class Reply:
    """A reply as it came."""

    inline: bytes
    by_reference: bool
    placed: int

    def payload(self, room: mmap.mmap) -> bytes:
        """All of it."""
        return room[: self.placed] + self.inline


def read_reply(connection: Connection, room_size: int, within: float = LONG) -> Reply:
    """The next reply.

    Raises:
        EOFError: the other side closed before its end.
        AssertionError: it did not come, or tells more than it may.
    """
    header = connection.read_exactly(4, within)
    if header != BY_REFERENCE:
        return Reply(connection.read_exactly(int.from_bytes(header, "big"), within), False, 0)
    inline_size, placed, last = NUMBERS.unpack(connection.read_exactly(NUMBERS.size, within))
    assert room_size, "the reply is by reference, and no room was offered"
    assert placed <= room_size, f"{placed} bytes are told in a room of {room_size}"
    assert last == 0, f"the third number of a reply is {last}, not 0"
    reply = Reply(connection.read_exactly(inline_size, within), True, placed)
    connection.transcript.received(connection.who, "frame", encode(placed, 0, reply.inline))
    assert not connection.descriptors, "descriptors came with a reply"
    return reply
