"""Which of several matches a request goes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.routes import answered_by, labelled, served_by
from anyserve_conformance.requirement import requirement

LOOK_AT = "the order of matches: exact keys, then priority, then fewest keys; load only among equals"


@requirement("route.rank.exact")
def test_exact_before_glob(agent: Agent) -> None:
    """A capability that satisfies more keys exactly ranks higher, whatever its priority and number of keys."""
    scope = agent.name("scope")
    labelled(agent, "exact", capability={"scope": scope, "model": "a", "extra": "1", "more": "2"}, priority=-5)
    labelled(agent, "glob", capability={"scope": scope, "model": "b"}, priority=5)
    assert served_by(agent, query={"scope": scope, "model": "a|b*"}, calls=3) == {"exact"}


@requirement("route.rank.exact")
@pytest.mark.parametrize("pattern", ["7*", ">=7", "!=8", "7?|7*"], ids=["glob", "comparison", "not-equal", "globs"])
def test_what_is_not_exact(agent: Agent, pattern: str) -> None:
    """Globs, comparisons and `!=` satisfy a key without being exact: priority decides between equals."""
    scope = agent.name("scope")
    labelled(agent, "same-text", capability={"scope": scope, "size": "70"}, priority=0)
    labelled(agent, "preferred", capability={"scope": scope, "size": "71"}, priority=1)
    assert served_by(agent, query={"scope": scope, "size": pattern}, calls=3) == {"preferred"}


@requirement("route.rank.exact")
def test_by_name_all_are_alike(agent: Agent) -> None:
    """For a request by name no match is more exact than another: priority decides."""
    name = agent.name()
    labelled(agent, "plain", name)
    labelled(agent, "preferred", name, capability={"type": "x", "other": agent.name("y")}, priority=1)
    assert served_by(agent, name, calls=3) == {"preferred"}


@requirement("route.rank.priority")
@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-1, 0), (2, 10), (-(2**31), 2**31 - 1)], ids=["one", "negative", "numbers", "extreme"]
)
def test_priority(agent: Agent, low: int, high: int) -> None:
    """Among equally exact matches the greater priority comes first, before the number of keys."""
    scope = agent.name("scope")
    labelled(agent, "high", capability={"scope": scope, "extra": "1", "more": "2"}, priority=high)
    labelled(agent, "low", capability={"scope": scope}, priority=low)
    assert served_by(agent, query={"scope": scope}, calls=3) == {"high"}


@requirement("route.rank.fewest-keys")
def test_fewest_keys(agent: Agent) -> None:
    """Among matches of one priority the capability with fewer keys comes first."""
    scope = agent.name("scope")
    labelled(agent, "special", capability={"scope": scope, "domain": "law"})
    labelled(agent, "general", capability={"scope": scope})
    assert served_by(agent, query={"scope": scope}, calls=3) == {"general"}


@requirement("route.rank.before-load")
def test_waits_for_the_best(agent: Agent) -> None:
    """A request waits for its best match while one of lower rank is free."""
    scope = agent.name("scope")
    best = agent.worker(worker_id="best", capability={"scope": scope}, max_concurrency=1, priority=1)
    labelled(agent, "free", capability={"scope": scope})
    first = agent.start_infer(wire.request(), query={"scope": scope})
    exchange = best.exchange()
    second = agent.start_infer(wire.request(), query={"scope": scope})
    agent.patience.while_nothing(lambda: second.done, "the second request did not wait for its best match")
    exchange.answer(wire.reply(label="best"))
    best.exchange().answer(wire.reply(label="best"))
    assert [answered_by(call.answer()) for call in (first, second)] == ["best", "best"]


@requirement("route.rank.unreachable")
def test_next_rank_when_unreachable(agent: Agent) -> None:
    """When the best match refuses connections, the next lower rank serves the request."""
    scope = agent.name("scope")
    best = agent.worker(worker_id="best", capability={"scope": scope}, priority=1)
    labelled(agent, "next", capability={"scope": scope})
    labelled(agent, "last", capability={"scope": scope}, priority=-1)
    best.refuse()
    assert served_by(agent, query={"scope": scope}) == {"next"}


@requirement("route.load.fewest", look_at="the load of a worker: its exchanges under way over all registrations")
def test_fewest_exchanges(agent: Agent) -> None:
    """Among equal matches the worker with the fewest exchanges under way is chosen."""
    name = agent.name()
    workers = [agent.worker(name, worker_id=f"w{n}") for n in range(2)]
    calls = [agent.start_infer(name) for _ in range(2)]
    exchanges = {worker.worker_id: worker.exchange() for worker in workers}
    exchanges[workers[0].worker_id].answer()
    agent.patience.until(lambda: any(call.done for call in calls), "the answer of the first exchange")
    for _ in range(3):
        call = agent.start_infer(name)
        workers[0].exchange().answer()
        call.answer().expect_ok()
    assert len(workers[1].requests) == 1, "a busy worker was chosen while another was idle"
    exchanges[workers[1].worker_id].answer()


@requirement("route.load.fewest", look_at="the load of a worker: its exchanges under way over all registrations")
def test_other_registrations_count(agent: Agent) -> None:
    """Exchanges of a worker's other registrations count as well."""
    name, other = agent.name("shared"), agent.name("other")
    busy = agent.worker(name, worker_id="busy")
    agent.management.register(busy, other)
    idle = labelled(agent, "idle", name)
    blocker = agent.start_infer(other)
    exchange = busy.exchange()
    assert served_by(agent, name, calls=3) == {"idle"}
    assert len(idle.requests) == 3
    exchange.answer()
    blocker.answer().expect_ok()


