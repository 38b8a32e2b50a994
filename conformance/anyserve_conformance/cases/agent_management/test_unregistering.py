"""UnregisterModel and UnregisterWorker: what goes, what stays, and what ends as usual."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, arrived, goes_to, listed, models_of
from anyserve_conformance.requirement import requirement

LOOK_AT = "how a registration and a worker are removed: routing at once, connections when their exchanges end"

Leave = Callable[[Agent, str], bool]
"""Takes the worker with this id out, which has registered `m`."""

LEAVES: dict[str, Leave] = {
    "UnregisterWorker": lambda agent, worker_id: agent.management.unregister(worker_id),
    "UnregisterModel": lambda agent, worker_id: agent.management.unregister_model(worker_id, agent.name("m")),
}
either = pytest.mark.parametrize("how", LEAVES)


def leave(agent: Agent, worker_id: str, how: str) -> None:
    """Unregisters what must be there."""
    assert LEAVES[how](agent, worker_id), f"{how} was answered with success = false"


# What goes and what stays


@requirement("manage.unregister.model")
def test_name_and_version(agent: Agent) -> None:
    """UnregisterModel removes all of a worker with that name and version, whatever their capability, and no others."""
    m, n = agent.name("m"), agent.name("n")
    worker = agent.worker(m, "1", capability={"type": "a"}, answer=answers("it"))
    agent.management.register(worker, m, "1", capability={"type": "b"}, stream=True)
    agent.management.register(worker, m, "1")
    agent.management.register(worker, m, "2", capability={"type": "a"})
    agent.management.register(worker, m, capability={"type": "a"})
    agent.management.register(worker, n, "1", capability={"type": "a"})
    replica = agent.worker(m, "1", capability={"type": "a"}, answer=answers("replica"))
    assert agent.management.unregister_model(worker.worker_id, m, "1"), "UnregisterModel was answered success = false"
    left = models_of(agent, worker.worker_id)
    assert left == sorted([(m, ""), (m, "2"), (n, "1")]), f"left of the worker's registrations are {left}"
    assert models_of(agent, replica.worker_id) == [(m, "1")], "the registration of another worker was removed"
    for _ in range(2):
        goes_to(agent, wire.request(m, "1"), "replica")
    goes_to(agent, wire.request(m, "2"), "it")


@requirement("manage.unregister.model")
def test_empty_version_is_one(agent: Agent) -> None:
    """UnregisterModel with an empty version removes the registrations without a version, and not all versions."""
    name = agent.name("m")
    worker = agent.worker(name, "1", answer=answers("it"))
    agent.management.register(worker, name)
    assert agent.management.unregister_model(worker.worker_id, name), "UnregisterModel was answered success = false"
    left = models_of(agent, worker.worker_id)
    assert left == [(name, "1")], f"left of the worker's registrations are {left}"


@requirement("manage.unregister.model")
def test_empty_name_is_one(agent: Agent) -> None:
    """UnregisterModel with an empty name removes the registrations that have none."""
    worker = agent.worker(capability={"type": agent.name("a")})
    agent.management.register(worker, capability={"type": agent.name("b")})
    agent.management.register(worker, agent.name("m"), capability={"type": agent.name("c")})
    assert agent.management.unregister_model(worker.worker_id, ""), "UnregisterModel was answered success = false"
    left = models_of(agent, worker.worker_id)
    assert left == [(agent.name("m"), "")], f"left of the worker's registrations are {left}"
    agent.infer("", query={"type": agent.name("a")}).expect(grpc.StatusCode.NOT_FOUND)


@requirement("manage.unregister.worker")
def test_all_of_one_worker(agent: Agent) -> None:
    """UnregisterWorker removes all registrations of that worker, and no others."""
    m, n = agent.name("m"), agent.name("n")
    worker = agent.worker(m, answer=answers("it"))
    agent.management.register(worker, n, "1")
    agent.management.register(worker, capability={"type": agent.name("a")})
    replica = agent.worker(m, answer=answers("replica"))
    leave(agent, worker.worker_id, "UnregisterWorker")
    assert agent.management.listed(worker.worker_id) is None, "a worker that was unregistered is listed"
    assert models_of(agent, replica.worker_id) == [(m, "")], "the registration of another worker was removed"
    for _ in range(2):
        goes_to(agent, m, "replica")
    agent.infer(n).expect(grpc.StatusCode.NOT_FOUND)
    agent.infer("", query={"type": agent.name("a")}).expect(grpc.StatusCode.NOT_FOUND)


@requirement("manage.unregister.worker")
def test_prefix_is_another_worker(agent: Agent) -> None:
    """A worker whose id begins with that of the one that leaves stays."""
    worker = agent.worker(agent.name("m"), answer=answers("it"))
    longer = agent.listener(answer=answers("longer"))
    longer.worker_id = f"{worker.worker_id}0"
    agent.management.register(longer, agent.name("m"))
    leave(agent, worker.worker_id, "UnregisterWorker")
    goes_to(agent, agent.name("m"), "longer")


@requirement("manage.unregister.last")
def test_last_registration(agent: Agent) -> None:
    """A worker is known until its last registration is removed, and not after that."""
    worker = agent.worker(agent.name("m"))
    agent.management.register(worker, agent.name("n"))
    assert agent.management.unregister_model(worker.worker_id, agent.name("n")), "there was nothing to remove"
    assert agent.management.heartbeat(worker.worker_id), "a worker with a registration left is not healthy"
    assert agent.management.unregister_model(worker.worker_id, agent.name("m")), "there was nothing to remove"
    assert not agent.management.heartbeat(worker.worker_id), "a worker without registrations is healthy"
    assert agent.management.listed(worker.worker_id) is None, "a worker without registrations is listed"
    assert not agent.management.unregister(worker.worker_id), "a worker without registrations can be unregistered"


@requirement("manage.unregister.last")
@either
def test_comes_back_as_new(agent: Agent, how: str) -> None:
    """A worker that was forgotten and registers again is a new one: without a heartbeat, at its new address."""
    name = agent.name("m")
    worker = agent.worker(name, answer=answers("old"))
    agent.management.heartbeat(worker.worker_id)
    goes_to(agent, name, "old")
    leave(agent, worker.worker_id, how)
    again = agent.listener(answer=answers("again"))
    agent.management.register(again, name, worker_id=worker.worker_id)
    age = listed(agent, worker.worker_id).heartbeat_age_ms
    assert age == -1, f"a worker that has come back has a heartbeat of {age} ms ago, and has sent none since"
    goes_to(agent, name, "again")


# What is not there


@requirement("manage.unregister.unknown")
@pytest.mark.parametrize("other", ["worker", "name", "version", "capability-as-name"])
def test_no_such_model(agent: Agent, other: str) -> None:
    """UnregisterModel of what is not there is answered with OK and success = false, and removes nothing."""
    name = agent.name("m")
    worker = agent.worker(name, "1", capability={"type": "a", "model": agent.name("c")})
    who = agent.name("stranger") if other == "worker" else worker.worker_id
    what = {"name": agent.name("n"), "capability-as-name": agent.name("c")}.get(other, name)
    version = "2" if other == "version" else "1"
    assert not agent.management.unregister_model(who, what, version), "UnregisterModel was answered success = true"
    assert models_of(agent, worker.worker_id) == [(name, "1")], "what was not meant was removed"


@requirement("manage.unregister.unknown")
def test_no_such_worker(agent: Agent) -> None:
    """UnregisterWorker of a stranger, and a second time, is answered with OK and success = false."""
    worker = agent.worker(agent.name("m"))
    assert not agent.management.unregister(agent.name("stranger")), "a stranger was unregistered"
    leave(agent, worker.worker_id, "UnregisterWorker")
    assert not agent.management.unregister(worker.worker_id), "a worker was unregistered twice"


@requirement("manage.unregister.worker-id")
@pytest.mark.parametrize("rpc", LEAVES)
def test_no_worker_id(agent: Agent, rpc: str) -> None:
    """Without a worker id the answer is INVALID_ARGUMENT."""
    worker = agent.worker(agent.name("m"))
    request = (
        proto.UnregisterWorkerRequest()
        if rpc == "UnregisterWorker"
        else proto.UnregisterModelRequest(model_name=agent.name("m"))
    )
    agent.management.call(rpc, request).expect(grpc.StatusCode.INVALID_ARGUMENT)
    assert models_of(agent, worker.worker_id) == [(agent.name("m"), "")], "a worker that was not named was unregistered"


# What is under way


@requirement("manage.unregister.under-way")
@either
def test_exchange_ends_as_usual(agent: Agent, how: str) -> None:
    """A request under way is answered after its worker was unregistered; new ones are not sent."""
    name = agent.name("m")
    worker = agent.worker(name)
    call = agent.start_infer(name)
    exchange = worker.exchange()
    leave(agent, worker.worker_id, how)
    agent.infer(name).expect(grpc.StatusCode.NOT_FOUND)
    exchange.answer(wire.reply(request_id="done"))
    reply = call.answer().message
    assert reply.id == "done", f"the client got the reply {reply.id!r}, not the worker's"
    assert len(worker.requests) == 1, "the worker got a request after it was unregistered"


@requirement("manage.unregister.under-way")
@either
def test_stream_ends_as_usual(agent: Agent, how: str) -> None:
    """A streaming exchange goes on to its end after its worker was unregistered."""
    name = agent.name("m")
    worker = agent.worker(name, stream=True)
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    exchange.send(wire.stream_reply(i=0))
    stream.receive()
    leave(agent, worker.worker_id, how)
    for number in (1, 2):
        exchange.send(wire.stream_reply(i=number))
        found = wire.parameters_of(stream.receive().response)
        assert found.get("i") == number, f"reply {number} has the parameters {found}"
    exchange.end()
    assert stream.next() is None, "there is a response behind the last one"
    stream.answer().expect_ok()


@requirement("manage.unregister.under-way")
def test_exchange_of_one_registration_of_several(agent: Agent) -> None:
    """A request under way ends as usual when its registration goes and its worker stays."""
    worker = agent.worker(agent.name("m"))
    agent.management.register(worker, agent.name("n"))
    call = agent.start_infer(agent.name("m"))
    exchange = worker.exchange()
    leave(agent, worker.worker_id, "UnregisterModel")
    agent.infer(agent.name("m")).expect(grpc.StatusCode.NOT_FOUND)
    other = agent.start_infer(agent.name("n"))
    worker.exchange().answer(wire.reply(request_id="other"))
    assert other.answer().message.id == "other", "the other registration is not served"
    exchange.answer(wire.reply(request_id="done"))
    assert call.answer().message.id == "done", "the client did not get the worker's reply"


@requirement("manage.unregister.under-way", "queue.change.gone")
@either
def test_waiting_request_is_not_sent(agent: Agent, how: str) -> None:
    """A request that waits for the worker's place is UNAVAILABLE once it is unregistered, and never sent."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    call = agent.start_infer(name)
    exchange = worker.exchange()
    waiting = agent.start_infer(name)
    arrived(agent)
    worker.no_exchange()
    leave(agent, worker.worker_id, how)
    waiting.answer().expect(grpc.StatusCode.UNAVAILABLE)
    exchange.answer()
    call.answer().expect_ok()
    assert len(worker.requests) == 1, "the worker got a request after it was unregistered"


