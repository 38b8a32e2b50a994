"""Admission: limits, choice within a tier, order of waiting, changes of the registry."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from support.desk import Desk
from support.policies import Policy


@pytest.fixture
def desk(policy: Policy) -> Desk:
    return Desk(policy)


def test_chooses_the_least_busy_then_the_one_chosen_longest_ago(desk: Desk) -> None:
    desk.add("a", 2)
    desk.add("b", 2)
    assert [desk.ask(n) for n in "1234"] == ["a", "b", "a", "b"]
    desk.release("2")
    desk.release("3")
    assert desk.ask("5") == "a"  # one exchange runs on each; a was chosen third, b fourth


def test_waits_first_come_first_served(desk: Desk) -> None:
    desk.add("a")
    assert [desk.ask(n) for n in "123"] == ["a", None, None]
    desk.release("1")
    assert (desk.worker_of("2"), desk.worker_of("3")) == ("a", None)
    desk.release("2")
    assert desk.worker_of("3") == "a"


def test_a_newcomer_does_not_overtake(desk: Desk) -> None:
    desk.add("a")
    desk.ask("1")
    desk.ask("2")
    desk.release("1")
    assert desk.ask("3") is None


def test_a_better_rank_that_is_busy_is_waited_for(desk: Desk) -> None:
    desk.add("best", priority=1)
    desk.add("other")
    assert desk.ask("1") == "best"
    assert desk.ask("2") is None
    desk.release("1")
    assert desk.worker_of("2") == "best"


def test_what_was_tried_in_vain_is_left_out(desk: Desk) -> None:
    best, other = desk.add("best", priority=1), desk.add("other")
    assert desk.ask("1", excluded=[best]) == "other"
    with pytest.raises(desk.policy.NothingLeft):
        desk.ask("2", excluded=[best, other])


def test_a_full_queue_refuses(policy: Policy) -> None:
    desk = Desk(policy, queue_size=1)
    desk.add("a")
    desk.ask("1")
    desk.ask("2")
    with pytest.raises(policy.QueueFull, match="queue-size"):
        desk.ask("3")
    assert desk.admission.waiting == 1


def test_no_registration_at_all(desk: Desk) -> None:
    with pytest.raises(desk.policy.NothingLeft):
        desk.ask("1")


def test_a_worker_that_goes_leaves_its_waiting_requests_to_the_rest(desk: Desk) -> None:
    desk.add("a", priority=1)
    desk.add("b")
    desk.ask("1")
    desk.ask("2")
    desk.remove("a")
    assert desk.worker_of("2") == "b"


def test_requests_that_nobody_can_serve_any_more_are_told(desk: Desk) -> None:
    desk.add("a")
    desk.ask("1")
    desk.ask("2")
    desk.remove("a")
    assert desk.grants["2"] is None
    assert desk.admission.waiting == 0


def test_a_withdrawn_ticket_gets_nothing(desk: Desk) -> None:
    desk.add("a")
    for name in "123":
        desk.ask(name)
    desk.withdraw("2")
    desk.release("1")
    assert "2" not in desk.grants
    assert desk.worker_of("3") == "a"


def test_registrations_of_one_worker_have_limits_of_their_own(desk: Desk) -> None:
    desk.add("a", 1)
    desk.add("a", 2, type_="y")
    assert [desk.ask("1"), desk.ask("2"), desk.ask("3", "y"), desk.ask("4", "y"), desk.ask("5", "y")] == [
        "a", None, "a", "a", None,
    ]  # fmt: skip


def test_registrations_that_state_no_limit_share_the_default(desk: Desk) -> None:
    desk.add("a", 0)
    desk.add("a", 0, type_="y")
    desk.add("b", 0, type_="z")
    assert [desk.ask("1"), desk.ask("2", "y"), desk.ask("3"), desk.ask("4", "z")] == ["a", "a", None, "b"]


def test_slots_of_a_worker_that_left_count_when_it_comes_back(desk: Desk) -> None:
    desk.add("a")
    desk.ask("1")
    desk.remove("a")
    desk.add("a")
    assert desk.ask("2") is None
    desk.release("1")
    assert desk.worker_of("2") == "a"


class AdmissionAgainstRules(RuleBasedStateMachine):
    """Random requests, ends, comings and goings: limits hold, nobody waits in vain, the order is kept."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.desk = Desk(policy, queue_size=1000)
        self.asked: list[str] = []
        """Who has come and not gone before his turn."""

    @rule(worker=st.sampled_from("abc"), limit=st.integers(1, 3))
    def come(self, worker: str, limit: int) -> None:
        self.desk.add(worker, limit)

    @rule(worker=st.sampled_from("abc"))
    def go(self, worker: str) -> None:
        self.desk.remove(worker)

    @rule()
    def ask(self) -> None:
        name = str(len(self.desk.tickets) + 1)
        try:
            self.desk.ask(name)
        except self.desk.policy.NothingLeft:
            assert not len(self.desk.registry)
        else:
            self.asked.append(name)

    @precondition(lambda self: self.desk.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.desk.release(data.draw(st.sampled_from(self.desk.running)))

    @precondition(lambda self: self.desk.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.desk.waiting))
        self.desk.withdraw(name)
        self.asked.remove(name)

    @invariant()
    def limits_hold(self) -> None:
        for registered in self.desk.registry:
            load = self.desk.admission.in_flight(registered.worker_id)
            assert load == sum(self.desk.worker_of(name) == registered.worker_id for name in self.desk.running)
            # A worker that lowers its limit ends what it has begun.
            if load < registered.max_concurrency:
                assert self.desk.admission.waiting == 0

    @invariant()
    def order_is_kept(self) -> None:
        assert self.desk.admission.waiting == len(self.desk.waiting)
        if self.desk.waiting:
            behind = self.asked[self.asked.index(self.desk.waiting[0]) :]
            assert behind == self.desk.waiting, "a later request overtook"


def test_admission_against_rules(policy: Policy) -> None:
    run_state_machine_as_test(lambda: AdmissionAgainstRules(policy))  # type: ignore[arg-type]