@requirement("route.load.turns")
def test_in_turns(agent: Agent) -> None:
    """Equally loaded workers are chosen in turns: the one chosen longest ago comes next."""
    name = agent.name()
    labels = ["a", "b", "c"]
    for label in labels:
        labelled(agent, label, name)
    order = [answered_by(agent.infer(name)) for _ in range(9)]
    assert Counter(order) == dict.fromkeys(labels, 3), f"not in equal shares: {order}"
    assert order[:3] == order[3:6] == order[6:], f"not in turns: {order}"


@requirement("route.rank.unreachable")
def test_none_can_be_reached(agent: Agent) -> None:
    """When no match can be reached the request ends with UNAVAILABLE, not NOT_FOUND."""
    name = agent.name()
    worker = agent.worker(name)
    worker.refuse()
    agent.infer(name).expect(StatusCode.UNAVAILABLE)


# Any set of capabilities and any query, against the definition said as plainly as possible.

VALUES = ("1", "2", "10", "a", "ab", "b")
PATTERNS: dict[str, Callable[[str], bool]] = {
    **{value: value.__eq__ for value in VALUES},
    "a*": lambda text: text.startswith("a"),
    "?": lambda text: len(text) == 1,
    "a|10": lambda text: text in ("a", "10"),
    "b|a*": lambda text: text == "b" or text.startswith("a"),
    "!=a": lambda text: text != "a",
    ">=2": lambda text: text in ("2", "10"),
    "<10": lambda text: text in ("1", "2"),
}
EXACT = {**{value: {value} for value in VALUES}, "a|10": {"a", "10"}, "b|a*": {"b"}}
CAPABILITIES = st.dictionaries(st.sampled_from("xyz"), st.sampled_from(VALUES), max_size=3)


def best_of(offers: list[tuple[dict[str, str], int]], query: dict[str, str]) -> set[int]:
    """The numbers of the offers that rank highest."""
    ranks = {}
    for number, (capability, priority) in enumerate(offers):
        if all(key in capability and PATTERNS[pattern](capability[key]) for key, pattern in query.items()):
            exact = sum(capability[key] in EXACT.get(pattern, ()) for key, pattern in query.items())
            ranks[number] = (exact, priority, -len(capability))
    return {number for number, rank in ranks.items() if rank == max(ranks.values())}


@requirement("route.match.all-keys", "route.rank.exact", "route.rank.priority", "route.rank.fewest-keys")
@given(
    st.lists(st.tuples(CAPABILITIES, st.integers(-1, 1)), min_size=1, max_size=6),
    st.lists(
        st.dictionaries(st.sampled_from("xyz"), st.sampled_from(sorted(PATTERNS)), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    ),
)
def test_any_capabilities_and_queries(
    agent: Agent, offers: list[tuple[dict[str, str], int]], queries: list[dict[str, str]]
) -> None:
    """Whatever is offered and asked for, a request goes to one of the best matches, or is NOT_FOUND."""
    scope = {"scope": agent.name(f"any-{len(agent.workers)}")}
    workers = [
        labelled(agent, str(number), capability={**scope, **capability}, priority=priority)
        for number, (capability, priority) in enumerate(offers)
    ]
    for query in queries:
        best = best_of(offers, query)
        for _ in best or [None]:
            answer = agent.infer(wire.request(), query={**scope, **query})
            if not best:
                answer.expect(StatusCode.NOT_FOUND)
                continue
            label = answered_by(answer)
            assert int(label) in best, f"{query} over {offers} went to number {label}, not to one of {best}"
    for worker in workers:
        assert agent.management.unregister(worker.worker_id)
