"""Queries in x-cap-* metadata, and what their patterns mean."""

from __future__ import annotations

import re
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from anyserve_conformance import proto, vectors, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.routes import answered_by, is_value, labelled, served_by
from anyserve_conformance.requirement import not_applicable, requirement, vector_cases

LOOK_AT = "the reading of x-cap-* metadata into a query, before anything is routed"
PATTERNS = vectors.load("patterns")
MAX_KEYS = 32
MAX_METADATA = 7_000  # bytes; with what gRPC itself sends it stays below 8 KiB


def _of(kind: str, *, refused: bool) -> list[Any]:
    return vector_cases(v for v in PATTERNS if v.kind == kind and bool(v.get("refused")) is refused)


@requirement("route.query.metadata")
def test_one_key(agent: Agent) -> None:
    """A request with x-cap-* metadata goes to the registration with that capability."""
    lang = agent.name("de")
    labelled(agent, "right", capability={"lang": lang})
    labelled(agent, "wrong", capability={"lang": agent.name("en")})
    assert served_by(agent, query={"lang": lang}, calls=3) == {"right"}


@requirement("route.query.metadata")
def test_several_keys(agent: Agent) -> None:
    """All keys of the metadata belong to one query."""
    task = agent.name("task")
    labelled(agent, "right", capability={"task": task, "size": "large"})
    labelled(agent, "wrong", capability={"task": task, "size": "small"})
    assert served_by(agent, query={"task": task, "size": "large"}, calls=3) == {"right"}


@requirement("route.query.metadata")
def test_each_request_of_a_stream(agent: Agent) -> None:
    """The query of a ModelStreamInfer call holds for each of its requests."""
    task = agent.name("task")
    worker = labelled(agent, "right", capability={"task": task})
    stream = agent.stream(query={"task": task})
    for number in ("1", "2"):
        stream.send(wire.request(request_id=number))
        reply = stream.receive()
        assert not reply.error, f"request {number} failed: {reply.error}"
        assert reply.response.id == number, "a response came for another request"
    assert len(worker.requests) == 2, "not both requests reached the worker"
    stream.end().answer().expect_ok()


@requirement("route.query.before-name")
def test_the_name_counts_for_nothing(agent: Agent) -> None:
    """A request that has a query goes where the query says, whatever model it names."""
    task, other = agent.name("task"), agent.name("other")
    labelled(agent, "queried", capability={"task": task})
    labelled(agent, "named", other, "1")
    assert served_by(agent, other, "1", query={"task": task}, calls=3) == {"queried"}
    assert served_by(agent, agent.name("nobody"), query={"task": task}) == {"queried"}


@requirement("route.query.before-name")
def test_no_way_back_to_the_name(agent: Agent) -> None:
    """A query that nothing matches is NOT_FOUND, although the name is registered."""
    name = agent.name("named")
    worker = labelled(agent, "named", name)
    agent.infer(name, query={"task": agent.name("nothing")}).expect(StatusCode.NOT_FOUND)
    assert not worker.requests, "the request was routed by its name"


@pytest.mark.parametrize("vector", _of("decode", refused=False))
def test_decoded(agent: Agent, vector: vectors.Vector) -> None:
    """A pattern is decoded once, as UTF-8, and nothing else in it is touched."""
    pattern = vectors.as_text(vector["pattern"])
    scope = {"scope": agent.name("scope")}
    metadata = [*wire.query_metadata(scope), ("x-cap-value", vectors.as_text(vector["value"]))]
    if len(metadata[-1][1]) > MAX_METADATA:
        not_applicable("gRPC servers need not take more than 8 KiB of metadata")
    if not is_value(pattern) or {*"*?|"} & {*pattern} or pattern[0] in "<>!":
        # No registration can have it as a value, but the pattern is good: nothing is found, and that is all.
        agent.infer(wire.request(), metadata=metadata).expect(StatusCode.NOT_FOUND)
        return
    labelled(agent, "right", capability={**scope, "value": pattern})
    assert answered_by(agent.infer(wire.request(), metadata=metadata)) == "right"


