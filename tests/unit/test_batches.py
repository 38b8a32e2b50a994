"""Which requests go together and when: waiting, order, groups; clients in simulated time; rules in random runs."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from anyserve import Batch
from anyserve.batches import Batches, Ticket
from support.examples import examples

LIMITS = Batch(max_size=4, max_wait_ms=10)
WAIT = 0.010


def queue(limits: Batch = LIMITS, *, expected: int = 0, places: int = 1024) -> Batches[str]:
    """An idle queue that has had `expected` requests under way at once."""
    batches: Batches[str] = Batches(limits, places)
    for ticket in [batches.submit("before", now=-1.0) for _ in range(expected)]:
        batches.withdraw(ticket)
    return batches


def submit(batches: Batches[str], items: str, now: float = 0.0, **options: Any) -> list[Ticket[str]]:
    return [batches.submit(item, now=now, **options) for item in items]


def starts(batches: Batches[str], now: float = 0.0) -> list[str]:
    """What is to be run now; nothing of it has expired."""
    found = []
    while (started := batches.start(now)) is not None:
        assert not started.expired
        found.append("".join(started.batch))
    return found


# Waiting


def test_the_first_request_of_all_does_not_wait() -> None:
    batches = queue()
    submit(batches, "a")
    assert starts(batches) == ["a"]


def test_a_single_client_never_waits() -> None:
    batches = queue()
    for turn in range(50):
        submit(batches, "a", now=float(turn))
        assert starts(batches, float(turn)) == ["a"]
        batches.ended(1, turn + 0.5)
        assert batches.wake_at() is None


def test_waits_for_as_many_as_there_were() -> None:
    batches = queue(expected=3)
    submit(batches, "a")
    submit(batches, "b", now=0.004)
    assert starts(batches, 0.004) == []
    submit(batches, "c", now=0.006)
    assert starts(batches, 0.006) == ["abc"]


def test_waits_no_longer_than_max_wait() -> None:
    batches = queue(expected=3)
    submit(batches, "a", now=1.0)
    submit(batches, "b", now=1.004)
    assert batches.wake_at() == pytest.approx(1.0 + WAIT)
    assert starts(batches, 1.0 + WAIT / 2) == []
    assert starts(batches, 1.0 + WAIT) == ["ab"]


def test_a_wait_in_vain_is_not_repeated() -> None:
    batches = queue(expected=64)
    submit(batches, "a")
    assert starts(batches) == []
    assert starts(batches, WAIT) == ["a"]
    batches.ended(1, 1.0)
    submit(batches, "b", now=1.0)
    assert starts(batches, 1.0) == ["b"]


def test_a_full_batch_waits_for_nothing() -> None:
    batches = queue(expected=64)
    submit(batches, "abcde")
    assert starts(batches) == ["abcd"]
    assert batches.waiting == 1


def test_does_not_wait_when_all_places_are_taken() -> None:
    batches = queue(expected=64, places=2)
    submit(batches, "a")
    assert starts(batches) == []
    submit(batches, "b")
    assert starts(batches) == ["ab"]


def test_max_wait_of_0_waits_for_nothing_but_a_place() -> None:
    batches = queue(Batch(max_size=4, max_wait_ms=0), expected=64)
    submit(batches, "a")
    assert starts(batches) == ["a"]
    submit(batches, "bc")
    assert starts(batches) == []
    batches.ended(1, 1.0)
    assert starts(batches, 1.0) == ["bc"]


def test_time_behind_a_running_batch_is_no_wait_for_more() -> None:
    batches = queue()
    submit(batches, "a")
    assert starts(batches) == ["a"]
    submit(batches, "b", now=0.001)
    assert batches.wake_at() is None
    batches.ended(1, 5.0)
    assert starts(batches, 5.0) == []  # `a` is about to come back
    assert batches.wake_at() == pytest.approx(5.0 + WAIT)
    submit(batches, "a", now=5.001)
    assert starts(batches, 5.001) == ["ba"]


# Running


def test_one_batch_at_once() -> None:
    batches = queue()
    submit(batches, "abcdefgh")
    assert starts(batches) == ["abcd"]
    batches.ended(4, 1.0)
    assert starts(batches, 1.0) == ["efgh"]


def test_the_rest_of_a_full_batch_waits_for_more_again() -> None:
    batches = queue()
    submit(batches, "abcdef")
    assert starts(batches) == ["abcd"]
    batches.ended(4, 1.0)
    assert starts(batches, 1.0) == []
    assert starts(batches, 1.0 + WAIT) == ["ef"]


def test_as_many_at_once_as_are_allowed() -> None:
    batches = queue(Batch(max_size=2, concurrency=3))
    submit(batches, "abcdefgh")
    assert starts(batches) == ["ab", "cd", "ef"]
    batches.ended(2, 1.0)
    assert starts(batches, 1.0) == ["gh"]


# Order and groups


def test_groups_run_apart_in_order_of_their_first() -> None:
    batches = queue(Batch(max_size=4, max_wait_ms=10, concurrency=2))
    for item in "aXbYcX":
        submit(batches, item, group=item.isupper() and item)
    assert starts(batches) == ["abc", "XX"]
    batches.ended(3, 1.0)
    assert starts(batches, 1.0) == ["Y"]


def test_what_has_waited_enough_does_not_wait_again_behind_another_group() -> None:
    batches = queue(expected=3)
    submit(batches, "a", group="a")
    submit(batches, "b", group="b")
    assert starts(batches, WAIT) == ["a"]
    batches.ended(1, 1.0)
    submit(batches, "c", now=1.0, group="c")
    assert starts(batches, 1.0) == ["b"]


def test_a_group_is_passed_by_full_ones_only_once() -> None:
    batches = queue(expected=64)
    submit(batches, "o", group="odd")
    submit(batches, "aaaaaaaa", now=0.001)
    assert starts(batches, 0.001) == ["aaaa"]
    batches.ended(4, 0.002)
    submit(batches, "aaaa", now=0.002)
    assert starts(batches, 0.002) == ["o"]


def test_sizes_fill_a_batch_and_keep_their_order() -> None:
    batches = queue(expected=64)
    for item, size in (("a", 2), ("b", 1), ("c", 3), ("d", 1)):
        submit(batches, item, size=size)
    assert starts(batches) == ["ab"]  # `d` would fit, but not overtake
    batches.ended(2, 1.0)
    assert starts(batches, 1.0) == ["cd"]


def test_what_fits_into_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be 1 to 4, got 5"):
        queue().submit("a", now=0.0, size=5)


# Leaving


def test_a_withdrawn_request_is_not_run() -> None:
    batches = queue(expected=3)
    tickets = submit(batches, "ab")
    batches.withdraw(tickets[0])
    batches.withdraw(tickets[0])
    assert batches.waiting == 1
    assert starts(batches, WAIT) == ["b"]
    batches.withdraw(tickets[1])  # runs: nothing to withdraw
    assert batches.waiting == 0


def test_the_last_of_a_group_leaves_nothing() -> None:
    batches = queue(expected=3)
    (ticket,) = submit(batches, "a", group="x")
    batches.withdraw(ticket)
    assert batches.wake_at() is None
    assert starts(batches, 1.0) == []


def test_what_has_expired_is_told_apart_and_takes_no_room() -> None:
    batches = queue()
    submit(batches, "ab", deadline=1.0)
    submit(batches, "cdef", deadline=3.0)
    assert batches.start(1.0) == (["c", "d", "e", "f"], ["a", "b"])


def test_nothing_runs_if_all_have_expired() -> None:
    batches = queue()
    submit(batches, "ab", deadline=1.0)
    assert batches.start(2.0) == ([], ["a", "b"])
    submit(batches, "cd", now=2.0)
    assert starts(batches, 2.0) == ["cd"]  # the place is still free


# What may be asked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_size": 0}, "max_size must be 1 to 1024, got 0"),
        ({"max_size": 1025}, "max_size must be 1 to 1024"),
        ({"max_size": 2.5}, "max_size"),
        ({"max_wait_ms": -1}, "max_wait_ms must be 0 to 60000, got -1"),
        ({"max_wait_ms": math.nan}, "max_wait_ms"),
        ({"max_wait_ms": "5"}, "max_wait_ms"),
        ({"concurrency": 0}, "concurrency must be 1 to 64, got 0"),
    ],
)
def test_limits_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Batch(**options)


@pytest.mark.parametrize(
    ("limits", "places"), [(Batch(), 64), (Batch(max_size=8, concurrency=3), 32), (Batch(max_size=1000), 1024)]
)
def test_places_fill_the_next_batch_while_others_run(limits: Batch, places: int) -> None:
    assert limits.places == places


# Clients that await each reply, in simulated time


def closed_loop(clients: int, limits: Batch, *, call: float, back: float, calls: int = 40) -> tuple[list[int], float]:
    """Sizes of the batches that `clients` make, and the longest time that one of them began after it could have.

    Args:
        clients: each sends its next request when it has its reply.
        limits: of the batches.
        call: seconds that a batch takes.
        back: seconds from a reply to the client's next request; a tenth more for each client of the same batch.
        calls: batches after which this ends.
    """
    batches: Batches[int] = Batches(limits, limits.places)
    order = itertools.count()
    events: list[tuple[float, int, Sequence[int], bool]] = [(n * 1e-5, next(order), [n], False) for n in range(clients)]
    sizes: list[int] = []
    idle_since, longest, now = 0.0, 0.0, 0.0
    while len(sizes) < calls:
        wake_at = batches.wake_at()
        if wake_at is not None and wake_at <= events[0][0] if events else wake_at is not None:
            now = max(now, wake_at or 0.0)
        else:
            now, _, who, ends = heapq.heappop(events)
            if ends:
                batches.ended(len(who), now)
                idle_since = now
                for n, client in enumerate(who):
                    heapq.heappush(events, (now + back * (1 + n / 10), next(order), [client], False))
            else:
                batches.submit(who[0], now=now)
        while (started := batches.start(now)) is not None:
            sizes.append(len(started.batch))
            longest = max(longest, now - idle_since) if len(sizes) > 1 else 0.0
            heapq.heappush(events, (now + call, next(order), started.batch, True))
    return sizes, longest


def test_one_client_is_never_made_to_wait() -> None:
    sizes, longest = closed_loop(1, Batch(), call=0.02, back=0.001)
    assert set(sizes) == {1}
    assert longest == pytest.approx(0.001)


@pytest.mark.parametrize("call", [0.0005, 0.002, 0.02, 0.2])
@pytest.mark.parametrize("clients", [2, 5, 32, 33, 48, 64, 100])
def test_clients_fill_their_batches_whatever_a_call_takes(clients: int, call: float) -> None:
    sizes, _ = closed_loop(clients, Batch(max_size=32, max_wait_ms=5), call=call, back=0.0004, calls=60)
    settled = sizes[20:]
    assert sum(settled) / len(settled) >= 0.9 * min(32, clients), sizes


def test_places_for_two_batches_are_both_filled() -> None:
    sizes, _ = closed_loop(64, Batch(max_size=32, concurrency=2), call=0.02, back=0.0004, calls=60)
    assert min(sizes[20:]) >= 28, sizes


# Rules in random runs


class BatchesAgainstRules(RuleBasedStateMachine):
    """Random requests, times, ends and leaves, and a list as the model of what waits."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Batch(max_size=5, max_wait_ms=10, concurrency=2)
        self.places = 8
        self.batches: Batches[int] = Batches(self.limits, self.places)
        self.now = 0.0
        self.numbers = itertools.count()
        self.waiting: list[Ticket[int]] = []
        self.running: list[list[int]] = []
        self.expected = 0
        self.free_since = 0.0
        self.due: dict[str, str] = {}
        """Groups that start next, full or not, and why."""

    @rule(group=st.sampled_from("ab"), size=st.integers(1, 5), lives=st.sampled_from([math.inf, 0.004, 0.02]))
    def submit(self, group: str, size: int, lives: float) -> None:
        ticket = self.batches.submit(
            next(self.numbers), now=self.now, group=group, size=size, deadline=self.now + lives
        )
        self.waiting.append(ticket)
        self.expected = max(self.expected, self.under_way)
        self.look()

    @rule(ms=st.integers(1, 12))
    def time_passes(self, ms: int) -> None:
        until = self.now + ms / 1000
        while (wake_at := self.batches.wake_at()) is not None and wake_at <= until:
            self.now = max(self.now, wake_at)
            self.look()
        self.now = until

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.batches.withdraw(ticket)
        self.waiting.remove(ticket)
        self.forget_empty()
        self.look()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.running))
        if len(self.running) == self.limits.concurrency:
            self.free_since = self.now
        self.running.remove(batch)
        self.batches.ended(len(batch), self.now)
        self.look()

    @property
    def under_way(self) -> int:
        return len(self.waiting) + sum(map(len, self.running))

    def look(self) -> None:
        while True:
            if self.waiting and len(self.running) < self.limits.concurrency:
                self.judge()
            started = self.batches.start(self.now)
            if started is None:
                return
            self.check(list(started.batch), list(started.expired))

    def judge(self) -> None:
        if self.under_way < min(self.expected, self.places):
            if self.now < max(self.waiting[0].since, self.free_since) + WAIT:
                return
            self.expected = self.under_way
        self.due = dict.fromkeys((ticket.group for ticket in self.waiting), "waited enough") | self.due

    def forget_empty(self) -> None:
        groups = {ticket.group for ticket in self.waiting}
        self.due = {group: why for group, why in self.due.items() if group in groups}

    def check(self, batch: list[int], expired: list[int]) -> None:
        taken = [ticket for ticket in self.waiting if ticket.item in {*batch, *expired}]
        head = taken[0]
        group = [ticket for ticket in self.waiting if ticket.group == head.group]
        full = sum(ticket.size for ticket in group) >= self.limits.max_size
        assert full or head.group in self.due, "more could come"
        assert taken == group[: len(taken)], "a request overtook another of its group"
        assert expired == [ticket.item for ticket in taken if ticket.deadline <= self.now]
        assert batch == [ticket.item for ticket in taken if ticket.deadline > self.now]
        sizes = sum(ticket.size for ticket in taken if ticket.deadline > self.now)
        assert sizes <= self.limits.max_size
        rest = group[len(taken) :]
        assert not rest or sizes + rest[0].size > self.limits.max_size, "there was room for the next"
        self.due.pop(head.group, None)
        older = {ticket.group for ticket in self.waiting[: self.waiting.index(head)]} - {head.group}
        assert "passed" not in {self.due.get(group) for group in older}, "a group was passed twice"
        self.due |= dict.fromkeys(older, "passed")
        self.waiting = [ticket for ticket in self.waiting if ticket not in taken]
        self.forget_empty()
        if batch:
            assert len(self.running) < self.limits.concurrency
            self.running.append(batch)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.batches.waiting == len(self.waiting)

    @invariant()
    def what_could_start_waits_only_for_what_can_come(self) -> None:
        wake_at = self.batches.wake_at()
        if not self.waiting or len(self.running) == self.limits.concurrency:
            assert wake_at is None
            return
        assert wake_at == pytest.approx(max(self.waiting[0].since, self.free_since) + WAIT)
        assert wake_at > self.now - 1e-9
        assert self.under_way < min(self.expected, self.places), "nothing else could come"
        for group in "ab":
            assert sum(t.size for t in self.waiting if t.group == group) < self.limits.max_size, "a full batch waited"


def test_batches_against_rules() -> None:
    run_state_machine_as_test(BatchesAgainstRules, settings=examples(200, stateful_step_count=60))
