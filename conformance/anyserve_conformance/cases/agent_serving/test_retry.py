"""Requests that a worker did not take go to another match; those that it took go nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import pytest
from grpc import StatusCode
from hypothesis import strategies as st

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import hold, large_request, let_wait, reset
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import Connection, ScriptedWorker

LOOK_AT = "how the agent tells from the end of a connection whether the worker has read the whole request"

Script = Callable[[Connection], None]
GOOD = wire.reply(request_id="good")


def matches(agent: Agent, name: str) -> tuple[ScriptedWorker, ScriptedWorker]:
    """A worker that is asked first and is left to the case, and one that answers."""
    first = agent.worker(name, worker_id="first", priority=1, raw=True)
    return first, agent.worker(name, worker_id="good", answer=lambda _: GOOD)


# Not taken


def close_at_once(connection: Connection) -> None:
    """Closes without having read anything."""
    connection.close()


def refuse_bytes(connection: Connection) -> None:
    """Takes no more bytes, after some: the agent gets EPIPE, and nothing tells it before."""
    connection.read_exactly(1)
    connection.refuse_bytes()
    while connection.read():
        pass  # what had been written; there is room for more now, and writing it fails


def half_close(connection: Connection) -> None:
    """Ends its own direction while the agent is still writing."""
    connection.read_exactly(1)
    connection.half_close()


@requirement("frame.retry.not-taken")
@pytest.mark.parametrize("script", [close_at_once, reset, refuse_bytes, half_close])
def test_before_the_request_was_written(agent: Agent, script: Script) -> None:
    """A large request goes to another match when the worker ends the connection before it has been written."""
    name = agent.name("m")
    first, good = matches(agent, name)
    sent = large_request(agent, name).SerializeToString()
    call = agent.start_infer(sent)
    script(first.connection())
    answer = call.answer()
    assert answer.message.id == "good", "the request was not answered by the other match"
    assert good.requests == [sent], "the other match got other bytes than the client sent"
    assert len(first.connections) == 1, f"the first worker was tried {len(first.connections)} times"


@requirement("frame.retry.not-taken")
@pytest.mark.parametrize("script", [close_at_once, reset])
def test_after_the_request_was_written(agent: Agent, script: Script) -> None:
    """A small request goes to another match when the worker closes with bytes of it unread."""
    name = agent.name("m")
    first, good = matches(agent, name)
    call = agent.start_infer(name)
    script(first.connection())
    assert call.answer().message.id == "good", "the request was not answered by the other match"
    assert len(good.requests) == 1
    assert len(first.connections) == 1, f"the first worker was tried {len(first.connections)} times"


@requirement("frame.retry.not-taken")
def test_last_byte_unread(agent: Agent) -> None:
    """A request of which the worker has read all but the last byte was not taken."""
    name = agent.name("m")
    first, _ = matches(agent, name)
    sent = wire.request(name).SerializeToString()
    call = agent.start_infer(sent)
    connection = first.connection()
    connection.read_exactly(4 + len(sent) - 1)
    connection.close()
    assert call.answer().message.id == "good", "the request was not answered by the other match"


@requirement("frame.retry.not-taken")
@pytest.mark.parametrize("gone", [False, True], ids=["refused", "no-such-file"])
def test_cannot_connect(agent: Agent, gone: bool) -> None:
    """A request goes to another match when the first refuses connections, or its socket is not there."""
    name = agent.name("m")
    first, _ = matches(agent, name)
    first.refuse()
    if gone:
        first.path.unlink()
    assert agent.infer(name).message.id == "good", "the request was not answered by the other match"


@requirement("frame.retry.not-taken")
def test_another_registration_of_the_worker(agent: Agent) -> None:
    """Another match may be another registration of the same worker."""
    kind = agent.name("kind")
    worker = agent.worker("", capability={"type": kind, "size": "1"}, priority=1, raw=True)
    agent.management.register(worker, "", capability={"type": kind, "size": "2"})
    call = agent.start_infer(b"", query={"type": kind})
    reset(worker.connection())
    connection = worker.connection()
    assert b"size=2" in connection.read_frame(), "the request was not sent for the other registration"
    connection.send_frame(GOOD)
    call.answer().expect_ok()


@requirement("frame.retry.not-taken", "frame.violation.row")
def test_not_taking_is_no_violation(agent: Agent) -> None:
    """A worker that does not take requests stays, and gets the next one."""
    name = agent.name("m")
    worker = agent.worker(name, raw=True)
    for _ in range(4):
        call = agent.start_infer(name)
        reset(worker.connection())
        call.answer().expect(StatusCode.UNAVAILABLE)
    call = agent.start_infer(name)
    connection = worker.connection()
    connection.read_frame()
    connection.send_frame(GOOD)
    call.answer().expect_ok()


# Once


@requirement("frame.retry.once", "frame.retry.exhausted")
def test_each_match_once(agent: Agent) -> None:
    """A request that no match takes is tried once at each, and is UNAVAILABLE then."""
    name = agent.name("m")
    workers = [agent.worker(name, raw=True, priority=-number) for number in range(3)]
    call = agent.start_infer(name)
    for worker in workers:
        reset(worker.connection())
    call.answer().expect(StatusCode.UNAVAILABLE)
    tries = [len(worker.connections) for worker in workers]
    assert tries == [1, 1, 1], f"the workers were tried so many times: {tries}"


@requirement("frame.retry.once", "frame.retry.exhausted")
@pytest.mark.parametrize("script", [close_at_once, reset])
def test_only_match_once(agent: Agent, script: Script) -> None:
    """A request whose only match does not take it is UNAVAILABLE at once."""
    name = agent.name("m")
    worker = agent.worker(name, raw=True)
    call = agent.start_infer(name)
    script(worker.connection())
    call.answer().expect(StatusCode.UNAVAILABLE)
    assert len(worker.connections) == 1, f"the worker was tried {len(worker.connections)} times"


@requirement("frame.retry.exhausted")
def test_nobody_listens(agent: Agent) -> None:
    """A request is UNAVAILABLE when none of its matches can be reached."""
    name = agent.name("m")
    for _ in range(2):
        agent.worker(name, raw=True).refuse()
    agent.infer(name).expect(StatusCode.UNAVAILABLE)


# Never twice


def close(connection: Connection) -> None:
    """Closes without a reply."""
    connection.close()


def half_close_after(connection: Connection) -> None:
    """Half-closes without a reply."""
    connection.half_close()


def cut_reply(connection: Connection) -> None:
    """Sends part of a reply, and closes."""
    connection.send(wire.frame(GOOD)[:-1])
    connection.close()


def byte_of_a_reply(connection: Connection) -> None:
    """Sends one byte, and closes."""
    connection.send(b"\x00")
    connection.close()


def too_long(connection: Connection) -> None:
    """Sends a length above any limit."""
    connection.send(b"\xff\xff\xff\xff", "a length above any limit")


TAKEN = [
    pytest.param(close, StatusCode.UNAVAILABLE, id="end"),
    pytest.param(half_close_after, StatusCode.UNAVAILABLE, id="half-close"),
    pytest.param(cut_reply, StatusCode.INTERNAL, id="part-of-a-reply"),
    pytest.param(byte_of_a_reply, StatusCode.INTERNAL, id="a-byte-of-a-reply"),
    pytest.param(too_long, StatusCode.INTERNAL, id="length-above-the-limit"),
]


@requirement("frame.retry.never-twice")
@pytest.mark.parametrize(("script", "status"), TAKEN)
@pytest.mark.parametrize("kept", [False, True], ids=["new-connection", "kept-connection"])
def test_taken_and_not_answered(agent: Agent, kept: bool, script: Script, status: StatusCode) -> None:
    """A request that the worker has read to its end is sent to nobody again, on a new connection or a kept one."""
    name = agent.name("m")
    first, good = matches(agent, name)
    connection = None
    if kept:
        call = agent.start_infer(name)
        connection = first.connection()
        connection.read_frame()
        connection.send_frame(b"")
        call.answer().expect_ok()
    call = agent.start_infer(name)
    connection = connection or first.connection()
    connection.read_frame()
    script(connection)
    call.answer().expect(status)
    agent.client.live()
    assert len(first.connections) == 1, "the request was sent to the same worker again"
    assert not good.connections, "the request was sent to another worker"


@requirement("frame.retry.never-twice")
def test_large_request_taken_and_not_answered(agent: Agent) -> None:
    """That a request had to be written in many pieces changes nothing once its last byte was read."""
    name = agent.name("m")
    first, good = matches(agent, name)
    call = agent.start_infer(large_request(agent, name))
    connection = first.connection()
    connection.read_frame()
    connection.close()
    call.answer().expect(StatusCode.UNAVAILABLE)
    agent.client.live()
    assert not good.connections, "the request was sent to another worker"


@requirement("frame.retry.never-twice", "frame.violation.truncated")
def test_reset_after_a_byte_of_a_reply(agent: Agent) -> None:
    """A reset within a reply is a violation, though bytes of the request were left unread: it is sent to nobody."""
    name = agent.name("m")
    first, good = matches(agent, name)
    sent = wire.request(name).SerializeToString()
    call = agent.start_infer(sent)
    connection = first.connection()
    connection.read_exactly(4 + len(sent) - 1)
    connection.send(wire.frame(GOOD)[:-1], "part of a reply")
    connection.taken()
    connection.close()
    call.answer().expect(StatusCode.INTERNAL)
    agent.client.live()
    assert not good.connections, "the request was sent to another worker"


@requirement("frame.retry.never-twice")
def test_reset_behind_a_whole_reply(agent: Agent) -> None:
    """A reply that has come whole counts, whatever becomes of the connection then."""
    name = agent.name("m")
    first, good = matches(agent, name)
    sent = wire.request(name).SerializeToString()
    call = agent.start_infer(sent)
    connection = first.connection()
    connection.read_exactly(4 + len(sent) - 1)
    connection.send_frame(wire.reply(request_id="first"))
    connection.close()
    assert call.answer().message.id == "first", "the request was not answered by the first worker"
    assert not good.connections, "the request was sent to another worker"


@requirement("frame.retry.never-twice")
@pytest.mark.parametrize("unread", [0, 1], ids=["end", "reset"])
def test_stream_that_ends_between_frames(agent: Agent, unread: int) -> None:
    """A stream that ends between its reply frames fails with UNAVAILABLE, and its request is sent to nobody again."""
    name = agent.name("m")
    first = agent.worker(name, stream=True, priority=1, raw=True)
    good = agent.worker(name, stream=True, worker_id="good")
    sent = wire.request(name).SerializeToString()
    stream = agent.stream().send(sent).end()
    connection = first.connection()
    connection.read_exactly(4 + len(sent) - unread)
    connection.send_frame(wire.stream_reply(request_id="first"))
    assert stream.receive().response.id == "first", "another response came"
    connection.close()
    code = wire.parameters_of(stream.receive().response).get("anyserve_error_code")
    assert code == StatusCode.UNAVAILABLE.value[0], f"the request failed with the code {code}"
    assert not good.connections, "the request was sent to another worker"


@requirement("frame.retry.never-twice")
def test_retry_waits_in_no_lost_place(agent: Agent) -> None:
    """A request that waits and whose worker ends what it does without a reply is sent when the place is free, once."""
    name = agent.name("m")
    worker = agent.worker(name, max_concurrency=1)
    first, exchange = hold(agent, worker, wire.request(name, request_id="first"))
    second = let_wait(agent, wire.request(name, request_id="second"))
    exchange.close()
    first.answer().expect(StatusCode.UNAVAILABLE)
    worker.exchange().answer()
    second.answer().expect_ok()
    ids = [b"first" in payload for payload in worker.requests]
    assert ids == [True, False], f"{len(worker.requests)} requests came"


# All of it


FATES = {"refuse": None, "close": None, "reset": None, "gone": "UNAVAILABLE", "cut": "INTERNAL", "reply": "OK"}
"""What a worker does with a request, and how the request ends then, unless it goes on."""


def meet(worker: ScriptedWorker, fate: str) -> None:
    """Lets a worker do it."""
    connection = worker.connection()
    if fate == "close":
        connection.close()
    elif fate == "reset":
        reset(connection)
    else:
        connection.read_frame()
        if fate != "gone":
            connection.send(wire.frame(GOOD)[: -1 if fate == "cut" else None])
        connection.close()


@requirement("frame.retry.not-taken", "frame.retry.never-twice", "frame.retry.once", "frame.retry.exhausted")
@hypothesis.given(fates=st.lists(st.sampled_from(sorted(FATES)), min_size=1, max_size=4))
def test_any_sequence_of_fates(agent: Agent, fates: list[str]) -> None:
    """A request goes from match to match until one has taken it, and ends as that one says."""
    name = f"{agent.name('m')}-{len(agent.workers)}"
    workers = [agent.worker(name, priority=-number, raw=True) for number in range(len(fates))]
    for worker, fate in zip(workers, fates, strict=True):
        if fate == "refuse":
            worker.refuse()
    call = agent.start_infer(name)
    end, tried = "UNAVAILABLE", 0
    for worker, fate in zip(workers, fates, strict=True):
        tried += 1
        if fate != "refuse":
            meet(worker, fate)
        if FATES[fate] is not None:
            end = FATES[fate] or ""
            break
    call.answer().expect(StatusCode[end])
    wanted = [int(fate != "refuse") if number < tried else 0 for number, fate in enumerate(fates)]
    tries = [len(worker.connections) for worker in workers]
    assert tries == wanted, f"the workers were tried so many times: {tries}, not {wanted}"
    for worker in workers:
        agent.management.unregister(worker.worker_id)
        worker.close()