@pytest.mark.parametrize("vector", _of("decode", refused=True))
def test_not_decodable(agent: Agent, vector: vectors.Vector) -> None:
    """A pattern that cannot be decoded, or has a wrong length, is INVALID_ARGUMENT."""
    metadata = [("x-cap-value", vectors.as_text(vector["value"]))]
    agent.infer(wire.request(), metadata=metadata).expect(StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("vector", _of("match", refused=False))
def test_pattern(agent: Agent, vector: vectors.Vector) -> None:
    """A pattern is satisfied by the values that it means, and by no others."""
    worker = agent.listener(answer=lambda _: b"")
    pattern = vectors.as_text(vector["pattern"])
    tried = 0
    for satisfied, key in ((True, "exact"), (True, "satisfied"), (False, "not_satisfied")):
        for value in filter(is_value, map(vectors.as_text, vector[key])):
            tried += 1
            scope = agent.name(f"scope-{tried}")
            agent.management.register(worker, capability={"scope": scope, "value": value})
            code = agent.infer(wire.request(), query={"scope": scope, "value": pattern}).code
            wanted = StatusCode.OK if satisfied else StatusCode.NOT_FOUND
            assert code is wanted, f"the value {value!r} with the pattern {pattern!r}: {code.name}, not {wanted.name}"
    assert tried, "the vector has no value that can be registered"


@pytest.mark.parametrize("vector", _of("match", refused=True))
def test_pattern_refused(agent: Agent, vector: vectors.Vector) -> None:
    """A pattern that means nothing is INVALID_ARGUMENT, also when other keys would match."""
    query = {"scope": agent.name("scope"), "value": vectors.as_text(vector["pattern"])}
    agent.infer(wire.request(), query=query).expect(StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("vector", _of("query", refused=False))
def test_query(agent: Agent, vector: vectors.Vector) -> None:
    """A registration matches when every key of the query is in its capability with a value that satisfies it."""
    capability = {key: vectors.as_text(value) for key, value in vector["capability"].items()}
    metadata = [(f"x-cap-{key}", vectors.as_text(value)) for key, value in vector["query"]]
    matches = vector.get("exact_keys") is not None
    name = agent.name("vector")
    # Other cases may have registrations that match such a query too: the scope keeps them out, where there is room.
    if len(capability) < MAX_KEYS and len(metadata) < MAX_KEYS:
        capability["scope"] = name
        metadata.append(("x-cap-scope", name))
    labelled(agent, "right", capability=capability)
    answer = agent.infer(wire.request(), metadata=metadata)
    if matches:
        assert answered_by(answer) == "right"
    else:
        answer.expect(StatusCode.NOT_FOUND)


@pytest.mark.parametrize("vector", _of("query", refused=True))
def test_query_refused(agent: Agent, vector: vectors.Vector) -> None:
    """A query with a bad key, a bad pattern, a key twice or too many keys is INVALID_ARGUMENT."""
    metadata = [(f"x-cap-{key}", vectors.as_text(value)) for key, value in vector["query"]]
    if any(not _sendable(key) for key, _ in metadata):
        not_applicable("the suite's gRPC library cannot send this key")
    agent.infer(wire.request(), metadata=metadata).expect(StatusCode.INVALID_ARGUMENT)


def _sendable(key: str) -> bool:
    return re.fullmatch(r"[a-z0-9_.-]+", key) is not None and not key.endswith("-bin")


@requirement("route.match.all-keys")
def test_a_missing_key_satisfies_nothing(agent: Agent) -> None:
    """A capability without a key of the query does not match, not even `!=text`."""
    scope = agent.name("scope")
    labelled(agent, "without", capability={"scope": scope})
    agent.infer(wire.request(), query={"scope": scope, "size": "!=7b"}).expect(StatusCode.NOT_FOUND)


@requirement("route.query.twice")
@pytest.mark.parametrize("second", ["chat", "other"], ids=["the-same-pattern", "another-pattern"])
def test_a_key_given_twice(agent: Agent, second: str) -> None:
    """A key that is given twice is INVALID_ARGUMENT, also with the same pattern."""
    metadata = [("x-cap-type", "chat"), ("x-cap-type", second)]
    agent.infer(wire.request(), metadata=metadata).expect(StatusCode.INVALID_ARGUMENT)


@requirement("route.query.keys")
@pytest.mark.parametrize("key", ["-a", "_a", ".a", "", "k" * 65], ids=["minus", "underscore", "dot", "empty", "long"])
def test_a_key_that_no_capability_has(agent: Agent, key: str) -> None:
    """A key that a capability cannot have is INVALID_ARGUMENT."""
    agent.infer(wire.request(), metadata=[(f"x-cap-{key}", "x")]).expect(StatusCode.INVALID_ARGUMENT)


@requirement("route.query.other-rpcs")
@pytest.mark.parametrize("name", ["ServerLive", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_other_calls_ignore_queries(agent: Agent, name: str) -> None:
    """x-cap-* metadata of other RPCs, also malformed, changes nothing."""
    model = agent.name("model")
    agent.worker(model, answer=lambda _: b"")
    request = None
    if name != "ServerLive":
        method = proto.method(proto.KSERVE, name)
        request = proto.message(method.input_type.full_name)(name=model)
    agent.client.call(name, request, metadata=[("x-cap-type", "%"), ("x-cap-", "a|")]).expect_ok()


@requirement(
    "route.pattern.glob", look_at="the glob: `*` is any run of characters and `?` any one, over the whole value"
)
@given(st.text("ab?*[\\.", min_size=1, max_size=8), st.text("ab[\\.", min_size=1, max_size=8))
def test_globs_against_a_model(agent: Agent, pattern: str, value: str) -> None:
    """A glob means what the plain definition says, for many globs and values."""
    scope = agent.name(f"glob-{pattern}-{value}")
    labelled(agent, "glob", capability={"scope": scope, "value": value})
    code = agent.infer(wire.request(), query={"scope": scope, "value": pattern}).code
    wanted = StatusCode.OK if _fits(pattern, value) else StatusCode.NOT_FOUND
    assert code is wanted, f"the value {value!r} with the pattern {pattern!r}: {code.name}, not {wanted.name}"


def _fits(pattern: str, value: str) -> bool:
    """The definition of a glob, said as plainly as possible."""
    if not pattern:
        return not value
    if pattern[0] == "*":
        return _fits(pattern[1:], value) or (value != "" and _fits(pattern, value[1:]))
    return value != "" and pattern[0] in ("?", value[0]) and _fits(pattern[1:], value[1:])
