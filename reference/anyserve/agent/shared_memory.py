"""Memory that the agent shares with workers: memfds, pooled by size.

*Bodies*, from which workers read requests, are sealed against all writing but the
agent's; into *rooms*, each offered to one worker alone, that worker writes replies.
They have no names: nothing of them is left when the processes have gone. Rules:
spec `frame.shared.*`.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

__all__ = ["Lent", "SharedMemory", "SharedMemoryPool"]

SMALLEST = 4096
SPARE = 256
"""Bytes of a room beyond the last reply: for replies that differ a little."""
MOST = 256
"""Memfds at once: each holds descriptors."""
KEPT = 30.0
"""Seconds after which what nobody has used is closed, when something else is asked for or given back."""

F_ADD_SEALS: Final = 1033  # from Python 3.12 on they have names
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_FUTURE_WRITE = 1, 2, 4, 16


class _Use(Enum):
    OURS = auto()
    LENT = auto()
    LOST = auto()


class SharedMemory:
    """One memfd; of a body also the agent's mapping."""

    __slots__ = ("_committed", "_mapping", "_use", "descriptor", "freed", "size", "worker")

    def __init__(self, worker: int, size: int) -> None:
        self.worker = worker
        """Whose room it is; 0: a body."""
        self.size = size
        self.freed = 0.0
        """When it was last used."""
        self._use = _Use.OURS
        self._committed = 0
        self._mapping: mmap.mmap | None = None
        name = "anyserve-room" if worker else "anyserve-body"
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size)
            seals = SEAL_SHRINK | SEAL_GROW | SEAL_SEAL
            if not worker:
                self._mapping = mmap.mmap(self.descriptor, size)  # before the seal: what is mapped stays writable
                seals |= SEAL_FUTURE_WRITE
            fcntl.fcntl(self.descriptor, F_ADD_SEALS, seals)
        except BaseException:
            self.close()
            raise

    def commit(self, size: int) -> None:
        """Takes pages now: later, without any left, a write to a mapping would be the end of the process."""
        if size > self._committed:
            os.posix_fallocate(self.descriptor, 0, size)
            self._committed = size

    def put(self, payload: bytes) -> None:
        """Fills a body."""
        if self._mapping is not None:
            self._mapping[: len(payload)] = payload

    def read(self, size: int) -> bytes:
        """A copy of the first bytes of a room: what the worker does with them later changes nothing."""
        return os.pread(self.descriptor, size, 0)

    def lend(self) -> None:
        """A worker gets the descriptor: until it is given back, the memory is not used for anything else."""
        self._use = _Use.LENT if self._use is _Use.OURS else _Use.LOST

    def give_back(self) -> None:
        """The exchange has ended with its last reply frame."""
        if self._use is _Use.LENT:
            self._use = _Use.OURS

    @property
    def ours(self) -> bool:
        """No worker has it."""
        return self._use is _Use.OURS

    def close(self) -> None:
        """Nothing of ours refers to it any more; workers may still."""
        if self._mapping is not None:
            self._mapping.close()
        os.close(self.descriptor)


class SharedMemoryPool:
    """All shared memory of an agent.

    Args:
        threshold: payloads from so many bytes on go by shared memory; 0: none do.
        limit: bytes of all memory, in use and kept for use.
    """

    def __init__(self, threshold: int, limit: int) -> None:
        self._threshold = threshold
        self._limit = limit
        self._bytes = 0
        self._count = 0
        self._free: dict[tuple[int, int], list[SharedMemory]] = {}  # by worker and size, the last used last
        self.usable = 0 < threshold <= limit and _kernel_has_it()
        """There is any."""

    @property
    def held(self) -> int:
        """Bytes of all memory, also of what is kept for use."""
        return self._bytes

    def is_large(self, size: int) -> bool:
        """Whether a payload of that size goes by shared memory, if its worker takes it."""
        return self.usable and size >= self._threshold

    def body(self, payload: bytes) -> SharedMemory | None:
        """Memory that holds a request; None: it is small, or there is no memory left."""
        if not self.is_large(len(payload)):
            return None
        memory = self._take(0, _size_class(len(payload)), len(payload))
        if memory is not None:
            memory.put(payload)
        return memory

    def room(self, worker: int, size: int) -> SharedMemory | None:
        """Memory for a reply of about that size, of one worker; None: there is none left."""
        size = _size_class(size + SPARE)
        return self._take(worker, size, size)

    def take_back(self, memory: SharedMemory) -> None:
        """Keeps memory for another use, or closes it if a worker may still have it."""
        if memory.ours:
            memory.freed = time.monotonic()
            self._free.setdefault((memory.worker, memory.size), []).append(memory)
        else:
            self._close(memory)
        self._close_unused()

    def close(self) -> None:
        """Closes what is kept."""
        while self._close_oldest():
            pass

    def _take(self, worker: int, size: int, committed: int) -> SharedMemory | None:
        self._close_unused()
        memory = self._pop((worker, size), -1) if (worker, size) in self._free else self._make(worker, size)
        if memory is None:
            return None
        try:
            memory.commit(committed)
        except OSError:
            self._close(memory)
            return None
        return memory

    def _make(self, worker: int, size: int) -> SharedMemory | None:
        if size > self._limit:
            return None
        while self._bytes + size > self._limit or self._count >= MOST:
            if not self._close_oldest():
                return None
        try:
            memory = SharedMemory(worker, size)
        except OSError:
            return None
        self._bytes += size
        self._count += 1
        return memory

    def _pop(self, key: tuple[int, int], index: int) -> SharedMemory:
        memory = self._free[key].pop(index)
        if not self._free[key]:
            del self._free[key]
        return memory

    def _close(self, memory: SharedMemory) -> None:
        self._bytes -= memory.size
        self._count -= 1
        memory.close()

    def _close_oldest(self) -> bool:
        oldest = min(self._free, key=lambda key: self._free[key][0].freed, default=None)
        if oldest is None:
            return False
        self._close(self._pop(oldest, 0))
        return True

    def _close_unused(self) -> None:
        too_old = time.monotonic() - KEPT
        while self._free and min(each[0].freed for each in self._free.values()) < too_old:
            self._close_oldest()


@dataclass(frozen=True, slots=True)
class Lent:
    """What an exchange needs of shared memory, until `close`."""

    pool: SharedMemoryPool
    body: SharedMemory | None = None
    room: SharedMemory | None = None

    @property
    def all(self) -> tuple[SharedMemory, ...]:
        """Body and room, as far as there are any, in the order of a frame's descriptors."""
        return tuple(memory for memory in (self.body, self.room) if memory is not None)

    def without_room(self) -> Lent:
        """The same for a second attempt: who has closed the first connection may still write into the room."""
        if self.room is not None:
            self.pool.take_back(self.room)
        return Lent(self.pool, self.body)

    def close(self, *, ended_well: bool) -> None:
        """The exchange has ended; well: with its last reply frame, and without a violation."""
        for memory in self.all:
            if ended_well:
                memory.give_back()
            self.pool.take_back(memory)


def _size_class(size: int) -> int:
    return 1 << (max(size, SMALLEST) - 1).bit_length()


def _kernel_has_it() -> bool:
    """Linux 5.1, for bodies that only we can write."""
    with contextlib.suppress(OSError):
        SharedMemory(0, SMALLEST).close()
        return True
    return False
