"""The ModelStreamInfer call: its two sides, its end, what cuts it short."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_streaming.steps import error_code, streaming, under_way
from anyserve_conformance.requirement import requirement

LOOK_AT = "the two sides of a ModelStreamInfer call: they are read and written at the same time"


@requirement("stream.call.bidirectional")
def test_both_sides_at_once(agent: Agent) -> None:
    """A response is sent while further requests are still taken, and the other way round."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, first = under_way(agent, worker, name, request_id="1")
    first.send(wire.stream_reply(request_id="1"))
    assert stream.receive().response.id == "1"
    stream.send(wire.request(name, request_id="2"))
    second = worker.exchange()
    second.send(wire.stream_reply(request_id="2"))
    assert stream.receive().response.id == "2"
    first.end()
    second.end()
    stream.end().answer().expect_ok()


@requirement("stream.call.single-request")
def test_one_request_and_the_end(agent: Agent) -> None:
    """A client that sends one request and ends its side at once is served to the end."""
    name = agent.name()
    worker = streaming(agent, name)
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    for i in range(3):
        exchange.send(wire.stream_reply(i=i))
    exchange.end()
    told = [wire.parameters_of(reply.response).get("i") for reply in stream.replies()]
    assert told == [0, 1, 2], f"the responses were {told}"
    stream.answer().expect_ok()


@requirement("stream.call.half-close")
def test_ends_when_all_is_answered(agent: Agent) -> None:
    """The call ends with OK when the client has ended its side and the last request is answered, and not before."""
    name = agent.name()
    worker = streaming(agent, name)
    stream, exchange = under_way(agent, worker, name)
    stream.end()
    assert not stream.pending(), "the call ended before the request was answered"
    exchange.end()
    assert stream.next() is None, "a response came that the worker did not send"
    stream.answer().expect_ok()


@requirement("stream.call.half-close")
def test_stays_open_between_requests(agent: Agent) -> None:
    """The call stays open while the client has not ended its side, although every request is answered."""
    name = agent.name()
    agent.worker(name, answer=lambda _: b"")
    stream = agent.stream().send(wire.request(name))
    stream.receive()
    assert not stream.pending(), "the call ended although the client may send more"
    stream.send(wire.request(name))
    stream.receive()
    stream.end().answer().expect_ok()


@requirement("stream.call.half-close")
def test_no_request_at_all(agent: Agent) -> None:
    """A call without requests ends with OK."""
    stream = agent.stream().end()
    assert stream.next() is None
    stream.answer().expect_ok()


@requirement("stream.call.bad-query")
@pytest.mark.parametrize("metadata", [("x-cap-type", "%"), ("x-cap-size", ">=x"), ("x-cap-_", "a")])
def test_bad_query(agent: Agent, metadata: tuple[str, str]) -> None:
    """Malformed x-cap-* metadata ends the call with INVALID_ARGUMENT."""
    stream = agent.stream(metadata=[metadata]).send(wire.request(agent.name()))
    stream.answer().expect(StatusCode.INVALID_ARGUMENT)


@requirement("stream.call.too-large", needs={"max-message-bytes": 65_536}, look_at="the limit of a received message")
def test_too_large(agent: Agent) -> None:
    """A message above the limit ends the call with RESOURCE_EXHAUSTED."""
    stream = agent.stream().send(wire.request(agent.name(), raw=bytes(65_537)))
    stream.answer().expect(StatusCode.RESOURCE_EXHAUSTED)
    assert agent.client.live()


CANCEL = "the end of a call: everything that it started is cancelled with it"


@requirement("stream.call.cancel", look_at=CANCEL)
def test_cancel_reaches_workers_and_queue(agent: Agent) -> None:
    """When the client cancels, exchanges are closed and requests that wait never reach a worker."""
    name = agent.name()
    worker = streaming(agent, name, max_concurrency=1)
    stream, exchange = under_way(agent, worker, name, request_id="1")
    stream.send(wire.request(name, request_id="2"))
    stream.cancel()
    exchange.cancelled()
    exchange.close()
    again = agent.stream().send(wire.request(name, request_id="3"))
    following = worker.exchange()
    assert following.request.id == "3", f"the request {following.request.id} of the cancelled call reached the worker"
    following.end()
    again.end().answer().expect_ok()


@requirement("stream.call.cancel", look_at=CANCEL)
def test_a_client_that_goes_away(agent: Agent) -> None:
    """When the client's connection is gone, exchanges are closed."""
    name = agent.name()
    worker = streaming(agent, name)
    client = agent.new_client()
    client.stream().send(wire.request(name))
    exchange = worker.exchange()
    client.channel.close()
    exchange.cancelled()


