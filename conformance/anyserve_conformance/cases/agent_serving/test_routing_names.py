"""Requests by name and version."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.routes import labelled, served_by
from anyserve_conformance.requirement import requirement

LOOK_AT = "the lookup of a model name and version among the registrations"


@requirement("route.name.registered")
def test_by_name(agent: Agent) -> None:
    """A request goes to the registration with its model name, as it is written."""
    name = agent.name("Model")
    labelled(agent, "right", name)
    labelled(agent, "lower", name.lower())
    labelled(agent, "longer", f"{name}-2")
    assert served_by(agent, name, calls=3) == {"right"}


@requirement("route.name.registered")
def test_by_name_and_version(agent: Agent) -> None:
    """A request that gives a version goes to the registration with that version."""
    name = agent.name()
    labelled(agent, "one", name, "1")
    labelled(agent, "two", name, "2")
    assert served_by(agent, name, "1", calls=3) == {"one"}
    assert served_by(agent, name, "2", calls=3) == {"two"}
    agent.infer(wire.request(name, "3")).expect(StatusCode.NOT_FOUND)


@requirement("route.name.registered")
def test_a_name_of_any_characters(agent: Agent) -> None:
    """A model's name may have any characters but control characters."""
    name = agent.name("Größe/x y,z=%41|*?模型🙂")
    labelled(agent, "right", name)
    assert served_by(agent, name) == {"right"}
    agent.infer(name.replace("模型", "模")).expect(StatusCode.NOT_FOUND)


@requirement("route.name.capability")
def test_by_the_capability_key_model(agent: Agent) -> None:
    """Where no registration has the name, those with it as the value of the key `model` serve the request."""
    name = agent.name("llama")
    labelled(agent, "right", capability={"type": "chat", "model": name})
    labelled(agent, "type-alone", capability={"type": name})
    assert served_by(agent, name, calls=3) == {"right"}


@requirement("route.name.capability")
def test_registered_names_come_first(agent: Agent) -> None:
    """A registration with the model name is preferred to one with the capability key `model`."""
    name = agent.name("llama")
    labelled(agent, "capability", capability={"model": name}, priority=100)
    labelled(agent, "named", name, capability={"type": agent.name("chat")})
    assert served_by(agent, name, calls=3) == {"named"}


@requirement("route.name.capability")
def test_version_by_the_capability_key_version(agent: Agent) -> None:
    """A version is looked up as the value of the key `version` where the name is found by capability."""
    name = agent.name("llama")
    labelled(agent, "one", capability={"model": name, "version": "1"})
    labelled(agent, "two", capability={"model": name, "version": "2"})
    assert served_by(agent, name, "1", calls=3) == {"one"}
    agent.infer(wire.request(name, "3")).expect(StatusCode.NOT_FOUND)


@requirement("route.name.capability")
def test_an_unregistered_version_is_looked_up_by_capability(agent: Agent) -> None:
    """Where the name is registered in other versions only, a capability with name and version serves the request."""
    name = agent.name("llama")
    labelled(agent, "named", name, "1")
    labelled(agent, "capability", capability={"model": name, "version": "2"})
    assert served_by(agent, name, "2", calls=3) == {"capability"}


@requirement("route.name.capability")
def test_default_capability_of_a_version_is_no_name(agent: Agent) -> None:
    """A registration without a capability has `{type: name, model: version}`: its version serves as a name, too."""
    name, version = agent.name("chat"), agent.name("v")
    labelled(agent, "default", name, version)
    assert served_by(agent, version) == {"default"}


@requirement("route.version.text")
@pytest.mark.parametrize("asked", ["1.0", "01", " 1", "１"])
def test_given_versions_are_text(agent: Agent, asked: str) -> None:
    """A version that a request gives must be the registered one character by character."""
    name = agent.name()
    labelled(agent, "one", name, "1")
    agent.infer(wire.request(name, asked)).expect(StatusCode.NOT_FOUND)


LOOK_AT_CHOICE = "the choice of a version for a request without one: none, else the greatest number, else all"


