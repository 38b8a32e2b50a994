"""What workers tell of calls for several requests at once, and where it is found again."""

from __future__ import annotations

from typing import Any

import pytest

from anyserve_conformance import proto
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import statistics
from anyserve_conformance.requirement import requirement

LOOK_AT = "the handler of Heartbeat, and what it adds to the counts of a model"
MOST = (1 << 64) - 1


def told(name: str, size: int, count: int, ns: int, version: str = "") -> Any:
    """Of so many calls of one size."""
    return proto.BatchStatistics(model_name=name, model_version=version, batch_size=size, count=count, compute_ns=ns)


def sizes(agent: Agent, name: str, version: str = "") -> list[tuple[int, int, int]]:
    """`batch_stats`: size, count and time of each."""
    stats = statistics(agent, name, version)[name, version].batch_stats
    return [(each.batch_size, each.compute_infer.count, each.compute_infer.ns) for each in stats]


def executions(agent: Agent, name: str) -> int:
    """`execution_count`."""
    return int(statistics(agent, name)[name, ""].execution_count)


@requirement("serving.statistics.batches", "manage.heartbeat.batches-counted", look_at=LOOK_AT)
def test_batches_are_summed_by_size(agent: Agent) -> None:
    """What heartbeats tell is summed for each size, and the sizes come in ascending order."""
    name = agent.name()
    worker = agent.worker(name).worker_id
    assert sizes(agent, name) == []
    assert agent.management.heartbeat(worker, batches=[told(name, 8, 2, 30), told(name, 1, 1, 3), told(name, 8, 1, 7)])
    assert agent.management.heartbeat(worker)
    assert agent.management.heartbeat(worker, batches=[told(name, 3, 1, 0), told(name, 8, 1, 5)])
    assert sizes(agent, name) == [(1, 1, 3), (3, 1, 0), (8, 4, 42)]


@requirement("serving.statistics.batches", look_at=LOOK_AT)
def test_batches_of_replicas_add_up(agent: Agent) -> None:
    """Two workers of one model tell of the same counts."""
    name = agent.name()
    for each in ("one", "two"):
        worker = agent.worker(name, worker_id=each).worker_id
        assert agent.management.heartbeat(worker, batches=[told(name, 4, 1, 10)])
    assert sizes(agent, name) == [(4, 2, 20)]


@requirement("serving.statistics.batches", look_at=LOOK_AT)
def test_versions_are_told_apart(agent: Agent) -> None:
    """Each version of a model has its own batches; a registration without a name has those of its keys."""
    name = agent.name()
    worker = agent.worker(name, "1")
    agent.management.register(worker, capability={"model": name, "version": "2"})
    batches = [told(name, 4, 1, 10, "1"), told(name, 5, 2, 20, "2")]
    assert agent.management.heartbeat(worker.worker_id, batches=batches)
    assert (sizes(agent, name, "1"), sizes(agent, name, "2")) == ([(4, 1, 10)], [(5, 2, 20)])


@requirement("serving.statistics.executions", look_at=LOOK_AT)
def test_executions(agent: Agent) -> None:
    """Without batches each request is an execution; with them each call is, and the requests count as before."""
    name = agent.name()
    worker = agent.worker(name, answer=lambda _: b"")
    for _ in range(3):
        agent.infer(name).expect_ok()
    assert executions(agent, name) == 3
    assert agent.management.heartbeat(worker.worker_id, batches=[told(name, 2, 1, 10), told(name, 1, 1, 10)])
    assert executions(agent, name) == 2
    assert statistics(agent, name)[name, ""].inference_count == 3


@requirement("manage.heartbeat.batches-counted", look_at=LOOK_AT)
def test_batches_of_a_worker_that_is_not_known(agent: Agent) -> None:
    """A heartbeat that is answered healthy = false counts nothing; told again after the registration it does."""
    name = agent.name()
    agent.worker(name, worker_id="there")
    worker = agent.worker(name, worker_id="late")
    batches = [told(name, 4, 1, 10)]
    assert agent.management.unregister(worker.worker_id)
    assert not agent.management.heartbeat(worker.worker_id, batches=batches)
    assert sizes(agent, name) == []
    agent.management.register(worker, name)
    assert sizes(agent, name) == []
    assert agent.management.heartbeat(worker.worker_id, batches=batches)
    assert sizes(agent, name) == [(4, 1, 10)]


@requirement("manage.heartbeat.batches-ignored", look_at=LOOK_AT)
@pytest.mark.parametrize("kind", ["no-size", "no-calls", "other-version", "unknown", "of-another"])
def test_batches_that_say_nothing(agent: Agent, kind: str) -> None:
    """An entry of size or count 0, or of what this worker has not registered, is not counted, those beside it are."""
    name, other = agent.name(), agent.name("other")
    worker = agent.worker(name, worker_id="it").worker_id
    agent.worker(other, worker_id="another")
    entry = {
        "no-size": told(name, 0, 1, 10),
        "no-calls": told(name, 4, 0, 10),
        "other-version": told(name, 4, 1, 10, "1"),
        "unknown": told(agent.name("unknown"), 4, 1, 10),
        "of-another": told(other, 4, 1, 10),
    }[kind]
    assert agent.management.heartbeat(worker, batches=[told(name, 2, 1, 1), entry, told(name, 2, 1, 1)])
    assert (sizes(agent, name), sizes(agent, other)) == ([(2, 2, 2)], [])
    assert (executions(agent, name), executions(agent, other)) == (2, 0)


@requirement("serving.statistics.sizes", look_at=LOOK_AT)
def test_sizes_have_a_limit(agent: Agent) -> None:
    """The first 1,024 sizes are kept and go on counting; others count as executions alone."""
    name = agent.name()
    worker = agent.worker(name).worker_id
    assert agent.management.heartbeat(worker, batches=[told(name, size, 1, 1) for size in range(1, 1027)])
    assert [size for size, _, _ in sizes(agent, name)] == [*range(1, 1025)]
    assert agent.management.heartbeat(worker, batches=[told(name, 1, 2, 5), told(name, 9999, 1, 1)])
    found = sizes(agent, name)
    assert (len(found), found[0]) == (1024, (1, 3, 6))
    assert executions(agent, name) == 1029


@requirement("serving.statistics.sums", look_at=LOOK_AT)
def test_sums_have_an_end(agent: Agent) -> None:
    """Sums that would be above 2^64 - 1 stay there, and the agent goes on."""
    name = agent.name()
    worker = agent.worker(name).worker_id
    for count, ns in ((MOST, 1), (1, MOST), (5, 5)):
        assert agent.management.heartbeat(worker, batches=[told(name, MOST, count, ns)])
    assert sizes(agent, name) == [(MOST, MOST, MOST)]
    assert executions(agent, name) == MOST