@requirement("stream.call.deadline", look_at=CANCEL)
def test_deadline(agent: Agent) -> None:
    """When the deadline passes, the call is DEADLINE_EXCEEDED and its exchanges are closed."""
    name = agent.name()
    worker = streaming(agent, name)
    stream = agent.stream(timeout=0.4).send(wire.request(name))
    exchange = worker.exchange()
    stream.answer().expect(StatusCode.DEADLINE_EXCEEDED)
    exchange.cancelled()


@requirement("stream.request.each")
def test_each_is_routed_by_itself(agent: Agent) -> None:
    """The requests of one call go to different models, and one that fails tells what ModelInfer would have had."""
    a, b = agent.name("a"), agent.name("b")
    agent.worker(a, answer=lambda _: wire.reply(label="a"))
    agent.worker(b, worker_id="b", answer=lambda _: wire.reply(label="b"))
    stream = agent.stream()
    for name in (b, a):
        stream.send(wire.request(name))
        assert wire.parameters_of(stream.receive().response)["label"] == name[0]
    refused = {
        agent.name("unknown"): (wire.request(agent.name("unknown")), 5),
        "": (wire.request(), 3),
        "reserved": (wire.request(a, anyserve_x=1), 3),
        "malformed": (b"\xff", 3),
    }
    for what, (request, code) in refused.items():
        stream.send(request)
        assert error_code(stream.receive()) == code, f"{what or 'no name'}: not the code {code}"
    stream.end().answer().expect_ok()


@requirement("stream.request.concurrent")
def test_at_the_same_time(agent: Agent) -> None:
    """The requests of a call run at the same time, as far as there are places, and then wait."""
    name = agent.name()
    worker = streaming(agent, name, max_concurrency=3)
    stream = agent.stream()
    for number in range(4):
        stream.send(wire.request(name, request_id=str(number)))
    exchanges = [worker.exchange() for _ in range(3)]
    worker.no_exchange()
    exchanges[1].end()
    last = worker.exchange()
    for exchange in (exchanges[0], exchanges[2], last):
        exchange.end()
    stream.end().answer().expect_ok()


@requirement("stream.request.limit", needs={"max-stream-requests": 2}, look_at="the count of a call's open requests")
def test_not_more_than_the_limit(agent: Agent) -> None:
    """While as many requests as the limit are not answered in full, no further one is taken."""
    name = agent.name()
    worker = streaming(agent, name, max_concurrency=10)
    stream = agent.stream()
    for number in range(3):
        stream.send(wire.request(name, request_id=str(number)))
    first, second = worker.exchange(), worker.exchange()
    first.send(wire.stream_reply())
    stream.receive()
    worker.no_exchange()
    second.end()
    worker.exchange().end()
    first.end()
    stream.end().answer().expect_ok()


@requirement("stream.request.unary")
def test_unary_registrations(agent: Agent) -> None:
    """A request that goes to a unary registration is answered with its one reply as `infer_response`."""
    name = agent.name()
    agent.worker(name, answer=lambda _: wire.reply(raw=b"abc", n=1))
    stream = agent.stream().send(wire.request(name, request_id="7")).end()
    reply = stream.receive()
    assert not reply.error
    assert (reply.response.model_name, reply.response.id) == (name, "7")
    assert list(reply.response.raw_output_contents) == [b"abc"]
    assert stream.next() is None, "a second response came"
    stream.answer().expect_ok()


@requirement("stream.request.unary")
def test_a_failing_unary_registration(agent: Agent) -> None:
    """A failure reply of a unary registration is told in the stream with its code and message."""
    name = agent.name()
    agent.worker(name, answer=lambda _: wire.reply(anyserve_error_code=9, anyserve_error_message="not now"))
    stream = agent.stream().send(wire.request(name, request_id="7")).end()
    reply = stream.receive()
    assert (reply.error, error_code(reply), reply.response.id) == ("not now", 9, "7")
    stream.answer().expect_ok()


@requirement("stream.request.unary")
def test_both_kinds_rank_alike(agent: Agent) -> None:
    """Unary and streaming registrations are matches alike: priority decides."""
    name = agent.name()
    streaming(agent, name, worker_id="streaming")
    agent.worker(name, worker_id="unary", priority=1, answer=lambda _: wire.reply(label="unary"))
    stream = agent.stream().send(wire.request(name)).end()
    assert wire.parameters_of(stream.receive().response)["label"] == "unary"
    stream.answer().expect_ok()
