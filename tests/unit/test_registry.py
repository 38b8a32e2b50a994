"""Registrations and what a request means among them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anyserve.agent.registry import Registration, Registry, RegistryFull, Target
from anyserve.capability import Capability, Query


def registration(
    worker: str = "w", name: str = "m", model_version: str = "", priority: int = 0, **capability: str
) -> Registration:
    return Registration(
        worker_id=worker,
        socket_path="/s",
        model_name=name,
        model_version=model_version,
        capability=Capability(capability or {"type": name or "x"}),
        max_concurrency=1,
        priority=priority,
        stream=False,
    )


def registry_of(*registrations: Registration, **limits: int) -> Registry:
    registry = Registry(**{"max_workers": 100, "max_registrations": 100} | limits)
    for each in registrations:
        registry.register(each)
    return registry


def versions_of(registry: Registry, name: str, version: str = "") -> list[str]:
    return [r.model_version or r.capability.get("version", "") for r in registry.named(name, version)]


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
    def test_choice(self, there: list[str], wanted: str, chosen: list[str]) -> None:
        registry = registry_of(*(registration(worker=f"w{v}", model_version=v) for v in there))
        assert versions_of(registry, "m", wanted) == chosen

    def test_falls_back_to_the_capability_model(self) -> None:
        registry = registry_of(
            registration(name="", model="m", version="1"), registration("v", name="", model="m", type="x", version="2")
        )
        assert versions_of(registry, "m") == ["2"]
        assert versions_of(registry, "m", "1") == ["1"]

    def test_a_name_comes_before_a_capability_model(self) -> None:
        registry = registry_of(registration("a", name="m"), registration("b", name="other", model="m"))
        assert [r.worker_id for r in registry.named("m")] == ["a"]

    def test_an_unknown_version_of_a_name_falls_back_too(self) -> None:
        registry = registry_of(registration("a", model_version="1"), registration("b", name="", model="m", version="2"))
        assert [r.worker_id for r in registry.named("m", "2")] == ["b"]

    def test_lists_all_versions_in_order(self) -> None:
        registry = registry_of(*(registration(f"w{v}", model_version=v) for v in ["10", "beta", "9"]))
        assert registry.versions("m") == ["9", "10", "beta"]


class TestRanking:
    def ranked(self, query: dict[str, str], *registrations: Registration) -> list[list[str]]:
        route = registry_of(*registrations).resolve(Target(query=Query.parse(query)))
        return [[r.worker_id for r in tier] for tier in route.tiers]

    def test_exact_keys_come_first_then_priority_then_fewest_further_keys(self) -> None:
        assert self.ranked(
            {"type": "a|b*"},
            registration("pattern", type="bc", priority=9),
            registration("more", type="a", x="1", y="2"),
            registration("few", type="a"),
            registration("prior", type="a", x="1", y="2", z="3", priority=1),
            registration("few2", type="a"),
        ) == [["prior"], ["few", "few2"], ["more"], ["pattern"]]

    def test_what_does_not_match_is_not_there(self) -> None:
        assert self.ranked({"type": "a", "x": "1"}, registration("w", type="a")) == []

    def test_unary_only_leaves_streams_out(self) -> None:
        stream = registration("s")
        registry = registry_of(Registration(**{f: getattr(stream, f) for f in stream.__slots__} | {"stream": True}))
        assert registry.resolve(Target("m")).tiers
        assert not registry.resolve(Target("m", unary_only=True)).tiers


class TestLimits:
    def test_workers(self) -> None:
        registry = registry_of(registration("a"), max_workers=1)
        registry.register(registration("a", name="second"))
        with pytest.raises(RegistryFull, match="max-workers"):
            registry.register(registration("b"))

    def test_registrations_but_replacing_is_always_possible(self) -> None:
        registry = registry_of(registration("a"), max_registrations=1)
        assert registry.register(registration("a", priority=5)) is not None
        with pytest.raises(RegistryFull, match="max-registrations"):
            registry.register(registration("a", name="second"))
        assert [r.priority for r in registry] == [5]


WORKERS, NAMES, VERSIONS = st.sampled_from("abc"), st.sampled_from(["m", "n", ""]), st.sampled_from(["", "1", "2"])
TYPES = st.sampled_from(["x", "y"])


class RegistryAgainstADict(RuleBasedStateMachine):
    """Whatever is registered and removed, the registry answers as a plain dict would."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(max_workers=100, max_registrations=1000)
        self.model: dict[tuple[str, str, str, str], Registration] = {}

    @rule(worker=WORKERS, name=NAMES, version=VERSIONS, type_=TYPES, priority=st.integers(0, 2))
    def register(self, worker: str, name: str, version: str, type_: str, priority: int) -> None:
        new = registration(worker, name, version, priority, type=type_)
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
        route = self.registry.resolve(Target(query=Query.parse({"type": type_})))
        found = list(route.registrations)
        assert {r.key for r in found} == {k for k, r in self.model.items() if r.capability["type"] == type_}
        assert [r.priority for r in found] == sorted((r.priority for r in found), reverse=True)

    @invariant()
    def same_content(self) -> None:
        assert {r.key: r for r in self.registry} == self.model
        assert set(self.registry.workers()) == {k[0] for k in self.model}
        assert len(self.registry) == len(self.model)


TestRegistryAgainstADict = RegistryAgainstADict.TestCase


@settings(max_examples=20)
@given(st.integers(1, 3000))
def test_the_route_cache_stays_bounded(targets: int) -> None:
    registry = registry_of(registration())
    for n in range(targets):
        assert not registry.resolve(Target(f"unknown-{n}")).tiers
    assert len(registry._routes) <= 1024
