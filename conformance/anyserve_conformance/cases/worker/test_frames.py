"""Frames that a worker reads and writes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_conformance import wire
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_agent import WorkerUnderTest, failure

LOOK_AT = "the loop that reads a frame, runs the handler and writes the reply"
READING = "the reading of frames: a length, then exactly that many bytes, in whatever pieces they come"


@requirement("frame.reply.unary")
def test_exactly_one_reply(worker: WorkerUnderTest) -> None:
    """A request for a unary registration is answered with exactly one ModelInferResponse frame."""
    connection = worker.connect()
    reply = connection.ask(worker.request("echo", request_id="7", raw=b"abc"))
    assert failure(reply) == (0, "")
    assert list(reply.raw_output_contents) == [b"abc"], "echo did not return its input"
    assert [(t.name, t.datatype, list(t.shape)) for t in reply.outputs] == [("in", "UINT8", [3])]
    assert connection.silent(), "more bytes, or the end, came behind the one reply"


@requirement("frame.length.format")
@pytest.mark.parametrize("size", [1, 255, 256, 65_535, 65_536, 1 << 20])
def test_lengths(worker: WorkerUnderTest, size: int) -> None:
    """Lengths of one to three bytes are read and written big-endian."""
    contents = bytes(size)
    reply = worker.connect().ask(worker.request("echo", raw=contents))
    assert list(reply.raw_output_contents) == [contents], "the contents came back otherwise"


@requirement("frame.length.split", look_at=READING)
def test_single_bytes(worker: WorkerUnderTest) -> None:
    """A frame that arrives in single bytes is read as one."""
    connection = worker.connect()
    data = wire.frame(worker.request("echo", raw=b"abc"))
    for number in range(len(data)):
        connection.send(data[number : number + 1])
    assert list(connection.reply().raw_output_contents) == [b"abc"]


@requirement("frame.length.split", look_at=READING)
@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5))
def test_split_anywhere(worker: WorkerUnderTest, contents: bytes, cuts: list[int]) -> None:
    """A frame may be cut anywhere."""
    connection = worker.connect()
    data = wire.frame(worker.request("echo", raw=contents))
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        connection.send(data[start:end])
    assert list(connection.reply().raw_output_contents) == ([contents] if contents else [])
    connection.close()


@requirement("frame.length.zero", look_at=READING)
def test_an_empty_frame(worker: WorkerUnderTest) -> None:
    """An empty frame is a request without fields: it is answered with a failure, and the worker goes on."""
    connection = worker.connect()
    connection.send_frame(b"")
    code, _ = failure(connection.reply())
    assert code, "a request without a model was not answered with a failure"
    worker.serves()


LIMIT = {"max-message-bytes": 65_536}
HEADROOM = 131_072


@requirement("frame.limit.request", "frame.length.at-limit", needs=LIMIT, look_at="the limit of a request frame")
def test_at_the_limit(worker: WorkerUnderTest) -> None:
    """A request frame of the agent's limit and 131,072 bytes more is taken."""
    connection = worker.connect()
    message = worker.request("echo", raw=b"x").SerializeToString()
    room = 65_536 + HEADROOM - len(message)
    connection.send_frame(message + wire.field(1_000, bytes(room - 5)))
    assert list(connection.reply().raw_output_contents) == [b"x"]


@requirement("frame.length.limit", needs=LIMIT, look_at="the limit of a request frame")
def test_above_the_limit(worker: WorkerUnderTest) -> None:
    """A length above the limit closes the connection without waiting for the payload."""
    connection = worker.connect()
    connection.send((65_536 + HEADROOM + 1).to_bytes(4, "big"))
    connection.expect_end()
    worker.serves()


@requirement("frame.length.limit", look_at="the limit of a request frame")
@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFF])
def test_absurd_lengths(worker: WorkerUnderTest, length: int) -> None:
    """The greatest lengths close the connection at once, whatever limit the worker has."""
    connection = worker.connect()
    connection.send(length.to_bytes(4, "big"))
    connection.expect_end()
    worker.serves()


