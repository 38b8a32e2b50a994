"""Each vector of capabilities.json, patterns.json and routing.json through the routing of an agent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from anyserve._proto import worker_management_pb2 as pb
from anyserve.agent.management_service import registration_of
from anyserve.capability import Match
from anyserve.errors import Code, InferenceError
from anyserve_conformance.vectors import Vector, as_text, load
from support.policies import Policy

CAPABILITIES, PATTERNS, ROUTING = load("capabilities"), load("patterns"), load("routing")
DECODE, MATCH, QUERY = ([v for v in PATTERNS if v.kind == kind] for kind in ("decode", "match", "query"))


def named(vectors: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [pytest.param(vector, id=vector.name) for vector in vectors])


def items_of(pairs: list[list[Any]]) -> dict[str, str]:
    return {as_text(key): as_text(value) for key, value in pairs}


def test_each_vector_says_one_thing_that_is_expected() -> None:
    for vector in CAPABILITIES:
        assert ("encoded" in vector) != (vector.get("refused") is True), vector.name
    for vector in DECODE:
        assert ("pattern" in vector) != (vector.get("refused") is True), vector.name
    for vector in MATCH:
        lists = {key for key in ("exact", "satisfied", "not_satisfied") if key in vector}
        assert len(lists) == (0 if vector.get("refused") is True else 3), vector.name
    for vector in QUERY:
        told = {key for key in ("exact_keys", "match", "refused") if key in vector}
        assert len(told) == 1, vector.name
        assert vector.get("match", False) is False, vector.name
        assert vector.get("refused", True) is True, vector.name
        assert ("capability" in vector) != ("refused" in vector), vector.name
    for vector in ROUTING:
        assert ("groups" in vector) != ("status" in vector), vector.name


@named(CAPABILITIES)
def test_capability(policy: Policy, vector: Vector) -> None:
    items = items_of(vector["capability"])
    assert len(items) == len(vector["capability"])
    if "refused" in vector:
        with pytest.raises(policy.InvalidCapability):
            policy.Capability(items)
        return
    encoded = as_text(vector["encoded"])
    assert policy.Capability(items).encoded == encoded
    assert policy.Capability(dict(reversed(items.items()))).encoded == encoded
    assert dict(policy.decode_capability(encoded).items()) == items


@named(CAPABILITIES)
def test_capability_in_a_registration(vector: Vector) -> None:
    request = pb.RegisterModelRequest(
        worker_id="w", worker_address="unix:///s", capability=items_of(vector["capability"])
    )
    if "refused" in vector:
        with pytest.raises(InferenceError) as refusal:
            registration_of(request)
        assert refusal.value.code is Code.INVALID_ARGUMENT
    else:
        assert registration_of(request).capability.encoded == as_text(vector["encoded"])


@named(DECODE)
def test_decoding_of_a_pattern(policy: Policy, vector: Vector) -> None:
    value = as_text(vector["value"])
    if "refused" in vector:
        with pytest.raises(policy.InvalidQuery, match="x-cap-k"):
            policy.Query.parse((("k", value),))
    else:
        assert str(policy.Query.parse((("k", value),))) == f"{{k: {as_text(vector['pattern'])}}}"


@named(MATCH)
def test_pattern(policy: Policy, vector: Vector) -> None:
    text = as_text(vector["pattern"])
    if "refused" in vector:
        with pytest.raises(policy.InvalidQuery):
            policy.Pattern.parse(text)
        return
    began = time.process_time()
    pattern = policy.Pattern.parse(text)
    for key, wanted in (("exact", Match.EXACT), ("satisfied", Match.PATTERN), ("not_satisfied", Match.NONE)):
        values = list(map(as_text, vector[key]))
        assert {value: pattern.match(value) for value in values} == dict.fromkeys(values, wanted)
    assert time.process_time() - began < 5  # going back over each star would take longer than the universe has


@named(QUERY)
def test_query(policy: Policy, vector: Vector) -> None:
    pairs = tuple((key, value) for key, value in vector["query"])
    if "refused" in vector:
        with pytest.raises(policy.InvalidQuery, match=r"x-cap-|33"):
            policy.Query.parse(pairs)
    else:
        exact = vector.get("exact_keys")
        capability = policy.Capability(vector["capability"])
        assert policy.Query.parse(pairs).exact_matches(capability) == exact
        assert policy.Query.parse(pairs[::-1]).exact_matches(capability) == exact


def label_of(content: Mapping[str, Any]) -> str:
    """The label of a vector's registration."""
    label: str = content.get("label", content["worker"])
    return label


def registration(policy: Policy, content: Mapping[str, Any]) -> Any:
    """A vector's registration as RegisterModel would take it."""
    fields = {key: value for key, value in content.items() if key not in ("label", "worker")}
    taken = registration_of(pb.RegisterModelRequest(worker_id=content["worker"], worker_address="unix:///s", **fields))
    same = ("worker_id", "socket_path", "model_name", "model_version", "max_concurrency", "stream", "priority")
    capability = policy.Capability(dict(taken.capability))
    return policy.Registration(capability=capability, **{name: getattr(taken, name) for name in same})


def test_labels_are_unique() -> None:
    for vector in ROUTING:
        labels = [label_of(each) for each in vector["registrations"]]
        assert len(set(labels)) == len(labels), vector.name
        grouped = [label for group in vector.get("groups", ()) for label in group]
        assert set(grouped) <= set(labels), vector.name
        assert len(set(grouped)) == len(grouped), vector.name


@named(ROUTING)
@pytest.mark.parametrize("backwards", [False, True], ids=["as-given", "backwards"])
def test_routing(policy: Policy, vector: Vector, backwards: bool) -> None:
    """The groups are the same in whatever order the workers came, if none of them replaces another."""
    registry = policy.Registry(max_workers=100, max_registrations=100)
    labels: dict[int, str] = {}
    registrations = [(label_of(each), registration(policy, each)) for each in vector["registrations"]]
    if backwards and vector.requirement != "manage.register.replace":
        registrations.reverse()
    for label, each in registrations:
        registry.register(each)
        labels[id(each)] = label
    request = vector["request"]
    call = request.get("call", "ModelInfer")
    assert call in ("ModelInfer", "ModelStreamInfer")
    query = policy.Query.parse(tuple(request["query"].items())) if "query" in request else None
    target = policy.Target(request.get("model_name", ""), request.get("model_version", ""), query, call == "ModelInfer")
    groups = [sorted(labels[id(each)] for each in tier) for tier in registry.resolve(target).tiers]
    assert groups == [sorted(group) for group in vector.get("groups", ())]
    if not groups:
        streams = bool(registry.resolve(target.streaming_too()).tiers)
        assert vector["status"] == ("UNIMPLEMENTED" if streams else "NOT_FOUND")