@requirement("manage.unregister.connections")
@either
def test_idle_connection_is_closed_at_once(agent: Agent, how: str) -> None:
    """The idle connections to a worker are closed when it is forgotten, while another has an exchange."""
    name = agent.name("m")
    worker = agent.worker(name)
    calls = [agent.start_infer(name) for _ in range(2)]
    first, second = worker.exchange(), worker.exchange()
    first.answer()
    agent.patience.until(lambda: any(call.done for call in calls), "the first reply")
    leave(agent, worker.worker_id, how)
    agent.patience.until(first.connection.ended.is_set, "the end of the idle connection")
    assert second.connection.silent(), "the connection with the exchange was closed too, or got more"
    second.answer(wire.reply(request_id="done"))
    for call in calls:
        call.answer().expect_ok()
    agent.patience.until(second.connection.ended.is_set, "the end of the other connection after its exchange")


@requirement("manage.unregister.connections")
def test_moved_worker_keeps_no_old_connection(agent: Agent) -> None:
    """When a worker moves, idle connections to the old address are closed at once, the others after their exchange."""
    name = agent.name("m")
    old = agent.worker(name)
    calls = [agent.start_infer(name) for _ in range(2)]
    first, second = old.exchange(), old.exchange()
    first.answer()
    agent.patience.until(lambda: any(call.done for call in calls), "the first reply")
    new = agent.listener()
    agent.management.register(new, name, worker_id=old.worker_id)
    agent.patience.until(first.connection.ended.is_set, "the end of the idle connection")
    assert second.connection.silent(), "the connection with the exchange was closed too, or got more"
    second.answer()
    for call in calls:
        call.answer().expect_ok()
    agent.patience.until(second.connection.ended.is_set, "the end of the other connection after its exchange")
    assert old.open_connections == 0, "a connection to the old address is open"


@requirement("manage.unregister.connections")
def test_last_exchange_of_a_stream(agent: Agent) -> None:
    """The connection of a streaming exchange is closed when it has ended after its worker has gone."""
    name = agent.name("m")
    worker = agent.worker(name, stream=True)
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    leave(agent, worker.worker_id, "UnregisterWorker")
    exchange.send(wire.stream_reply(i=0))
    stream.receive()
    assert exchange.connection.silent(), "the connection with the exchange was closed, or got more"
    exchange.end()
    stream.answer().expect_ok()
    agent.patience.until(exchange.connection.ended.is_set, "the end of the connection after its exchange")