@requirement("frame.connections.keep")
def test_a_connection_is_used_again(worker: WorkerUnderTest) -> None:
    """After an exchange a connection serves further ones, also after a failure, or is closed."""
    connection = worker.connect()
    for number in range(5):
        try:
            reply = connection.ask(worker.request("echo", raw=bytes([number])))
        except (EOFError, ConnectionError):
            connection = worker.connect()
            continue
        assert list(reply.raw_output_contents) == [bytes([number])], "the reply to another request came"
    assert connection.socket.fileno() >= 0


@requirement("frame.connections.keep")
def test_used_again_after_a_failure(worker: WorkerUnderTest) -> None:
    """After a failure reply a connection serves further exchanges, or is closed."""
    worker.registration("fail")
    connection = worker.connect()
    assert failure(connection.ask(worker.request("fail")))[0], "fail did not fail"
    try:
        reply = connection.ask(worker.request("echo", raw=b"x"))
    except (EOFError, ConnectionError):
        return
    assert list(reply.raw_output_contents) == [b"x"]


@requirement("frame.connections.early")
def test_a_request_before_the_reply(worker: WorkerUnderTest) -> None:
    """A second request on the connection before the first reply is served afterwards, or ends the connection."""
    connection = worker.connect()
    first, second = worker.request("wait", ms=100), worker.request("echo", raw=b"second")
    connection.send(wire.frame(first) + wire.frame(second))
    try:
        assert failure(connection.reply()) == (0, "")
        assert list(connection.reply().raw_output_contents) == [b"second"]
    except (EOFError, ConnectionError):
        worker.serves()


@requirement("frame.connections.parallel")
def test_as_many_at_once_as_places(worker: WorkerUnderTest) -> None:
    """As many exchanges as the registration has places run at once, each on its own connection."""
    places = worker.registration("wait").max_concurrency or 10
    number = min(places, 8)
    connections = [worker.connect() for _ in range(number)]
    for connection in connections:
        connection.send_frame(worker.request("wait", ms=400))
    running = [wire.parameters_of(connection.reply())["running"] for connection in connections]
    if number > 1:
        assert max(int(count) for count in running) > 1, "the exchanges ran one after the other"


@requirement("frame.connections.parallel")
def test_a_quick_one_beside_slow_ones(worker: WorkerUnderTest) -> None:
    """A request is served while others of the worker are under way."""
    slow = worker.connect()
    slow.send_frame(worker.request("wait", ms=60_000))
    reply = worker.connect().ask(worker.request("echo", raw=b"quick"))
    assert list(reply.raw_output_contents) == [b"quick"]
    slow.close()
    settled(worker)


def settled(worker: WorkerUnderTest) -> None:
    """Waits until no handler of another case runs."""

    def alone() -> bool:
        return wire.parameters_of(worker.connect().ask(worker.request("wait"))).get("running") == 1

    worker.patience.until(alone, "the end of the handlers whose connections are closed")


@requirement("frame.request.garbage")
@pytest.mark.parametrize(
    "data",
    [
        wire.frame(b"\xff" * 20),
        wire.frame(b"GET / HTTP/1.1\r\n\r\n"),
        b"GET / HTTP/1.1\r\n\r\n",
        wire.frame(wire.field(4, b"\xff")),
        wire.frame(wire.field(7, bytes(50))[:-9]),
        b"\x00\x00\x00\x05abc",
        b"\x00",
    ],
    ids=["varints", "http-in-a-frame", "http", "bad-parameter", "cut-message", "cut-frame", "cut-length"],
)
def test_garbage(worker: WorkerUnderTest, data: bytes) -> None:
    """Whatever comes on one connection, the others go on."""
    other = worker.connect("another connection")
    connection = worker.connect()
    connection.send(data)
    connection.half_close()
    assert list(other.ask(worker.request("echo", raw=b"x")).raw_output_contents) == [b"x"]
    connection.close()
    worker.serves()
    assert worker.program.running, "the worker has ended"


