"""ListWorkers: what it tells of each worker."""

from __future__ import annotations

import time

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, goes_to, listed
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import ScriptedWorker

LOOK_AT = "what ListWorkers reads: the registrations as they came, the connections and the exchanges of this moment"


@requirement("manage.list.workers")
def test_each_worker_once(agent: Agent) -> None:
    """Each worker is listed once, with its id, its address and all its registrations."""
    names = [agent.name(text) for text in ("a", "b", "c")]
    workers = [agent.worker(names[0]) for _ in range(3)]
    for name in names[1:]:
        agent.management.register(workers[0], name)
    found = [w for w in agent.management.call("ListWorkers").message.workers if agent.token in w.worker_id]
    told = sorted((w.worker_id, w.address, sorted(r.model_name for r in w.registrations)) for w in found)
    expected = sorted((w.worker_id, w.address, names if w is workers[0] else names[:1]) for w in workers)
    assert told == expected, f"listed is {told}"


@requirement("manage.list.workers")
def test_exchanges_and_connections(agent: Agent) -> None:
    """A worker is listed with its exchanges under way and its open connections, each worker with its own."""
    name = agent.name("m")
    worker, other = agent.worker(name, max_concurrency=4), agent.worker(agent.name("n"))
    counts(agent, worker, 0)
    calls, exchanges = [], []
    for number in range(1, 4):
        calls.append(agent.start_infer(name))
        exchanges.append(worker.exchange())
        counts(agent, worker, number)
    for number in (2, 1, 0):
        exchanges.pop().answer()
        counts(agent, worker, number)
    for call in calls:
        call.answer().expect_ok()
    counts(agent, other, 0)


def counted(agent: Agent, worker: ScriptedWorker) -> tuple[int, int]:
    """Exchanges and connections as they are listed."""
    told = listed(agent, worker.worker_id)
    return told.in_flight, told.connections


def counts(agent: Agent, worker: ScriptedWorker, exchanges: int) -> None:
    """So many exchanges are listed, and as many connections as the worker knows of."""
    agent.patience.until(
        lambda: counted(agent, worker) == (exchanges, worker.open_connections),
        f"ListWorkers with {exchanges} exchanges of {worker.worker_id} and the connections that it has open",
    )


@requirement("manage.list.workers")
def test_streaming_exchange_counts_to_its_end(agent: Agent) -> None:
    """A streaming exchange counts once, until its empty frame, over all its replies."""
    name = agent.name("m")
    worker = agent.worker(name, stream=True)
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    for number in range(2):
        exchange.send(wire.stream_reply(i=number))
        stream.receive()
        told = counted(agent, worker)
        assert told == (1, 1), f"during the stream there are {told[0]} exchanges and {told[1]} connections listed"
    exchange.end()
    stream.answer().expect_ok()
    counts(agent, worker, 0)


