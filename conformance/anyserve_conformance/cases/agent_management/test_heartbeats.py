"""Heartbeat: who is known, and that it changes nothing but the time."""

from __future__ import annotations

import grpc
import pytest

from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, goes_to, listed, models_of
from anyserve_conformance.requirement import requirement

LOOK_AT = "the answer to Heartbeat: it depends on whether the worker id is registered, and on nothing else"


@requirement("manage.heartbeat.known")
def test_registered_worker_is_healthy(agent: Agent) -> None:
    """Each heartbeat of a registered worker is answered with healthy = true, with and without model names."""
    worker = agent.worker(agent.name("m"))
    for names in ((), (agent.name("m"),), (), (agent.name("n"),)):
        assert agent.management.heartbeat(worker.worker_id, *names), (
            f"the heartbeat with the names {names} is not known"
        )


@requirement("manage.heartbeat.known")
def test_heartbeat_before_the_next_registration(agent: Agent) -> None:
    """A worker that has registered the first of several capabilities is healthy, and again after it was removed."""
    worker = agent.worker(agent.name("m"))
    assert agent.management.heartbeat(worker.worker_id), "the heartbeat after the first registration is not known"
    agent.management.register(worker, agent.name("n"))
    assert agent.management.unregister_model(worker.worker_id, agent.name("m")), "there was nothing to remove"
    assert agent.management.heartbeat(worker.worker_id), "the heartbeat with one of two registrations left is not known"


@requirement("manage.heartbeat.unknown")
@pytest.mark.parametrize("kind", ["stranger", "empty", "longer", "other-case", "too-long", "control"])
def test_other_ids_are_not_healthy(agent: Agent, kind: str) -> None:
    """A heartbeat of any other worker id, also one that could not register, is answered healthy = false."""
    known = agent.worker(agent.name("m")).worker_id
    stranger = {
        "stranger": agent.name("stranger"),
        "empty": "",
        "longer": f"{known}0",
        "other-case": known.upper(),
        "too-long": "x" * 300,
        "control": f"{known}\n",
    }[kind]
    for _ in range(2):
        assert not agent.management.heartbeat(stranger, agent.name("m")), f"the worker {stranger!r} is said to be known"
    assert agent.management.listed(stranger) is None, f"the worker {stranger!r} is listed after its heartbeat"
    age = listed(agent, known).heartbeat_age_ms
    assert age == -1, f"the heartbeat of {stranger!r} was taken for one of {known!r}"


@requirement("manage.heartbeat.unknown")
def test_not_after_leaving(agent: Agent) -> None:
    """A worker is not healthy after it was unregistered, and is again once it has registered."""
    worker = agent.worker(agent.name("m"))
    assert agent.management.heartbeat(worker.worker_id), "a registered worker is not healthy"
    assert agent.management.unregister(worker.worker_id), "UnregisterWorker was answered with success = false"
    assert not agent.management.heartbeat(worker.worker_id), "a worker that was unregistered is healthy"
    agent.management.register(worker, agent.name("m"))
    assert agent.management.heartbeat(worker.worker_id), "a worker that has registered again is not healthy"


@requirement("manage.heartbeat.names")
def test_names_change_nothing(agent: Agent) -> None:
    """Model names in a heartbeat neither remove those left out nor add those that are new."""
    worker = agent.worker(agent.name("m"), answer=answers("it"))
    agent.management.register(worker, agent.name("n"), "1")
    watcher = agent.watch()
    before = listed(agent, worker.worker_id).registrations
    for names in ((agent.name("m"),), (agent.name("other"),), ("",), tuple(agent.name(str(n)) for n in range(100))):
        assert agent.management.heartbeat(worker.worker_id, *names), "the heartbeat of a registered worker is not known"
        after = listed(agent, worker.worker_id).registrations
        assert list(after) == list(before), f"a heartbeat with the names {names[:3]} has changed the registrations"
    for name in ("m", "n"):
        goes_to(agent, agent.name(name), "it")
    agent.infer(agent.name("other")).expect(grpc.StatusCode.NOT_FOUND)
    marker = agent.worker(agent.name("marker"), worker_id="marker")
    told = watcher.take(1)[0].worker_id
    assert told == marker.worker_id, "an event tells of a change by the heartbeats"


@requirement("manage.heartbeat.names")
def test_names_of_another_worker(agent: Agent) -> None:
    """A heartbeat that names the model of another worker takes nothing from that one."""
    first = agent.worker(agent.name("m"), answer=answers("first"))
    second = agent.worker(agent.name("n"), answer=answers("second"))
    assert agent.management.heartbeat(second.worker_id, agent.name("m")), "a registered worker is not healthy"
    assert models_of(agent, first.worker_id) == [(agent.name("m"), "")], (
        "the registration of another worker has changed"
    )
    for _ in range(2):
        goes_to(agent, agent.name("m"), "first")
