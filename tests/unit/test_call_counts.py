"""What a worker tells of its batches: summed, in portions, nothing lost that has not arrived."""

from __future__ import annotations

from anyserve._proto import worker_management_pb2 as pb
from anyserve.worker.call_counts import AT_ONCE, CallCounts


def told(batches: list[pb.BatchStatistics]) -> list[tuple[str, str, int, int, int]]:
    return [(b.model_name, b.model_version, b.batch_size, b.count, b.compute_ns) for b in batches]


def test_calls_of_one_size_are_summed() -> None:
    counts = CallCounts()
    counts.add("m", "1", 4, 10)
    counts.add("m", "2", 4, 100)
    counts.add("m", "1", 4, 5)
    assert told(counts.take()) == [("m", "1", 4, 2, 15), ("m", "2", 4, 1, 100)]
    assert counts.take() == []


def test_what_did_not_arrive_is_told_with_what_came_since() -> None:
    counts = CallCounts()
    counts.add("m", "", 4, 10)
    untold = counts.take()
    counts.add("m", "", 4, 5)
    counts.give_back(untold)
    assert told(counts.take()) == [("m", "", 4, 2, 15)]


def test_many_sizes_are_told_in_portions_that_a_message_holds() -> None:
    counts = CallCounts()
    longest = "\N{GRINNING FACE}" * 256
    for size in range(1, AT_ONCE + 3):
        counts.add(longest, longest, size, 1 << 62)
    first = counts.take()
    assert len(first) == AT_ONCE
    assert pb.HeartbeatRequest(batches=first).ByteSize() < 1 << 20
    assert [b.batch_size for b in counts.take()] == [AT_ONCE + 1, AT_ONCE + 2]
