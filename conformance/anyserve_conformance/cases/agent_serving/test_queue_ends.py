"""How waiting ends without a place: deadline, cancellation, changes of registrations; and what a drain does to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grpc import StatusCode

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import drop_by_violations, hold, let_wait, violate
from anyserve_conformance.client import Call
from anyserve_conformance.raw_grpc import INFER, prefixed
from anyserve_conformance.raw_http2 import Http2Connection
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import Exchange, ScriptedWorker

LOOK_AT = "what takes a request out of its queue"

STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
RawHttp2 = Callable[..., Http2Connection]


def busy(agent: Agent, name: str) -> tuple[ScriptedWorker, Call, Exchange]:
    """A worker whose only place is taken, and by what."""
    worker = agent.worker(name, max_concurrency=1)
    return worker, *hold(agent, worker, name)


def never_sent(agent: Agent, worker: ScriptedWorker, name: str, call: Call, exchange: Exchange) -> None:
    """Frees the place, and sees that the next request is the next that comes to the worker."""
    exchange.answer()
    call.answer().expect_ok()
    following, exchange = hold(agent, worker, wire.request(name, request_id="following"))
    assert exchange.request.id == "following", "the request was sent to the worker after it had ended"
    exchange.answer()
    following.answer().expect_ok()
    assert len(worker.requests) == 2, f"{len(worker.requests)} requests came instead of 2"


def noticed(agent: Agent, worker: ScriptedWorker) -> None:
    """Gives the agent a moment: its clock of a deadline starts when the call has come, later than the client's."""
    sent = len(worker.requests)
    message = "a request was sent that has to wait"
    agent.patience.while_nothing(lambda: len(worker.requests) > sent, message, for_=agent.patience(0.2))


# Deadline


@requirement("queue.deadline.passed")
def test_deadline_passes(agent: Agent) -> None:
    """A request whose deadline passes while it waits ends with DEADLINE_EXCEEDED, and is never sent."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    agent.infer(name, timeout=agent.patience(0.2)).expect(StatusCode.DEADLINE_EXCEEDED)
    noticed(agent, worker)
    never_sent(agent, worker, name, running, exchange)


@requirement("queue.deadline.passed")
def test_the_agent_watches_the_deadline_itself(agent: Agent, raw_http2: RawHttp2) -> None:
    """The agent answers DEADLINE_EXCEEDED to a client that does not watch its deadline itself."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    connection = raw_http2()
    stream = connection.start(INFER, wire.request(name).SerializeToString(), timeout=f"{agent.patience(200):.0f}m")
    answer = connection.answer(stream)
    assert answer.status == StatusCode.DEADLINE_EXCEEDED.value[0], f"the call went so: {answer!r}"
    never_sent(agent, worker, name, running, exchange)


@requirement("queue.deadline.passed", needs={"queue-size": 1})
def test_deadline_makes_room(agent: Agent) -> None:
    """A request whose deadline has passed takes up no room in its queue."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    for _ in range(3):
        agent.infer(name, timeout=agent.patience(0.1)).expect(StatusCode.DEADLINE_EXCEEDED)
        noticed(agent, worker)
    waiting = room(agent, name)
    exchange.answer()
    running.answer().expect_ok()
    worker.exchange().answer()
    waiting.answer().expect_ok()


def room(agent: Agent, name: str) -> Call:
    """A request that waits, tried until there is room: a client may know of an end a moment before the agent."""
    found: list[Call] = []

    def waits() -> bool:
        call = agent.start_infer(name)
        agent.client.live()
        if call.done:
            call.answer().expect(StatusCode.RESOURCE_EXHAUSTED)
            return False
        found.append(call)
        return True

    agent.patience.until(waits, "room in the queue")
    agent.patience.while_nothing(lambda: found[0].done, "a request ended that had to wait", for_=0.03)
    return found[0]


@requirement("queue.deadline.passed")
def test_deadline_of_one_in_the_middle(agent: Agent) -> None:
    """The deadline of one that waits between others takes that one out and no other."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    before = let_wait(agent, wire.request(name, request_id="before"))
    between = agent.start_infer(wire.request(name, request_id="between"), timeout=agent.patience(0.2))
    agent.client.live()
    behind = let_wait(agent, wire.request(name, request_id="behind"), timeout=agent.patience(60))
    between.answer().expect(StatusCode.DEADLINE_EXCEEDED)
    noticed(agent, worker)
    for request_id in ("before", "behind"):
        exchange.answer()
        exchange = worker.exchange()
        assert exchange.request.id == request_id, f"request {exchange.request.id} came instead of {request_id}"
    exchange.answer()
    for call in (running, before, behind):
        call.answer().expect_ok()


