"""Any requests, ends, withdrawals, comings and goings: everybody gets the same place at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.desk import Desk
from support.examples import examples
from support.policies import Policy
from support.same import same

Both = tuple[Policy, Policy]

workers, types = st.sampled_from("abc"), st.sampled_from("xy")
patterns = st.sampled_from(["x", "y", "x|y", "*"])


class Desks(RuleBasedStateMachine):
    """An admission of each implementation, with the same to do.

    What waits and what runs is told by `tests/unit/test_queues.py` to be right; here it is the same, in detail.
    """

    def __init__(self, both: Both) -> None:
        super().__init__()
        self.both = both
        self.registered: dict[tuple[str, str], dict[str, Any]] = {}  # worker and type: registrations by implementation

    @initialize(queue_size=st.sampled_from([0, 1, 2, 3, 100]))
    def begin(self, queue_size: int) -> None:
        self.desks = {policy.name: Desk(policy, queue_size=queue_size) for policy in self.both}
        self.one = next(iter(self.desks.values()))

    def agreed(self, act: Callable[[Desk], Any]) -> None:
        """The same happens at both desks; whoever has waited is told the same."""

        def done(policy: Policy) -> Any:
            desk = self.desks[policy.name]
            desk.told.clear()
            result = act(desk)
            # The spec fixes the order of those who get a place; the others are only told.
            served = [(name, worker) for name, worker in desk.told if worker is not None]
            return result, served, sorted(name for name, worker in desk.told if worker is None)

        same(self.both, done)

    @rule(
        worker=workers,
        type_=types,
        limit=st.integers(0, 3),
        priority=st.integers(0, 1),
        stream=st.booleans(),
    )
    def come(self, worker: str, type_: str, limit: int, priority: int, stream: bool) -> None:
        def come(desk: Desk) -> None:
            added = desk.add(worker, limit, priority, type_, stream=stream)
            self.registered.setdefault((worker, type_), {})[desk.policy.name] = added

        self.agreed(come)

    @rule(worker=workers)
    def go(self, worker: str) -> None:
        self.agreed(lambda desk: desk.remove(worker))

    @rule(type_=patterns, unary_only=st.booleans(), data=st.data())
    def ask(self, type_: str, unary_only: bool, data: st.DataObject) -> None:
        tried = data.draw(st.sets(st.sampled_from(sorted(self.registered)), max_size=2)) if self.registered else set()
        name = str(len(self.one.tickets) + 1)

        def ask(desk: Desk) -> str | None:
            excluded = [self.registered[each][desk.policy.name] for each in tried]
            return desk.ask(name, type_, excluded, unary_only=unary_only)

        self.agreed(ask)

    @precondition(lambda self: self.one.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.one.running))
        self.agreed(lambda desk: desk.release(name))

    @precondition(lambda self: self.one.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """Also who does not wait any more, to whom nothing happens."""
        name = data.draw(st.sampled_from(sorted(self.one.tickets)))
        self.agreed(lambda desk: desk.withdraw(name))

    @invariant()
    def the_same_is_told(self) -> None:
        def told(policy: Policy) -> Any:
            desk = self.desks[policy.name]
            loads = [desk.admission.in_flight(worker) for worker in "abc"]
            places = {name: slot.registration.key for name, slot in desk.grants.items() if slot is not None}
            return desk.admission.waiting, desk.admission.depths(), loads, places, desk.waiting

        waiting, depths, loads, places, names = same(self.both, told)
        assert waiting == sum(depths.values()) == len(names)
        assert sum(loads) == len(places)


def test_admissions(both: Both) -> None:
    run_state_machine_as_test(
        lambda: Desks(both),  # type: ignore[arg-type]
        settings=examples(80, stateful_step_count=40),
    )
