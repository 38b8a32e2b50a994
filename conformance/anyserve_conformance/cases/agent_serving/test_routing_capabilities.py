"""What a capability may be, and how a worker is told of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_conformance import vectors, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.requirement import requirement, vector_cases

LOOK_AT = "the check of a capability's keys and values at registration, and its encoding in anyserve_capability"
VECTORS = vectors.load("capabilities")
KEY = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def _capability(vector: vectors.Vector) -> dict[str, str]:
    pairs = vector["capability"]
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return {vectors.as_text(key): vectors.as_text(value) for key, value in items}


@pytest.mark.parametrize("vector", vector_cases(v for v in VECTORS if not v.get("refused")))
def test_taken(agent: Agent, vector: vectors.Vector) -> None:
    """A capability within the rules is taken, and its worker is told it in its encoding."""
    name = agent.name()
    worker = agent.worker(name, capability=_capability(vector), answer=lambda _: b"")
    agent.infer(name).expect_ok()
    told = wire.parameters_of(wire.request().FromString(worker.requests[0]))["anyserve_capability"]
    assert told == vectors.as_text(vector["encoded"]), "anyserve_capability is encoded otherwise"


@pytest.mark.parametrize("vector", vector_cases(v for v in VECTORS if v.get("refused")))
def test_refused(agent: Agent, vector: vectors.Vector) -> None:
    """A capability against the rules is refused with INVALID_ARGUMENT, and is not routable."""
    name = agent.name()
    worker = agent.listener()
    agent.management.refused(agent.management.registration(worker, name, capability=_capability(vector)))
    assert agent.management.listed(worker.worker_id) is None, "the refused worker is listed"


@requirement("route.capability.encoding")
@given(
    st.dictionaries(
        st.from_regex(KEY, fullmatch=True).filter(lambda key: len(key) <= 64 and not key.endswith("-bin")),
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40),
        min_size=1,
        max_size=6,
    )
)
def test_encoding_of_any_capability(agent: Agent, capability: dict[str, str]) -> None:
    """Any capability reaches the worker as pairs in the order of their keys, percent-encoded."""
    name = agent.name()
    worker = agent.listener(answer=lambda _: b"")
    agent.management.register(worker, name, capability=capability)
    agent.infer(name).expect_ok()
    told = wire.parameters_of(wire.request().FromString(worker.requests[-1]))["anyserve_capability"]
    assert told == wire.capability_text(capability), f"{capability} was told as {told}"
    assert agent.management.unregister(worker.worker_id)