# Cancellation


@requirement("queue.cancel.removed")
def test_client_cancels(agent: Agent) -> None:
    """A request that is cancelled while it waits is never sent."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    waiting = let_wait(agent, name)
    waiting.cancel()
    agent.client.live()
    agent.patience.while_nothing(lambda: len(worker.requests) > 1, "a request was sent that has to wait")
    never_sent(agent, worker, name, running, exchange)


def is_full(agent: Agent, worker: ScriptedWorker, name: str) -> None:
    """Sees that a request, of another connection, takes up the room in a queue of size 1."""
    agent.patience.while_nothing(lambda: len(worker.requests) > 1, "a request was sent that has to wait", for_=0.03)
    agent.infer(name).expect(StatusCode.RESOURCE_EXHAUSTED)


@requirement("queue.cancel.removed", needs={"queue-size": 1})
@pytest.mark.parametrize("how", ["cancels", "closes-its-channel", "vanishes"])
def test_client_that_goes_makes_room(agent: Agent, how: str) -> None:
    """A request whose client cancels or goes away takes up no room, and is never sent."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    going = wire.request(name, request_id="going").SerializeToString()
    if how == "vanishes":
        host, _, port = agent.place.target.rpartition(":")
        connection = Http2Connection.connect(
            host.strip("[]"), int(port), transcript=agent.transcript, patience=agent.patience
        )
        connection.start(INFER, going)
        connection.round_trip()
        is_full(agent, worker, name)
        connection.close()
    else:
        client = agent.new_client()
        call = client.start_infer(going)
        client.live()
        is_full(agent, worker, name)
        call.cancel() if how == "cancels" else client.close()
    waiting = room(agent, name)
    exchange.answer()
    running.answer().expect_ok()
    exchange = worker.exchange()
    assert exchange.request.id == "", "the request of the client that went was sent"
    exchange.answer()
    waiting.answer().expect_ok()
    assert len(worker.requests) == 2, f"{len(worker.requests)} requests came instead of 2"


@requirement("queue.cancel.removed")
def test_stream_that_is_cancelled(agent: Agent) -> None:
    """Requests of a ModelStreamInfer call that wait are removed with it; one that came behind them is next."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    stream = agent.stream()
    for number in range(3):
        stream.send(wire.request(name, request_id=f"stream {number}"))
    agent.client.live()
    behind = let_wait(agent, wire.request(name, request_id="behind"))
    stream.cancel()
    stream.answer()
    agent.client.live()
    agent.patience.while_nothing(lambda: behind.done, "a request ended that had to wait")
    exchange.answer()
    exchange = worker.exchange()
    assert exchange.request.id == "behind", f"request {exchange.request.id} was sent after its call was cancelled"
    exchange.answer()
    for call in (running, behind):
        call.answer().expect_ok()


# Changes of registrations


@requirement("queue.change.again")
def test_worker_that_is_dropped_leaves_its_requests_to_others(agent: Agent) -> None:
    """Requests that wait for a worker that is dropped go to their next match."""
    name, other = agent.name("m"), agent.name("other")
    worker = agent.worker(name, priority=1, max_concurrency=1)
    agent.management.register(worker, other)
    running, _ = hold(agent, worker, name)
    waiting = let_wait(agent, name)
    lower = agent.worker(name, worker_id="lower", answer=lambda _: wire.reply(request_id="lower"))
    drop_by_violations(agent, worker, other)
    assert waiting.answer().message.id == "lower", "the request was not answered by the next match"
    running.answer().expect(StatusCode.UNAVAILABLE)
    assert len(lower.requests) == 1


@requirement("queue.change.again")
def test_registration_that_is_removed_leaves_its_requests_to_others(agent: Agent) -> None:
    """Requests that wait for a registration that is removed by UnregisterModel go to their next match."""
    name = agent.name("m")
    worker = agent.worker(name, capability={"type": name, "x": "1"}, priority=1, max_concurrency=1)
    running, exchange = hold(agent, worker, name)
    waiting = let_wait(agent, b"", query={"type": name})
    agent.worker(agent.name("other"), capability={"type": name}, answer=lambda _: wire.reply(request_id="next"))
    agent.management.unregister_model(worker.worker_id, name)
    assert waiting.answer().message.id == "next", "the request was not answered by the next match"
    exchange.answer()
    running.answer().expect_ok()


@requirement("queue.change.again")
def test_worker_that_comes(agent: Agent) -> None:
    """A worker that registers gets as many of those that wait as it has places, the first ones."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    waiting = [let_wait(agent, wire.request(name, request_id=str(number))) for number in range(4)]
    second = agent.worker(name, worker_id="second", max_concurrency=2)
    exchanges = [second.exchange() for _ in range(2)]
    assert {each.request.id for each in exchanges} == {"0", "1"}, "others than the first two were sent"
    exchange.answer()
    exchange = worker.exchange()
    assert exchange.request.id == "2", f"request {exchange.request.id} was next"
    exchanges[0].answer()
    following = second.exchange()
    assert following.request.id == "3", f"request {following.request.id} was next"
    for each in (exchange, exchanges[1], following):
        each.answer()
    for call in (running, *waiting):
        call.answer().expect_ok()