@requirement("frame.request.bad-tensors", look_at="what is answered when the tensors of a request are no message")
@pytest.mark.parametrize("tensor", [b"\xff\xff\xff", wire.field(1, b"\xff")], ids=["varint", "utf-8"])
def test_bad_tensors(worker: WorkerUnderTest, tensor: bytes) -> None:
    """A request whose tensors cannot be parsed is answered with the failure INVALID_ARGUMENT (3)."""
    request = worker.request("echo").SerializeToString()
    code, message = failure(worker.connect().ask(request + wire.field(5, tensor)))
    assert code == 3, f"answered with the code {code}: {message}"


@requirement("frame.request.unserved", look_at="the choice of a handler")
def test_what_it_does_not_serve(worker: WorkerUnderTest) -> None:
    """A request for what the worker does not serve is answered with the failure NOT_FOUND (5)."""
    connection = worker.connect()
    for request in (wire.request("no-such-model"), wire.request("x")):
        if request.model_name == "x":
            request.parameters["anyserve_capability"].string_param = "type=no-such-capability"
        code, message = failure(connection.ask(request))
        assert code == 5, f"answered with the code {code}: {message}"


@requirement("frame.request.handler", look_at="the choice of a handler")
def test_the_capability_chooses(worker: WorkerUnderTest) -> None:
    """Where `anyserve_capability` is given it chooses the handler, whatever the model name says."""
    registration = worker.registration("echo")
    capability = dict(registration.capability) or {"type": registration.model_name}
    if registration.model_version and not registration.capability:
        capability["model"] = registration.model_version
    message = wire.request("another-name", raw=b"abc")
    message.parameters["anyserve_capability"].string_param = wire.capability_text(capability)
    reply = worker.connect().ask(message)
    if not registration.capability and failure(reply)[0]:
        return  # it registered without a capability: an agent never tells it one
    assert failure(reply) == (0, "")
    assert list(reply.raw_output_contents) == [b"abc"]


@requirement("frame.request.handler", look_at="the choice of a handler")
def test_each_model_its_own(worker: WorkerUnderTest) -> None:
    """Requests for different models of one worker reach different handlers."""
    connection = worker.connect()
    assert failure(connection.ask(worker.request("echo", raw=b"x"))) == (0, "")
    worker.registration("fail")
    assert failure(worker.connect().ask(worker.request("fail")))[0] == 3


@requirement("frame.request.handler", look_at="the parameters that an agent appends")
def test_appended_parameters(worker: WorkerUnderTest) -> None:
    """A request with all that an agent may append is served, behind tensors as it stands on the wire."""
    appended = wire.request(traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    appended.parameters["anyserve_timeout_ms"].int64_param = 5_000
    message = worker.request("echo", raw=b"abc").SerializeToString() + appended.SerializeToString()
    assert list(worker.connect().ask(message).raw_output_contents) == [b"abc"]


@requirement("frame.error.type", "serving.infer.handler-raised", look_at="the reply that reports a handler's failure")
@pytest.mark.parametrize(("code", "message"), [(3, "as asked"), (13, "größe 🙂"), (1, "x"), (16, "y" * 2_000)])
def test_failures(worker: WorkerUnderTest, code: int, message: str) -> None:
    """A handler's failure is reported with its code as `int64_param` and its message as `string_param`."""
    reply = worker.connect().ask(worker.request("fail", code=code, message=message))
    parameters = reply.parameters
    assert "anyserve_error_code" in parameters, "the reply does not report a failure"
    assert parameters["anyserve_error_message"].WhichOneof("parameter_choice") == "string_param"
    assert failure(reply) == (code, message)


@requirement("frame.connections.close")
def test_idle_connections(worker: WorkerUnderTest) -> None:
    """An idle connection stays, or is closed without a byte; the worker serves new ones either way."""
    connection = worker.connect()
    connection.ask(worker.request("echo", raw=b"x"))
    if not connection.silent(0.3):
        assert connection.ended.is_set(), "bytes came on an idle connection"
    worker.serves()
