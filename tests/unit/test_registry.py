"""Registrations and what a request means among them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from anyserve.agent.registry import Registry, Target
from support.policies import POLICIES, Policy


class Bench:
    """Makes registrations and registries of one implementation."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def registration(
        self,
        worker: str = "w",
        name: str = "m",
        model_version: str = "",
        priority: int = 0,
        *,
        stream: bool = False,
        **capability: str,
    ) -> Any:
        return self.policy.Registration(
            worker_id=worker,
            socket_path="/s",
            model_name=name,
            model_version=model_version,
            capability=self.policy.Capability(capability or {"type": name or "x"}),
            max_concurrency=1,
            priority=priority,
            stream=stream,
        )

    def registry(self, *registrations: Any, **limits: int) -> Any:
        registry = self.policy.Registry(**{"max_workers": 100, "max_registrations": 100} | limits)
        for each in registrations:
            registry.register(each)
        return registry

    def query(self, **patterns: str) -> Any:
        return self.policy.Target(query=self.policy.Query.parse(tuple(patterns.items())))


@pytest.fixture
def bench(policy: Policy) -> Bench:
    return Bench(policy)


def versions_of(registry: Any, name: str, version: str = "") -> list[str]:
    return [r.listed_version for r in registry.named(name, version)]


class TestVersions:
    @pytest.mark.parametrize(
        ("there", "wanted", "chosen"),
        [
            (["1", "2"], "1", ["1"]),
            (["1", "2"], "3", []),
            (["1", ""], "", [""]),
            (["9", "10"], "", ["10"]),
            (["1.9", "1.10"], "", ["1.9"]),  # decimal numbers, not dotted ones
            (["1", "beta"], "", ["1", "beta"]),
            (["1", "1.0"], "", ["1", "1.0"]),
        ],
    )
    def test_choice(self, bench: Bench, there: list[str], wanted: str, chosen: list[str]) -> None:
        registry = bench.registry(*(bench.registration(worker=f"w{v}", model_version=v) for v in there))
        assert versions_of(registry, "m", wanted) == chosen

    def test_falls_back_to_the_capability_model(self, bench: Bench) -> None:
        registry = bench.registry(
            bench.registration(name="", model="m", version="1"),
            bench.registration("v", name="", model="m", type="x", version="2"),
        )
        assert versions_of(registry, "m") == ["2"]
        assert versions_of(registry, "m", "1") == ["1"]

    def test_a_name_comes_before_a_capability_model(self, bench: Bench) -> None:
        registry = bench.registry(bench.registration("a", name="m"), bench.registration("b", name="other", model="m"))
        assert [r.worker_id for r in registry.named("m")] == ["a"]

    def test_an_unknown_version_of_a_name_falls_back_too(self, bench: Bench) -> None:
        registry = bench.registry(
            bench.registration("a", model_version="1"), bench.registration("b", name="", model="m", version="2")
        )
        assert [r.worker_id for r in registry.named("m", "2")] == ["b"]

    def test_lists_all_versions_in_order(self, bench: Bench) -> None:
        registry = bench.registry(*(bench.registration(f"w{v}", model_version=v) for v in ["10", "beta", "9"]))
        assert registry.versions("m") == ["9", "10", "beta"]


class TestRanking:
    def ranked(self, bench: Bench, query: dict[str, str], *registrations: Any) -> list[list[str]]:
        route = bench.registry(*registrations).resolve(bench.query(**query))
        return [[r.worker_id for r in tier] for tier in route.tiers]

    def test_exact_keys_come_first_then_priority_then_fewest_further_keys(self, bench: Bench) -> None:
        assert self.ranked(
            bench,
            {"type": "a|b*"},
            bench.registration("pattern", type="bc", priority=9),
            bench.registration("more", type="a", x="1", y="2"),
            bench.registration("few", type="a"),
            bench.registration("prior", type="a", x="1", y="2", z="3", priority=1),
            bench.registration("few2", type="a"),
        ) == [["prior"], ["few", "few2"], ["more"], ["pattern"]]

    def test_what_does_not_match_is_not_there(self, bench: Bench) -> None:
        assert self.ranked(bench, {"type": "a", "x": "1"}, bench.registration("w", type="a")) == []

    def test_unary_only_leaves_streams_out(self, bench: Bench) -> None:
        registry = bench.registry(bench.registration("s", stream=True))
        assert registry.resolve(bench.policy.Target("m")).tiers
        assert not registry.resolve(bench.policy.Target("m", unary_only=True)).tiers


