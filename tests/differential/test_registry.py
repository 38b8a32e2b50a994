"""Any registrations and any targets: the same is found in the same order, and it is what the plain rules say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from support.examples import examples
from support.policies import Policy
from support.same import same

Both = tuple[Policy, Policy]
Key = tuple[str, str, str, str]

VALUES = ("1", "2", "10", "a", "ab", "b")
PATTERNS: Mapping[str, Callable[[str], bool]] = {
    **{value: value.__eq__ for value in VALUES},
    "a*": lambda text: text.startswith("a"),
    "?": lambda text: len(text) == 1,
    "a|10": lambda text: text in ("a", "10"),
    "b|a*": lambda text: text == "b" or text.startswith("a"),
    "!=a": lambda text: text != "a",
    ">=2": lambda text: text in ("2", "10"),
    "<10": lambda text: text in ("1", "2"),
}
EXACT: Mapping[str, set[str]] = {**{value: {value} for value in VALUES}, "a|10": {"a", "10"}, "b|a*": {"b"}}

workers = st.sampled_from("abc")
names = st.sampled_from(["m", "n", ""])
versions = st.sampled_from(["", "1", "1.0", "2", "10", "beta"])
named_capabilities = st.fixed_dictionaries({"model": st.sampled_from("mn")}, optional={"version": versions.filter(len)})
capabilities = st.one_of(
    st.dictionaries(st.sampled_from("xyz"), st.sampled_from(VALUES), min_size=1, max_size=3), named_capabilities
)
queries = st.dictionaries(st.sampled_from("xyz"), st.sampled_from(sorted(PATTERNS)), min_size=1, max_size=3)


class Registries(RuleBasedStateMachine):
    """The registries of both, and a plain list of what is registered, in the order in which it came."""

    def __init__(self, both: Both) -> None:
        super().__init__()
        self.both = both
        self.model: list[Any] = []

    @initialize(max_workers=st.integers(2, 3), max_registrations=st.integers(4, 30))
    def begin(self, max_workers: int, max_registrations: int) -> None:
        limits = {"max_workers": max_workers, "max_registrations": max_registrations}
        self.registries = {policy.name: policy.Registry(**limits) for policy in self.both}

    def agreed(self, act: Any) -> Any:
        """What comes of `act(policy, registry)`, the same in both."""
        return same(self.both, lambda policy: act(policy, self.registries[policy.name]))

    @rule(
        worker=workers,
        name=names,
        version=versions,
        capability=capabilities,
        stream=st.booleans(),
        priority=st.integers(-1, 1),
    )
    def register(self, worker: str, name: str, version: str, capability: dict[str, str], **more: Any) -> None:
        def act(policy: Policy, registry: Any) -> Any:
            added = policy.Registration(worker, "/s", name, version, policy.Capability(capability), 1, **more)
            replaced = registry.register(added)
            return facts(added), replaced and facts(replaced)

        done = self.agreed(act)
        if isinstance(done, str):
            assert "max-workers" in done or "max-registrations" in done
            return
        added, replaced = done
        if replaced is None:
            self.model.append(added)
        else:
            self.model[self.model.index(replaced)] = added

    @rule(worker=workers, name=names, version=versions)
    def unregister(self, worker: str, name: str, version: str) -> None:
        gone = self.agreed(lambda _, registry: [facts(r) for r in registry.unregister(worker, name, version)])
        assert gone == [each for each in self.model if each["key"][:3] == (worker, name, version)]
        self.model = [each for each in self.model if each not in gone]

    @rule(worker=workers)
    def unregister_worker(self, worker: str) -> None:
        gone = self.agreed(lambda _, registry: [facts(r) for r in registry.unregister_worker(worker)])
        assert gone == [each for each in self.model if each["key"][0] == worker]
        self.model = [each for each in self.model if each not in gone]

    @rule(query=queries, unary_only=st.booleans())
    def ask(self, query: dict[str, str], unary_only: bool) -> None:
        tiers = self.agreed(
            lambda policy, registry: resolved(
                registry, policy.Target(query=policy.Query.parse(tuple(query.items())), unary_only=unary_only)
            )
        )
        assert tiers == ranked([each for each in self.model if not (unary_only and each["stream"])], query)

    @rule(name=names, version=versions, unary_only=st.booleans())
    def ask_by_name(self, name: str, version: str, unary_only: bool) -> None:
        tiers = self.agreed(lambda policy, registry: resolved(registry, policy.Target(name, version, None, unary_only)))
        found = by_name(self.model, name, version)
        assert tiers == ranked([each for each in found if not (unary_only and each["stream"])], {})

    @invariant()
    def all_that_is_told(self) -> None:
        def told(_: Policy, registry: Any) -> Any:
            return (
                [facts(r) for r in registry],
                len(registry),
                [[r.key for r in registry.of_worker(worker)] for worker in "abc"],
                [[registry.versions(name), [r.key for r in registry.named_any_version(name)]] for name in ("m", "n")],
                registry.model_names(),
            )

        assert self.agreed(told)[0] == self.model


def facts(registration: Any) -> dict[str, Any]:
    fields = ("key", "stream", "priority", "listed_name", "listed_version")
    return {field: getattr(registration, field) for field in fields} | {
        "capability": dict(registration.capability.items())
    }


def resolved(registry: Any, target: Any) -> list[list[Key]]:
    return [[registration.key for registration in tier] for tier in registry.resolve(target).tiers]


def ranked(registrations: list[Any], query: dict[str, str]) -> list[list[Key]]:
    """`route.match.*` and `route.rank.*`, said plainly."""
    ranks = []
    for each in registrations:
        capability = each["capability"]
        if all(key in capability and PATTERNS[pattern](capability[key]) for key, pattern in query.items()):
            exact = sum(capability[key] in EXACT.get(pattern, ()) for key, pattern in query.items())
            ranks.append(((-exact, -each["priority"], len(capability)), each["key"]))
    ranks.sort(key=lambda rank: rank[0])
    return [[key for _, key in tier] for _, tier in groupby(ranks, key=lambda rank: rank[0])]


def by_name(registrations: list[Any], name: str, version: str) -> list[Any]:
    """`route.name.*` and `route.version.*`, said plainly."""
    registered = [(each, each["key"][2]) for each in registrations if name and each["key"][1] == name]
    offered = [(r, r["capability"].get("version", "")) for r in registrations if r["capability"].get("model") == name]
    for found in (registered, offered):
        if version:
            chosen = [each for each, its in found if its == version]
        elif any(its in ("", "beta") for _, its in found):
            chosen = [each for each, its in found if not its] or [each for each, _ in found]
        else:
            newest = max((float(its) for _, its in found), default=0)
            chosen = [each for each, its in found if float(its) == newest]
        if chosen:
            return chosen
    return []


def test_registries(both: Both) -> None:
    run_state_machine_as_test(
        lambda: Registries(both),  # type: ignore[arg-type]
        settings=examples(60, stateful_step_count=25),
    )
