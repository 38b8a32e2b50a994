"""Memory that the reference agent shares with workers: what is used again, and what is not; frames by reference."""

from __future__ import annotations

import os

import pytest

from anyserve.agent.shared_memory import MOST, Lent, SharedMemory, SharedMemoryPool
from anyserve.framing import BadReference, FrameDecoder, FrameTooLong, encode_reference
from anyserve_conformance.vectors import Vector, as_bytes, load

LARGE = 1 << 16
PAYLOAD = b"x" * LARGE
VECTORS = load("shared")


def feed(decoder: FrameDecoder, *pieces: bytes) -> list[bytes]:
    return [frame for piece in pieces for frame in decoder.feed(piece)]


def inode(memory: SharedMemory) -> int:
    return os.fstat(memory.descriptor).st_ino


def body(pool: SharedMemoryPool) -> SharedMemory:
    found = pool.body(PAYLOAD)
    assert found is not None
    return found


@pytest.mark.parametrize(("threshold", "limit"), [(0, 1 << 20), (LARGE, 0), (LARGE, LARGE - 1)])
def test_it_can_be_turned_off(threshold: int, limit: int) -> None:
    pool = SharedMemoryPool(threshold, limit)
    assert not pool.usable
    assert not pool.is_large(1 << 30)
    assert pool.body(PAYLOAD) is None


def test_what_is_small_goes_inline() -> None:
    assert SharedMemoryPool(LARGE, 1 << 20).body(PAYLOAD[1:]) is None


def test_memory_is_used_again_after_a_good_end_alone() -> None:
    pool = SharedMemoryPool(LARGE, 1 << 20)
    lent = Lent(pool, body(pool), pool.room(1, LARGE))
    inodes = [inode(memory) for memory in lent.all]
    for memory in lent.all:
        memory.lend()
    lent.close(ended_well=True)
    again = Lent(pool, body(pool), pool.room(1, LARGE))
    assert [inode(memory) for memory in again.all] == inodes
    for memory in again.all:
        memory.lend()
    again.close(ended_well=False)
    assert pool.held == 0


def test_memory_that_two_workers_got_is_not_used_again() -> None:
    pool = SharedMemoryPool(LARGE, 1 << 20)
    lent = Lent(pool, body(pool))
    for memory in lent.all * 2:
        memory.lend()
    lent.close(ended_well=True)
    assert pool.held == 0


def test_a_room_is_one_workers() -> None:
    pool = SharedMemoryPool(LARGE, 1 << 20)
    one = pool.room(1, LARGE)
    assert one is not None
    pool.take_back(one)
    two = pool.room(2, LARGE)
    assert two is not None
    assert inode(one) != inode(two)
    assert pool.room(1, LARGE) is one


def test_the_bound_is_made_of_what_nobody_uses() -> None:
    pool = SharedMemoryPool(LARGE, 4 * LARGE)
    held = [body(pool) for _ in range(4)]
    assert pool.body(PAYLOAD) is None
    for memory in held[:2]:
        pool.take_back(memory)
    assert pool.held == 4 * LARGE
    assert pool.body(PAYLOAD * 2) is not None, "in place of the two"
    assert pool.held == 4 * LARGE
    assert pool.body(PAYLOAD) is None


def test_descriptors_have_a_bound() -> None:
    pool = SharedMemoryPool(1, 1 << 30)
    held = [pool.body(b"x") for _ in range(MOST)]
    assert all(held)
    assert pool.body(b"x") is None


def test_what_was_not_used_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("anyserve.agent.shared_memory.time.monotonic", lambda: now[0])
    pool = SharedMemoryPool(LARGE, 1 << 20)
    pool.take_back(body(pool))
    now[0] += 29
    assert pool.held == LARGE
    pool.take_back(body(pool))
    now[0] += 31
    room = pool.room(1, LARGE)
    assert room is not None
    assert pool.held == room.size


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.kind == "request"], ids=lambda v: str(v.name))
def test_requests(vector: Vector) -> None:
    inline = as_bytes(vector["inline"])
    assert encode_reference(len(inline), vector["body"], vector["room"]) + inline == as_bytes(vector["frame"])


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.kind == "reply"], ids=lambda v: str(v.name))
def test_replies(vector: Vector) -> None:
    data = as_bytes(vector["bytes"])
    for cut in range(len(data) + 1):
        decoder = FrameDecoder(vector["limit"])
        decoder.offer_room(vector["room"])
        if vector.get("refused"):
            with pytest.raises((BadReference, FrameTooLong)):
                feed(decoder, data[:cut], data[cut:])
            continue
        assert feed(decoder, data[:cut], data[cut:]) == [as_bytes(vector["inline"])]
        assert decoder.placed == vector["placed"]
        assert not decoder.unfinished
        with pytest.raises(FrameTooLong):  # the room was for one reply
            decoder.feed(b"\xff\xff\xff\xff")