@requirement("route.version.none", look_at=LOOK_AT_CHOICE)
def test_without_a_version(agent: Agent) -> None:
    """A request without a version goes to the registration without one, also beside greater numbers."""
    name = agent.name()
    labelled(agent, "nine", name, "9", priority=9)
    labelled(agent, "none", name)
    assert served_by(agent, name, calls=3) == {"none"}


@requirement("route.version.none", look_at=LOOK_AT_CHOICE)
def test_without_a_version_by_capability(agent: Agent) -> None:
    """The same holds where the name is found by capability: one without the key `version` comes first."""
    name = agent.name()
    labelled(agent, "nine", capability={"model": name, "version": "9"}, priority=9)
    labelled(agent, "none", capability={"model": name})
    assert served_by(agent, name, calls=3) == {"none"}


@requirement("route.version.newest", look_at=LOOK_AT_CHOICE)
@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("9", "10"),
        ("1.10", "1.9"),
        ("-2", "-1"),
        ("0.5", "0.50000000000000000000001"),
        ("9007199254740992", "9007199254740993"),
        ("2.9999999999999999999", "3"),
        ("8" * 200, "9" * 200),
    ],
    ids=["digits", "fractions", "negative", "fine", "beyond-double", "rounding", "long"],
)
def test_the_greatest_number(agent: Agent, older: str, newer: str) -> None:
    """A request without a version goes to the greatest decimal number, compared exactly and not as text."""
    name = agent.name()
    labelled(agent, "newer", name, newer)
    labelled(agent, "older", name, older, priority=9)
    assert served_by(agent, name, calls=3) == {"newer"}


@requirement("route.version.newest", look_at=LOOK_AT_CHOICE)
def test_equal_numbers_share(agent: Agent) -> None:
    """`1`, `1.0` and `01` are one version here: all registrations with the greatest value are chosen."""
    name = agent.name()
    labels = {"1", "1.0", "01"}
    for version in labels:
        labelled(agent, version, name, version)
    labelled(agent, "0.9", name, "0.9")
    assert served_by(agent, name, calls=9) == labels


@requirement("route.version.newest", look_at=LOOK_AT_CHOICE)
def test_the_greatest_number_by_capability(agent: Agent) -> None:
    """The same holds where the name is found by capability."""
    name = agent.name()
    labelled(agent, "nine", capability={"model": name, "version": "9"})
    labelled(agent, "ten", capability={"model": name, "version": "10"})
    assert served_by(agent, name, calls=3) == {"ten"}


@requirement("route.version.all", look_at=LOOK_AT_CHOICE)
def test_all_versions(agent: Agent) -> None:
    """When some version is no decimal number, a request without one may go to all of them."""
    name = agent.name()
    labels = {"2", "10", "beta"}
    for version in labels:
        labelled(agent, version, name, version)
    assert served_by(agent, name, calls=9) == labels


@requirement("route.version.all", look_at=LOOK_AT_CHOICE)
@pytest.mark.parametrize("version", ["1e3", "+5", "5.", ".5", "1_000", "٥", "v3"])
def test_what_is_no_number(agent: Agent, version: str) -> None:
    """Only `-?[0-9]+(\\.[0-9]+)?` in ASCII is a decimal number."""
    name = agent.name()
    labelled(agent, "one", name, "1")
    labelled(agent, "odd", name, version)
    assert served_by(agent, name, calls=6) == {"one", "odd"}


@requirement("route.unary.only")
def test_modelinfer_leaves_streaming_out(agent: Agent) -> None:
    """ModelInfer goes to the unary registration, also when a streaming one ranks higher."""
    name = agent.name()
    streaming = agent.worker(name, worker_id="streaming", stream=True, priority=9)
    labelled(agent, "unary", name)
    assert served_by(agent, name, calls=3) == {"unary"}
    assert not streaming.connections, "the agent connected to the streaming worker"


@requirement("route.unary.only", look_at="the order of both steps: the version is chosen first")
def test_after_the_version_was_chosen(agent: Agent) -> None:
    """Streaming registrations are left out after the version was chosen: an older unary one does not serve instead."""
    name = agent.name()
    labelled(agent, "old", name, "1")
    agent.worker(name, "2", worker_id="new", stream=True)
    agent.infer(name).expect(StatusCode.UNIMPLEMENTED)