@requirement("manage.list.workers")
def test_waiting_request_is_no_exchange(agent: Agent) -> None:
    """A request that waits for a place does not count among the exchanges."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    calls = [agent.start_infer(name) for _ in range(3)]
    exchange = worker.exchange()
    worker.no_exchange()
    told = counted(agent, worker)
    assert told == (1, 1), f"with one request at the worker there are {told[0]} exchanges and {told[1]} connections"
    for number in range(3):
        exchange.answer()
        exchange = worker.exchange() if number < 2 else exchange
    for call in calls:
        call.answer().expect_ok()


@requirement("manage.list.workers")
def test_closed_connections_do_not_count(agent: Agent) -> None:
    """A connection that the worker has closed while it was idle is not listed as open."""
    name = agent.name("m")
    worker = agent.worker(name)
    calls = [agent.start_infer(name) for _ in range(2)]
    exchanges = [worker.exchange() for _ in calls]
    for exchange in exchanges:
        exchange.answer()
    for call in calls:
        call.answer().expect_ok()
    counts(agent, worker, 0)
    told = counted(agent, worker)[1]
    assert told <= 2, f"{told} connections are listed after two exchanges"
    for exchange in exchanges:
        exchange.connection.half_close()
    agent.patience.until(lambda: counted(agent, worker) == (0, 0), "ListWorkers without connections")


@requirement("manage.list.registration")
def test_as_registered(agent: Agent) -> None:
    """Name, version, capability, stream, max_concurrency, priority and platform are listed as they were registered."""
    registrations = (
        proto.Registration(
            model_name=agent.name("größe"),
            model_version="v 1",
            capability={"type": "chat", "model": "llama=70b", "lang": "größe, x|*"},
            stream=True,
            max_concurrency=7,
            priority=-3,
            platform="pytorch/2 ✓",
        ),
        proto.Registration(capability={"type": agent.name("b")}, priority=(1 << 31) - 1),
        proto.Registration(model_name=agent.name("c"), capability={"x": "1"}, priority=-(1 << 31)),
    )
    worker = agent.listener()
    for r in registrations:
        options = {"stream": r.stream, "max_concurrency": r.max_concurrency, "priority": r.priority}
        agent.management.register(
            worker, r.model_name, r.model_version, capability=dict(r.capability), platform=r.platform, **options
        )
    found = listed(agent, worker.worker_id).registrations
    for registration in registrations:
        assert registration in found, f"not listed as it was registered: {registration}; there are {list(found)}"
    assert len(found) == len(registrations), f"{len(found)} registrations are listed, not {len(registrations)}"


@requirement("manage.list.registration")
def test_empty_capability_as_what_it_means(agent: Agent) -> None:
    """An empty capability is listed as {type: model_name}, and with a version as {type: …, model: …}."""
    name = agent.name("m")
    worker = agent.worker(name)
    agent.management.register(worker, name, "1")
    found = {r.model_version: dict(r.capability) for r in listed(agent, worker.worker_id).registrations}
    assert found == {"": {"type": name}, "1": {"type": name, "model": "1"}}, f"by version the capabilities are {found}"


@requirement("manage.list.heartbeat-age")
def test_never_sent(agent: Agent) -> None:
    """The age is -1 before the first heartbeat, also after requests and further registrations."""
    worker = agent.worker(agent.name("m"), answer=answers("it"))
    agent.management.register(worker, agent.name("m"), priority=1)
    goes_to(agent, agent.name("m"), "it")
    age = listed(agent, worker.worker_id).heartbeat_age_ms
    assert age == -1, f"a worker that has sent no heartbeat has one of {age} ms ago"


@requirement("manage.list.heartbeat-age")
def test_time_since_the_last(agent: Agent) -> None:
    """The age grows with the time since the last heartbeat, and falls with the next; registering does not change it."""
    worker = agent.worker(agent.name("m"))
    for _ in range(2):
        sent = time.monotonic()
        assert agent.management.heartbeat(worker.worker_id), "a registered worker is not healthy"
        answered = time.monotonic()
        while (asked := time.monotonic()) < answered + 0.15:
            age = listed(agent, worker.worker_id).heartbeat_age_ms
            least, most = (asked - answered) * 1_000 - 2, (time.monotonic() - sent) * 1_000 + 2
            assert least <= age <= most, f"the age is {age} ms, between {least:.0f} and {most:.0f} ms after a heartbeat"
            agent.management.register(worker, agent.name("m"))


@requirement("manage.list.heartbeat-age")
def test_each_worker_its_own(agent: Agent) -> None:
    """The heartbeat of one worker is not that of another."""
    first, second = agent.worker(agent.name("m")), agent.worker(agent.name("m"))
    assert agent.management.heartbeat(first.worker_id), "a registered worker is not healthy"
    ages = [listed(agent, worker.worker_id).heartbeat_age_ms for worker in (first, second)]
    assert ages[0] >= 0, f"a worker that has sent a heartbeat has the age {ages[0]}"
    assert ages[1] == -1, f"a worker that has sent no heartbeat has one of {ages[1]} ms ago"