@requirement("queue.change.again", needs={"default-max-concurrency": 2})
def test_better_match_that_is_busy(agent: Agent) -> None:
    """Requests that wait turn to a better match that comes, and wait for that one though theirs becomes free."""
    name, other = agent.name("m"), agent.name("other")
    worker, running, exchange = busy(agent, name)
    waiting = let_wait(agent, name)
    better = agent.worker(other, worker_id="better")
    blockers = [hold(agent, better, other) for _ in range(2)]
    agent.management.register(better, name, priority=1)
    exchange.answer()
    running.answer().expect_ok()
    worker.no_exchange(0.05)
    for _, blocker in blockers:
        blocker.answer()
    better.exchange().answer(wire.reply(request_id="better"))
    assert waiting.answer().message.id == "better", "the request was not answered by the better match"
    for call, _ in blockers:
        call.answer().expect_ok()


@requirement("queue.change.order")
def test_many_changes(agent: Agent) -> None:
    """Whatever is registered and removed meanwhile, those that wait are sent in the order in which they came."""
    scope = agent.name("scope")
    worker = agent.worker("", capability={"type": scope, "size": "1"}, max_concurrency=1)
    other = agent.worker("", capability={"type": scope, "size": "2"}, max_concurrency=1, worker_id="other")
    calls = [agent.start_infer(b"", query={"type": scope, "size": size}) for size in "12"]
    exchange, kept = worker.exchange(), other.exchange()
    order = []
    for number, pattern in enumerate(("1", "1|2", "*", "1", "1|2", "*")):
        order.append(str(number))
        query = {"type": scope, "size": pattern}
        calls.append(let_wait(agent, wire.request(request_id=str(number)), query=query))
        passing = agent.listener("passing")
        agent.management.register(passing, agent.name("passing"), capability={"passing": scope})
        agent.management.unregister(passing.worker_id)
        agent.management.register(worker, "", capability={"type": scope, "size": "1"}, max_concurrency=1)
    agent.management.unregister(other.worker_id)  # all wait for the one worker now
    got = []
    for _ in order:
        exchange.answer()
        exchange = worker.exchange()
        got.append(exchange.request.id)
    exchange.answer()
    kept.answer()
    for call in calls:
        call.answer().expect_ok()
    assert got == order, f"the requests came in the order {got}"


@requirement("queue.bound.moved", "queue.change.order", needs={"queue-size": 1})
def test_moved_to_a_full_queue(agent: Agent) -> None:
    """Requests that a removed registration moves to a full queue go on waiting there, in the order of arrival."""
    scope, name = agent.name("scope"), agent.name("m")
    best = agent.worker("", capability={"type": scope, "size": "1"}, priority=1, max_concurrency=1)
    worker = agent.worker(name, capability={"type": scope, "size": "2"}, max_concurrency=1, worker_id="second")
    running = [agent.start_infer(b"", query={"type": scope}), agent.start_infer(name)]
    kept, exchange = best.exchange(), worker.exchange()
    moved = let_wait(agent, wire.request(request_id="moved"), query={"type": scope})
    waiting = let_wait(agent, wire.request(name, request_id="waiting"))
    agent.management.unregister(best.worker_id)
    agent.infer(name).expect(StatusCode.RESOURCE_EXHAUSTED)
    agent.patience.while_nothing(lambda: moved.done or waiting.done, "a request ended that had to wait", for_=0.05)
    for request_id in ("moved", "waiting"):
        exchange.answer()
        exchange = worker.exchange()
        assert exchange.request.id == request_id, f"request {exchange.request.id} came instead of {request_id}"
    exchange.answer()
    kept.answer()
    for call in (*running, moved, waiting):
        call.answer().expect_ok()


def unregister_worker(agent: Agent, worker: ScriptedWorker, name: str) -> None:
    """Its worker takes its leave."""
    agent.management.unregister(worker.worker_id)


def unregister_model(agent: Agent, worker: ScriptedWorker, name: str) -> None:
    """Its registration is removed, and another of the worker stays."""
    agent.management.register(worker, agent.name("other"))
    agent.management.unregister_model(worker.worker_id, name)


