"""Admission: limits, choice within a tier, order of waiting, changes of the registry."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from anyserve.agent.queues import Admission, NothingLeft, QueueFull, Slot, Ticket
from anyserve.agent.registry import Registration, Registry, Target
from anyserve.capability import Capability, Query


def registration(worker: str, max_concurrency: int = 1, priority: int = 0, type_: str = "x") -> Registration:
    return Registration(worker, "/s", "m", "", Capability({"type": type_}), max_concurrency, priority=priority)


class Desk:
    """An Admission with a Registry, and the grants of each named ticket."""

    def __init__(self, *registrations: Registration, queue_size: int = 10) -> None:
        self.registry = Registry(max_workers=100, max_registrations=100)
        self.admission = Admission(queue_size, default_max_concurrency=2)
        self.grants: dict[str, Slot | None] = {}
        self.tickets: dict[str, Ticket] = {}
        for each in registrations:
            self.add(each)

    def add(self, registration: Registration) -> None:
        self.registry.register(registration)
        self._changed(registration.worker_id)

    def remove(self, worker: str) -> None:
        self.registry.unregister_worker(worker)
        self._changed(worker)

    def _changed(self, worker: str) -> None:
        if not self.registry.of_worker(worker):
            self.admission.forget_worker(worker)
        self.admission.reconsider()

    def ask(self, name: str, type_: str = "x", excluded: set[tuple[str, str, str, str]] | None = None) -> str | None:
        """Asks for a slot; the worker that gave it at once, or None if the ticket waits."""
        target = Target(query=Query.parse({"type": type_}))
        ticket = Ticket(
            lambda: self.registry.resolve(target), lambda slot: self.grants.update({name: slot}), excluded or set()
        )
        slot = self.admission.submit(ticket)
        self.tickets[name] = ticket
        if slot is not None:
            self.grants[name] = slot
        return slot.registration.worker_id if slot else None

    def release(self, name: str) -> None:
        slot = self.grants.pop(name)
        assert slot is not None
        self.admission.release(slot)

    def worker_of(self, name: str) -> str | None:
        slot = self.grants.get(name)
        return slot.registration.worker_id if slot else None


def test_chooses_the_least_busy_then_the_one_chosen_longest_ago() -> None:
    desk = Desk(registration("a", 2), registration("b", 2))
    assert [desk.ask(n) for n in "1234"] == ["a", "b", "a", "b"]
    desk.release("2")
    desk.release("3")
    assert desk.ask("5") == "a"  # one exchange runs on each; a was chosen third, b fourth


def test_waits_first_come_first_served() -> None:
    desk = Desk(registration("a"))
    assert [desk.ask(n) for n in "123"] == ["a", None, None]
    desk.release("1")
    assert (desk.worker_of("2"), desk.worker_of("3")) == ("a", None)
    desk.release("2")
    assert desk.worker_of("3") == "a"


def test_a_newcomer_does_not_overtake() -> None:
    desk = Desk(registration("a"))
    desk.ask("1")
    desk.ask("2")
    desk.release("1")
    assert desk.ask("3") is None


def test_a_better_rank_that_is_busy_is_waited_for() -> None:
    desk = Desk(registration("best", priority=1), registration("other"))
    assert desk.ask("1") == "best"
    assert desk.ask("2") is None
    desk.release("1")
    assert desk.worker_of("2") == "best"


def test_what_was_tried_in_vain_is_left_out() -> None:
    best = registration("best", priority=1)
    desk = Desk(best, registration("other"))
    assert desk.ask("1", excluded={best.key}) == "other"
    with pytest.raises(NothingLeft):
        desk.ask("2", excluded={best.key, registration("other").key})


def test_a_full_queue_refuses() -> None:
    desk = Desk(registration("a"), queue_size=1)
    desk.ask("1")
    desk.ask("2")
    with pytest.raises(QueueFull, match="queue-size"):
        desk.ask("3")
    assert desk.admission.waiting == 1


def test_no_registration_at_all() -> None:
    with pytest.raises(NothingLeft):
        Desk().ask("1")


def test_a_worker_that_goes_leaves_its_waiting_requests_to_the_rest() -> None:
    desk = Desk(registration("a", priority=1), registration("b"))
    desk.ask("1")
    desk.ask("2")
    desk.remove("a")
    assert desk.worker_of("2") == "b"


def test_requests_that_nobody_can_serve_any_more_are_told() -> None:
    desk = Desk(registration("a"))
    desk.ask("1")
    desk.ask("2")
    desk.remove("a")
    assert desk.grants["2"] is None
    assert desk.admission.waiting == 0


def test_a_withdrawn_ticket_gets_nothing() -> None:
    desk = Desk(registration("a"))
    for name in "123":
        desk.ask(name)
    desk.admission.withdraw(desk.tickets["2"])
    desk.release("1")
    assert "2" not in desk.grants
    assert desk.worker_of("3") == "a"


def test_registrations_of_one_worker_have_limits_of_their_own() -> None:
    desk = Desk(registration("a", 1), registration("a", 2, type_="y"))
    assert [desk.ask("1"), desk.ask("2"), desk.ask("3", "y"), desk.ask("4", "y"), desk.ask("5", "y")] == [
        "a", None, "a", "a", None,
    ]  # fmt: skip


def test_registrations_that_state_no_limit_share_the_default() -> None:
    desk = Desk(registration("a", 0), registration("a", 0, type_="y"), registration("b", 0, type_="z"))
    assert [desk.ask("1"), desk.ask("2", "y"), desk.ask("3"), desk.ask("4", "z")] == ["a", "a", None, "b"]


def test_slots_of_a_worker_that_left_count_when_it_comes_back() -> None:
    desk = Desk(registration("a"))
    desk.ask("1")
    desk.remove("a")
    desk.add(registration("a"))
    assert desk.ask("2") is None
    desk.release("1")
    assert desk.worker_of("2") == "a"


class AdmissionAgainstRules(RuleBasedStateMachine):
    """Random requests, ends, comings and goings: limits hold, nobody waits in vain, the order is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(queue_size=1000)
        self.count = 0
        self.asked: list[str] = []

    @rule(worker=st.sampled_from("abc"), limit=st.integers(1, 3))
    def come(self, worker: str, limit: int) -> None:
        self.desk.add(registration(worker, limit))

    @rule(worker=st.sampled_from("abc"))
    def go(self, worker: str) -> None:
        self.desk.remove(worker)

    @rule()
    def ask(self) -> None:
        self.count += 1
        try:
            self.desk.ask(str(self.count))
        except NothingLeft:
            assert not self.desk.registry.workers()
        else:
            self.asked.append(str(self.count))

    @precondition(lambda self: any(self.desk.grants.values()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        running = sorted(name for name, slot in self.desk.grants.items() if slot)
        self.desk.release(data.draw(st.sampled_from(running)))

    @invariant()
    def limits_hold(self) -> None:
        for worker in self.desk.registry.workers():
            (registered,) = self.desk.registry.of_worker(worker)
            load = self.desk.admission.in_flight(worker)
            running = sum(self.desk.worker_of(name) == worker for name in self.desk.grants)
            assert load == running
            # A worker that lowers its limit ends what it has begun.
            if load < registered.max_concurrency:
                assert self.desk.admission.waiting == 0

    @invariant()
    def order_is_kept(self) -> None:
        waiting = [name for name in self.asked if name not in self.desk.grants and self.desk.tickets[name].queue]
        started = [name for name in self.asked if self.desk.tickets[name].queue is None]
        assert self.desk.admission.waiting == len(waiting)
        if waiting and started:
            later = [n for n in started if int(n) > min(map(int, waiting))]
            assert not [n for n in later if self.desk.grants.get(n)], "a later request overtook"


TestAdmissionAgainstRules = AdmissionAgainstRules.TestCase
