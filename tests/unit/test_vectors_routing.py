"""Each vector of capabilities.json, patterns.json and routing.json through the reference agent's routing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from anyserve._proto import worker_management_pb2 as pb
from anyserve.agent.management_service import registration_of
from anyserve.agent.registry import Registration, Registry, Target
from anyserve.capability import Capability, InvalidCapability, InvalidQuery, Match, Pattern, Query, decode_capability
from anyserve.errors import Code, InferenceError
from anyserve_conformance.vectors import Vector, as_text, load

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
def test_capability(vector: Vector) -> None:
    items = items_of(vector["capability"])
    assert len(items) == len(vector["capability"])
    if "refused" in vector:
        with pytest.raises(InvalidCapability):
            Capability(items)
        return
    encoded = as_text(vector["encoded"])
    assert Capability(items).encoded == encoded
    assert Capability(dict(reversed(items.items()))).encoded == encoded
    assert dict(decode_capability(encoded)) == items


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
def test_decoding_of_a_pattern(vector: Vector) -> None:
    value = as_text(vector["value"])
    if "refused" in vector:
        with pytest.raises(InvalidQuery, match="x-cap-k"):
            Query.parse((("k", value),))
    else:
        [(key, pattern)] = Query.parse((("k", value),)).patterns
        assert (key, pattern.text) == ("k", as_text(vector["pattern"]))


@named(MATCH)
def test_pattern(vector: Vector) -> None:
    text = as_text(vector["pattern"])
    if "refused" in vector:
        with pytest.raises(InvalidQuery):
            Pattern.parse(text)
        return
    began = time.process_time()
    pattern = Pattern.parse(text)
    for key, wanted in (("exact", Match.EXACT), ("satisfied", Match.PATTERN), ("not_satisfied", Match.NONE)):
        values = list(map(as_text, vector[key]))
        assert {value: pattern.match(value) for value in values} == dict.fromkeys(values, wanted)
    assert time.process_time() - began < 5  # going back over each star would take longer than the universe has


@named(QUERY)
def test_query(vector: Vector) -> None:
    pairs = tuple((key, value) for key, value in vector["query"])
    if "refused" in vector:
        with pytest.raises(InvalidQuery, match=r"x-cap-|33"):
            Query.parse(pairs)
    else:
        exact = vector.get("exact_keys")
        assert Query.parse(pairs).exact_matches(vector["capability"]) == exact
        assert Query.parse(pairs[::-1]).exact_matches(Capability(vector["capability"])) == exact


def registration(content: Mapping[str, Any]) -> tuple[str, Registration]:
    """A vector's registration as RegisterModel would take it, with its label."""
    fields = {key: value for key, value in content.items() if key not in ("label", "worker")}
    request = pb.RegisterModelRequest(worker_id=content["worker"], worker_address="unix:///s", **fields)
    return content.get("label", content["worker"]), registration_of(request)


def test_labels_are_unique() -> None:
    for vector in ROUTING:
        labels = [registration(each)[0] for each in vector["registrations"]]
        assert len(set(labels)) == len(labels), vector.name
        grouped = [label for group in vector.get("groups", ()) for label in group]
        assert set(grouped) <= set(labels), vector.name
        assert len(set(grouped)) == len(grouped), vector.name


@named(ROUTING)
@pytest.mark.parametrize("backwards", [False, True], ids=["as-given", "backwards"])
def test_routing(vector: Vector, backwards: bool) -> None:
    """The groups are the same in whatever order the workers came, if none of them replaces another."""
    registry = Registry(max_workers=100, max_registrations=100)
    labels: dict[int, str] = {}
    registrations = [registration(each) for each in vector["registrations"]]
    if backwards and vector.requirement != "manage.register.replace":
        registrations.reverse()
    for label, each in registrations:
        registry.register(each)
        labels[id(each)] = label
    request = vector["request"]
    call = request.get("call", "ModelInfer")
    assert call in ("ModelInfer", "ModelStreamInfer")
    query = Query.parse(request["query"]) if "query" in request else None
    target = Target(request.get("model_name", ""), request.get("model_version", ""), query, call == "ModelInfer")
    groups = [sorted(labels[id(each)] for each in tier) for tier in registry.resolve(target).tiers]
    assert groups == [sorted(group) for group in vector.get("groups", ())]
    if not groups:
        streams = bool(registry.resolve(target.streaming_too()).tiers)
        assert vector["status"] == ("UNIMPLEMENTED" if streams else "NOT_FOUND")