@requirement("queue.change.gone")
@pytest.mark.parametrize("leave", [unregister_worker, unregister_model])
def test_last_match_goes(agent: Agent, leave: Callable[[Agent, ScriptedWorker, str], None]) -> None:
    """Requests that wait end with UNAVAILABLE when their last match goes; who comes then gets NOT_FOUND."""
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    waiting = [let_wait(agent, name), let_wait(agent, b"", query={"type": name})]
    leave(agent, worker, name)
    for call in waiting:
        call.answer().expect(StatusCode.UNAVAILABLE)
    agent.infer(name).expect(StatusCode.NOT_FOUND)
    exchange.answer()
    running.answer().expect_ok()
    assert len(worker.requests) == 1, f"{len(worker.requests)} requests came instead of 1"


@requirement("queue.change.gone")
def test_last_match_is_dropped(agent: Agent) -> None:
    """Requests that wait end with UNAVAILABLE when the worker of their last match is dropped."""
    name, other = agent.name("m"), agent.name("other")
    worker, running, _ = busy(agent, name)
    agent.management.register(worker, other)
    waiting = let_wait(agent, name)
    for _ in range(3):
        violate(agent, worker, other)
    waiting.answer().expect(StatusCode.UNAVAILABLE)
    running.answer().expect(StatusCode.UNAVAILABLE)


@requirement("queue.change.gone")
def test_last_match_of_a_stream_goes(agent: Agent, raw_http2: RawHttp2) -> None:
    """A request of a ModelStreamInfer call that waits fails with UNAVAILABLE, and the call goes on."""
    name, other = agent.name("m"), agent.name("other")
    worker, running, exchange = busy(agent, name)
    agent.worker(other, worker_id="other", answer=lambda _: b"")
    connection = raw_http2()
    stream = connection.open(STREAM_INFER)
    connection.data(stream, prefixed(wire.request(name, request_id="waiting").SerializeToString()))
    connection.round_trip()
    agent.patience.while_nothing(lambda: len(worker.requests) > 1, "a request was sent that has to wait", for_=0.03)
    agent.management.unregister(worker.worker_id)
    answer = connection.streams[stream]
    assert connection.wait(lambda: bool(answer.messages)), f"there is no response: {answer!r}"
    connection.data(stream, prefixed(wire.request(other, request_id="after").SerializeToString()), end_stream=True)
    connection.answer(stream)
    replies = [proto.ModelStreamInferResponse.FromString(message.payload) for message in answer.messages]
    got = [
        (reply.infer_response.id, wire.parameters_of(reply.infer_response).get("anyserve_error_code"))
        for reply in replies
    ]
    assert got == [("waiting", StatusCode.UNAVAILABLE.value[0]), ("after", None)], f"ids and codes came as {got}"
    assert answer.ok, f"the call ended so: {answer!r}"
    exchange.answer()
    running.answer().expect_ok()


# Drain


def drain(agent: Agent) -> None:
    """Tells the agent to end, and returns when it drains."""
    watcher = agent.watch()
    agent.program.terminate()
    for event in watcher:
        if event.type == proto.Event.SERVER_DRAINING:
            return
    raise AssertionError("WatchEvents ended without SERVER_DRAINING")


@requirement("queue.drain.waiting")
def test_drain_lets_requests_wait(launch_agent: Callable[..., Agent]) -> None:
    """Requests that wait when the agent begins to drain get their place within the grace, one after the other."""
    agent = launch_agent(grace=60)
    name = agent.name("m")
    worker, running, exchange = busy(agent, name)
    waiting = [let_wait(agent, wire.request(name, request_id=str(number))) for number in range(3)]
    drain(agent)
    agent.patience.while_nothing(lambda: any(call.done for call in waiting), "a request that waited ended")
    for number in range(3):
        exchange.answer()
        exchange = worker.exchange()
        assert exchange.request.id == str(number), f"request {exchange.request.id} came instead of {number}"
    exchange.answer()
    for call in (running, *waiting):
        call.answer().expect_ok()
    assert agent.program.wait() == 0, "the agent did not end with status 0"


@requirement("queue.drain.waiting", "queue.change.again")
def test_worker_that_comes_during_a_drain(launch_agent: Callable[..., Agent]) -> None:
    """A worker that registers while the agent drains gets a request that waits."""
    agent = launch_agent(grace=60)
    name = agent.name("m")
    _, running, exchange = busy(agent, name)
    waiting = let_wait(agent, name)
    drain(agent)
    second = agent.worker(name, worker_id="second")
    second.exchange().answer()
    waiting.answer().expect_ok()
    exchange.answer()
    running.answer().expect_ok()
    assert agent.program.wait() == 0, "the agent did not end with status 0"
