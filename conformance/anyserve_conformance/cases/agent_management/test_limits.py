"""How many workers and registrations an agent takes."""

from __future__ import annotations

import grpc
import pytest

from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, goes_to, listed, models_of
from anyserve_conformance.requirement import requirement

LOOK_AT = "where the limits are checked: for new workers and new registrations alone, before the first change"

LIMITS = {"max-workers": 3, "max-registrations": 5}
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


def fill_workers(agent: Agent) -> None:
    """Registers workers until there are as many as may be."""
    while len(agent.management.workers()) < agent.option("max-workers"):
        agent.worker(agent.name("m"), worker_id="filler", answer=answers("filler"))


def fill_registrations(agent: Agent) -> None:
    """Adds to the case's first worker until there are as many registrations as may be."""
    number = 0
    while sum(len(w.registrations) for w in agent.management.workers().values()) < agent.option("max-registrations"):
        number += 1
        agent.management.register(agent.workers[0], agent.name(f"filler{number}"))


def refuse_new(agent: Agent, worker_id: str = "one-too-many") -> None:
    """A new worker is refused, and is not known."""
    worker = agent.listener(worker_id)
    before = set(agent.management.workers())
    agent.management.refused(agent.management.registration(worker, agent.name("new")), FULL)
    assert set(agent.management.workers()) == before, "a refused registration has changed which workers are listed"
    assert not agent.management.heartbeat(worker.worker_id), "a worker that was refused is healthy"
    agent.infer(agent.name("new")).expect(grpc.StatusCode.NOT_FOUND)


@requirement("manage.register.max-workers", "manage.register.unchanged", needs=LIMITS)
def test_one_worker_too_many(agent: Agent) -> None:
    """With --max-workers registered a new worker is refused with RESOURCE_EXHAUSTED."""
    fill_workers(agent)
    refuse_new(agent)
    refuse_new(agent, "and-another")


@requirement("manage.register.max-workers", needs=LIMITS)
def test_known_workers_register_on(agent: Agent) -> None:
    """With --max-workers registered those that are may add and replace registrations, and move."""
    fill_workers(agent)
    known = agent.workers[0]
    agent.management.register(known, agent.name("more"))
    agent.management.register(known, agent.name("more"), priority=1)
    moved = agent.listener(answer=answers("moved"))
    agent.management.register(moved, agent.name("more"), worker_id=known.worker_id)
    goes_to(agent, agent.name("more"), "moved")


@requirement("manage.register.max-workers", needs=LIMITS)
@pytest.mark.parametrize("how", ["UnregisterWorker", "UnregisterModel"])
def test_place_of_one_that_leaves(agent: Agent, how: str) -> None:
    """When a worker leaves, a new one is taken in its place, and no second one."""
    fill_workers(agent)
    leaving = agent.workers[0].worker_id
    if how == "UnregisterWorker":
        removed = agent.management.unregister(leaving)
    else:
        removed = agent.management.unregister_model(leaving, agent.name("m"))
    assert removed, f"{how} found nothing to remove"
    agent.worker(agent.name("m"), worker_id="successor")
    refuse_new(agent)


@requirement("manage.register.max-registrations", "manage.register.unchanged", needs=LIMITS)
def test_one_registration_too_many(agent: Agent) -> None:
    """With --max-registrations made a new one is refused, of a known worker and of a new one."""
    worker = agent.worker(agent.name("m"), "1", capability={"type": "a"})
    fill_registrations(agent)
    before = listed(agent, worker.worker_id)
    for name, version, capability in (("n", "1", "a"), ("m", "2", "a"), ("m", "1", "b")):
        new = agent.management.registration(worker, agent.name(name), version, capability={"type": capability})
        agent.management.refused(new, FULL)
        assert listed(agent, worker.worker_id) == before, "a refused registration has changed those of its worker"
    refuse_new(agent)


@requirement("manage.register.max-registrations", needs=LIMITS)
def test_replacing_goes_on(agent: Agent) -> None:
    """With --max-registrations made a registration that exists can still be replaced."""
    worker = agent.worker(agent.name("m"), capability={"type": "a"}, answer=answers("it"))
    fill_registrations(agent)
    for priority in (1, 2):
        agent.management.register(worker, agent.name("m"), capability={"type": "a"}, priority=priority)
        priorities = {r.model_name: r.priority for r in listed(agent, worker.worker_id).registrations}
        assert priorities[agent.name("m")] == priority, "the registration was not replaced"
    goes_to(agent, agent.name("m"), "it")


@requirement("manage.register.max-registrations", needs=LIMITS)
def test_place_of_one_that_is_removed(agent: Agent) -> None:
    """When a registration is removed, one new one is taken in its place."""
    worker = agent.worker(agent.name("m"))
    fill_registrations(agent)
    assert agent.management.unregister_model(worker.worker_id, agent.name("m")), "there was nothing to remove"
    agent.management.register(worker, agent.name("n"))
    agent.management.refused(agent.management.registration(worker, agent.name("o")), FULL)
    assert (agent.name("n"), "") in models_of(agent, worker.worker_id), "the new registration is not listed"


@requirement("manage.register.unchanged", needs=LIMITS)
def test_full_agent_moves_nobody(agent: Agent) -> None:
    """A registration from another address that is refused for the limit does not move its worker."""
    name = agent.name("m")
    old = agent.worker(name, answer=answers("old"))
    fill_registrations(agent)
    new = agent.listener(answer=answers("new"))
    agent.management.refused(agent.management.registration(new, agent.name("n"), worker_id=old.worker_id), FULL)
    assert listed(agent, old.worker_id).address == old.address, "a worker has moved by a refused registration"
    goes_to(agent, name, "old")


@requirement("manage.register.message", needs=LIMITS)
@pytest.mark.parametrize("limit", ["worker", "registration"])
def test_limit_is_named(agent: Agent, limit: str) -> None:
    """The message of a refusal for a limit says which one it is."""
    worker = agent.worker(agent.name("m"))
    if limit == "worker":
        fill_workers(agent)
        worker = agent.listener()
    else:
        fill_registrations(agent)
    details = agent.management.refused(agent.management.registration(worker, agent.name("n")), FULL).details
    assert limit in details.lower(), f"the message does not say that there are too many {limit}s: {details!r}"