class TestLimits:
    def test_workers(self, bench: Bench) -> None:
        registry = bench.registry(bench.registration("a"), max_workers=1)
        registry.register(bench.registration("a", name="second"))
        with pytest.raises(bench.policy.RegistryFull, match="max-workers"):
            registry.register(bench.registration("b"))

    def test_registrations_but_replacing_is_always_possible(self, bench: Bench) -> None:
        registry = bench.registry(bench.registration("a"), max_registrations=1)
        assert registry.register(bench.registration("a", priority=5)) is not None
        with pytest.raises(bench.policy.RegistryFull, match="max-registrations"):
            registry.register(bench.registration("a", name="second"))
        assert [r.priority for r in registry] == [5]


WORKERS, NAMES, VERSIONS = st.sampled_from("abc"), st.sampled_from(["m", "n", ""]), st.sampled_from(["", "1", "2"])
TYPES = st.sampled_from(["x", "y"])


class RegistryAgainstADict(RuleBasedStateMachine):
    """Whatever is registered and removed, the registry answers as a plain dict would."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.bench = Bench(policy)
        self.registry = self.bench.registry(max_registrations=1000)
        self.model: dict[tuple[str, str, str, str], Any] = {}

    @rule(worker=WORKERS, name=NAMES, version=VERSIONS, type_=TYPES, priority=st.integers(0, 2))
    def register(self, worker: str, name: str, version: str, type_: str, priority: int) -> None:
        new = self.bench.registration(worker, name, version, priority, type=type_)
        assert self.registry.register(new) == self.model.get(new.key)
        self.model[new.key] = new

    @rule(worker=WORKERS, name=NAMES, version=VERSIONS)
    def unregister(self, worker: str, name: str, version: str) -> None:
        gone = [k for k in self.model if k[:3] == (worker, name, version)]
        assert self.registry.unregister(worker, name, version) == [self.model.pop(k) for k in gone]

    @rule(worker=WORKERS)
    def unregister_worker(self, worker: str) -> None:
        gone = [k for k in self.model if k[0] == worker]
        removed = self.registry.unregister_worker(worker)
        assert {r.key for r in removed} == set(gone)
        for key in gone:
            del self.model[key]

    @rule(type_=TYPES)
    def resolve(self, type_: str) -> None:
        route = self.registry.resolve(self.bench.query(type=type_))
        found = [registration for tier in route.tiers for registration in tier]
        assert {r.key for r in found} == {k for k, r in self.model.items() if r.capability.get("type") == type_}
        assert [r.priority for r in found] == sorted((r.priority for r in found), reverse=True)

    @invariant()
    def same_content(self) -> None:
        assert {r.key: r for r in self.registry} == self.model
        assert all(bool(self.registry.of_worker(w)) == any(k[0] == w for k in self.model) for w in "abc")
        assert len(self.registry) == len(self.model)


def test_registry_against_a_dict(policy: Policy) -> None:
    run_state_machine_as_test(lambda: RegistryAgainstADict(policy))  # type: ignore[arg-type]


@settings(max_examples=20)
@given(st.integers(1, 3000))
def test_the_route_cache_stays_bounded(targets: int) -> None:
    registry: Registry = Bench(POLICIES["reference"]).registry()
    for n in range(targets):
        assert not registry.resolve(Target(f"unknown-{n}")).tiers
    assert len(registry._routes) <= 1024
