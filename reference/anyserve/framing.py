"""Frames between agent and worker: 4 bytes of length, big-endian, then the payload.

Pure: bytes in, payloads out. Who sends which message when is not decided here.
Rules: spec `frame.*`, wire.md section 4.
"""

from __future__ import annotations

__all__ = ["HEADER_SIZE", "MAX_ANNOTATION_BYTES", "FrameDecoder", "FrameTooLong", "encode_header"]

HEADER_SIZE = 4
MAX_LENGTH = (1 << 32) - 1
MAX_ANNOTATION_BYTES = 1 << 17
"""What an agent may append to a request beyond the message limit (`frame.request.annotations`)."""


class FrameTooLong(ValueError):
    """A length prefix is above the limit. The peer's fault; the connection is of no more use."""

    def __init__(self, length: int, limit: int) -> None:
        self.length = length
        self.limit = limit
        super().__init__(f"a frame of {length} bytes is above the limit of {limit}")


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

    __slots__ = ("_chunks", "_length", "_limit", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0  # bytes in _chunks
        self._length = -1  # of the payload under way; -1: its prefix is not complete yet

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
                self._length = self._checked(int.from_bytes(buffer[position : position + HEADER_SIZE], "big"))
                position += HEADER_SIZE
            else:
                frames.append(buffer[position : position + self._length])
                position += self._length
                self._length = -1
        rest = buffer[position:]
        self._chunks = [rest] if rest else []
        self._size = len(rest)
        return frames

    def _wanted(self) -> int:
        return HEADER_SIZE if self._length < 0 else self._length

    def _checked(self, length: int) -> int:
        if length > self._limit:
            raise FrameTooLong(length, self._limit)
        return length
