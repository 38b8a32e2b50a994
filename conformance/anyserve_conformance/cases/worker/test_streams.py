"""Streaming registrations of a worker."""

from __future__ import annotations

import pytest

from anyserve_conformance import wire
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_agent import WorkerUnderTest

LOOK_AT = "the writing of a stream: one frame for each reply, then one empty frame"


@requirement("frame.reply.stream")
@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_replies_and_the_end(worker: WorkerUnderTest, n: int) -> None:
    """A streaming request is answered with its replies in order, and then one empty frame."""
    connection = worker.connect()
    connection.send_frame(worker.request("count", n=n))
    told = [wire.parameters_of(reply.infer_response)["i"] for reply in connection.replies()]
    assert told == list(range(n)), f"the replies were {told[:20]}"
    assert connection.silent(), "more came behind the empty frame"


@requirement("frame.reply.stream")
def test_the_connection_is_used_again(worker: WorkerUnderTest) -> None:
    """After the empty frame the connection serves further exchanges, or is closed."""
    connection = worker.connect()
    for _ in range(3):
        connection.send_frame(worker.request("count", n=2))
        assert len(list(connection.replies())) == 2
        if not connection.silent(0.02):
            return


@requirement("frame.reply.stream", "stream.error.worker-id", look_at="what a streaming handler's failure becomes")
def test_the_end_after_an_error(worker: WorkerUnderTest) -> None:
    """A failing streaming handler is told as a reply with `error_message`, and the empty frame still comes."""
    connection = worker.connect()
    connection.send_frame(worker.request("count", n=5, fail_at=2, request_id="7"))
    replies = list(connection.replies())
    assert len(replies) == 3, f"{len(replies)} replies came, not 3"
    assert replies[-1].error_message, "the last reply has no error_message"
    code = replies[-1].infer_response.parameters["anyserve_error_code"]
    assert code.WhichOneof("parameter_choice") == "int64_param", "anyserve_error_code is not given as int64_param"
    assert code.int64_param == 13


@requirement("frame.reply.stream", look_at="what a streaming handler's failure becomes")
def test_an_error_at_once(worker: WorkerUnderTest) -> None:
    """A handler that fails before its first reply is told with `error_message`, and the empty frame comes."""
    connection = worker.connect()
    connection.send_frame(worker.request("count", n=5, fail_at=0))
    replies = list(connection.replies())
    assert [bool(reply.error_message) for reply in replies] == [True]


@requirement("stream.reply.not-empty")
def test_no_empty_frame_for_a_reply(worker: WorkerUnderTest) -> None:
    """Each reply has a frame that is not empty: only the end is."""
    connection = worker.connect()
    connection.send_frame(worker.request("count", n=4))
    assert len(list(connection.replies())) == 4, "an empty frame came among the replies"


@requirement("stream.flow.worker", look_at="the writing of replies: a handler must wait while the socket takes none")
def test_a_handler_waits_for_the_agent(worker: WorkerUnderTest) -> None:
    """While the agent does not read, a handler stops producing; when it reads, all replies come."""
    n, size = 400, 100_000

    def produced() -> int:
        return int(wire.parameters_of(worker.connect().ask(worker.request("wait")))["produced"])

    before = produced()
    connection = worker.connect()
    connection.send_frame(worker.request("count", n=n, size=size))
    worker.patience.until(lambda: produced() > before, "the first reply")
    last = -1

    def still() -> bool:
        nonlocal last
        previous, last = last, produced()
        worker.connect().ask(worker.request("wait", ms=50))
        return last == previous

    worker.patience.until(still, "the handler to wait")
    assert last - before < n, f"{last - before} replies of {size} bytes were produced for an agent that reads nothing"
    assert sum(1 for _ in connection.replies()) == n
