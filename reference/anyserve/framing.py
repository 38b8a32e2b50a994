"""Frames between agent and worker: 4 bytes of length, big-endian, then the payload.

Pure: bytes in, payloads out. Who sends which message when is not decided here.
Rules: spec `frame.*`, wire.md section 4.
"""

from __future__ import annotations

import struct

__all__ = [
    "HEADER_SIZE",
    "MAX_ANNOTATION_BYTES",
    "BadReference",
    "FrameDecoder",
    "FrameTooLong",
    "encode_header",
    "encode_reference",
]

HEADER_SIZE = 4
MAX_LENGTH = (1 << 32) - 2
BY_REFERENCE = b"\xff\xff\xff\xff"
"""In place of a length: the payload lies in shared memory (`frame.shared.*`)."""
REFERENCE = struct.Struct(">4sIQQ")
"""What stands before the inline bytes of a frame by reference."""
MAX_ANNOTATION_BYTES = 1 << 17
"""What an agent may append to a request beyond the message limit (`frame.request.annotations`)."""


class FrameTooLong(ValueError):
    """A length prefix is above the limit. The peer's fault; the connection is of no more use."""

    def __init__(self, length: int, limit: int) -> None:
        self.length = length
        self.limit = limit
        super().__init__(f"a frame of {length} bytes is above the limit of {limit}")


class BadReference(ValueError):
    """A reply by reference tells more than it may. The peer's fault; the connection is of no more use."""

    def __init__(self) -> None:
        super().__init__("a reply by reference that tells more than it may")


def encode_reference(inline: int, body: int, room: int) -> bytes:
    """What stands before the inline bytes of a request by reference: how many bytes are where."""
    return REFERENCE.pack(BY_REFERENCE, inline, body, room)


def encode_header(length: int) -> bytes:
    """The length prefix of a payload of `length` bytes.

    Raises:
        FrameTooLong: the length does not fit in four bytes.
    """
    if length > MAX_LENGTH:
        raise FrameTooLong(length, MAX_LENGTH)
    return length.to_bytes(HEADER_SIZE, "big")


class FrameDecoder:
    """Cuts a byte stream into payloads, wherever the stream was split.

    Holds at most one unfinished frame: `limit` + 4 bytes, and of a length prefix
    above the limit nothing.

    Args:
        limit: the greatest payload in bytes that is accepted.
    """

    __slots__ = ("_chunks", "_header_size", "_length", "_limit", "_offered", "_size", "placed")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0  # bytes in _chunks
        self._length = -1  # of the payload under way; -1: its prefix is not complete yet
        self._header_size = HEADER_SIZE  # of the frame under way
        self._offered = 0
        self.placed: int | None = None
        """How many bytes the frame by reference that has come has in the room; its payload that was given is inline."""

    def offer_room(self, size: int) -> None:
        """The next frame may be by reference, with so many bytes in shared memory; 0: none may, as at first."""
        self._offered = size
        self.placed = None

    @property
    def unfinished(self) -> bool:
        """True in the middle of a frame: an end of stream here is a truncation."""
        return self._size > 0 or self._length >= 0

    @property
    def held(self) -> int:
        """How many bytes it keeps of a frame that is not complete."""
        return self._size

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes of the stream and returns the payloads they complete, in order.

        Raises:
            FrameTooLong: a length prefix is above the limit.
            BadReference: a frame by reference tells more than it may.
        """
        self._chunks.append(data)
        self._size += len(data)
        if self._size < self._wanted():
            return []
        buffer = data if len(self._chunks) == 1 else b"".join(self._chunks)
        frames: list[bytes] = []
        position = 0
        while len(buffer) - position >= self._wanted():
            if self._length < 0:
                position += self._take_header(buffer[position : position + self._header_size])
            else:
                frames.append(buffer[position : position + self._length])
                position += self._length
                self._length = -1
        rest = buffer[position:]
        self._chunks = [rest] if rest else []
        self._size = len(rest)
        return frames

    def _wanted(self) -> int:
        return self._header_size if self._length < 0 else self._length

    def _take_header(self, header: bytes) -> int:
        """Returns how many bytes of it are taken: none if it is longer than was known."""
        if header == BY_REFERENCE and self._offered:
            self._header_size = REFERENCE.size
            return 0
        self._length = self._inline_length(header) if len(header) == REFERENCE.size else self._plain_length(header)
        self._header_size = HEADER_SIZE
        return len(header)

    def _plain_length(self, header: bytes) -> int:
        length = int.from_bytes(header, "big")
        if length > self._limit:
            raise FrameTooLong(length, self._limit)
        return length

    def _inline_length(self, header: bytes) -> int:
        _, inline, placed, last = REFERENCE.unpack(header)
        if placed > self._offered or placed + inline > self._limit or last:
            raise BadReference
        self.placed = placed
        self._offered = 0  # it was for one frame
        return int(inline)
