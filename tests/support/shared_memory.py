"""A worker's side of payloads by shared memory (`frame.shared.*`), on the scripted worker's connections.

Written from the spec's page alone: what it reads and writes is bytes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from support.wire import frame, raw_bytes, reply
from support.worker import Connection, ScriptedWorker

__all__ = ["Request", "SharingWorker", "read_request", "reference", "seals", "sharing"]

BY_REFERENCE = 0xFFFFFFFF
NUMBERS = struct.Struct(">IQQ")
F_GET_SEALS = 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 1, 2, 4, 8, 16


def seals(descriptor: int) -> int:
    """The seals of a memfd."""
    return fcntl.fcntl(descriptor, F_GET_SEALS)


def reference(size: int, inline: bytes = b"", last: int = 0) -> bytes:
    """A reply frame by reference."""
    return struct.pack(">I", BY_REFERENCE) + NUMBERS.pack(len(inline), size, last) + inline


@dataclass
class Request:
    """What came in one frame."""

    payload: bytes
    by_reference: bool = False
    body: int = -1
    """The descriptor; -1: there was none."""
    room: int = -1
    room_size: int = 0
    inline: bytes = b""
    descriptors: list[int] = field(default_factory=list)

    def put(self, payload: bytes) -> int:
        """Writes a reply into the room; returns its size."""
        with mmap.mmap(self.room, self.room_size) as memory:
            memory[: len(payload)] = payload
        return len(payload)

    def inode(self, descriptor: int) -> tuple[int, int]:
        """Which memory it is."""
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino

    def close(self) -> None:
        """Closes the descriptors."""
        while self.descriptors:
            os.close(self.descriptors.pop())


async def read_request(connection: Connection) -> Request:
    """The next request frame, of either kind.

    Raises:
        EOFError: the agent closed before its end.
    """
    (length,) = struct.unpack(">I", await connection.read_exactly(4))
    if length != BY_REFERENCE:
        assert connection.descriptors == [], "descriptors with a frame that needs none"
        return Request(await connection.read_exactly(length))
    inline_size, body_size, room_size = NUMBERS.unpack(await connection.read_exactly(NUMBERS.size))
    descriptors, connection.descriptors = connection.descriptors, []
    assert len(descriptors) == (body_size > 0) + (room_size > 0)
    inline = await connection.read_exactly(inline_size)
    request = Request(inline, True, room_size=room_size, inline=inline, descriptors=descriptors)
    if body_size:
        request.body = descriptors[0]
        with mmap.mmap(request.body, body_size, prot=mmap.PROT_READ) as memory:
            request.payload = memory[:body_size] + inline
    if room_size:
        request.room = descriptors[-1]
        assert os.fstat(request.room).st_size >= room_size
    return request


class SharingWorker:
    """A script that answers each request by `answer` bytes of tensor, in the room if they fit.

    Attributes:
        requests: all that came, their descriptors still open until `close`.
        answer: bytes of the next replies' tensor.
    """

    def __init__(self, answer: int = 0) -> None:
        self.requests: list[Request] = []
        self.answer = answer

    async def __call__(self, _: ScriptedWorker, connection: Connection) -> None:
        while True:
            request = await read_request(connection)
            self.requests.append(request)
            payload = raw_bytes(reply(raw=bytes(self.answer)))
            if request.room_size >= max(len(payload), 1):
                await connection.send(reference(request.put(payload)))
            else:
                await connection.send(frame(payload))

    def close(self) -> None:
        """Closes all descriptors."""
        for request in self.requests:
            request.close()


@contextmanager
def sharing(answer: int = 0) -> Iterator[SharingWorker]:
    """A `SharingWorker`, closed at the end."""
    worker = SharingWorker(answer)
    try:
        yield worker
    finally:
        worker.close()
