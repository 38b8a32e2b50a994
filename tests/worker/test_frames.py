"""A worker's socket, frame by frame, with the test as the agent: good requests, bad ones, and none at all."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from anyserve import Code, ModelInferRequest
from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.worker.answers import MAX_ERROR_CHARACTERS
from support.command import FACTS
from support.scripted_agent import Frames, ScriptedWorker, failure, request, scripted

APP = (
    FACTS
    + """
import asyncio


@app.capability(type="echo")
def echo(request):
    return request.tensors()


@app.capability(type="about", model="m x", size="1,2")
def about(request, context):
    return {"parameters": sorted(request.parameters), "left": [context.time_remaining() or -1.0]}


@app.capability(type="held")
def held(request, context):
    facts.add("held")
    facts.add("cancelled" if context.cancellation.wait(20) else "in vain")


@app.capability(type="async-held")
async def async_held(request):
    facts.add("async held")
    try:
        await asyncio.sleep(20)
    finally:
        facts.add("async cancelled")


@app.capability(type="fails")
def fails(request):
    raise InferenceError(Code.ABORTED, "no")


@app.capability(type="fails-at-length")
def fails_at_length(request):
    raise ValueError("no " * 50_000)


@app.capability(type="stream-fails-at-length")
def stream_fails_at_length(request):
    yield {"n": [0]}
    raise ValueError("no " * 50_000)


@app.capability(type="tokens")
def tokens(request):
    for n in range(int(request.tensors()["n"][0])):
        yield {"n": [n]}


@app.capability(type="stream-fails")
def stream_fails(request):
    yield {"n": [0]}
    raise InferenceError(Code.ABORTED, "no")


@app.capability(type="empty-replies", stream=True)
def empty_replies(request, context, stream):
    stream.send(ModelStreamInferResponse())
    stream.send(ModelInferResponse())
    stream.send({})
"""
)

LIMIT = 1 << 16


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedWorker]:
    directory = tmp_path_factory.mktemp("frames")
    with scripted(APP, f"--max-message-bytes={LIMIT}", directory=directory) as worker:
        yield worker


@pytest.fixture
def connection(worker: ScriptedWorker) -> Iterator[Frames]:
    connection = worker.connect()
    yield connection
    connection.close()


def fact(connection: Frames, name: str, at_least: int) -> int:
    reply = connection.ask(request("facts", name=[name], at_least=[at_least], seconds=[15.0]))
    return int(reply.tensors()["value"][0])


def serves(worker: ScriptedWorker) -> bool:
    """A new connection is served, whatever others have done."""
    other = worker.connect()
    try:
        return bool(other.ask(request("echo", n=[1])).tensors()["n"].tolist() == [1])
    finally:
        other.close()


def test_exchanges_one_after_the_other(connection: Frames) -> None:
    for n in range(5):
        assert connection.ask(request("echo", n=[n])).tensors()["n"].tolist() == [n]


def test_a_frame_byte_by_byte(connection: Frames) -> None:
    payload = request("echo", n=[7]).SerializeToString()
    for byte in struct.pack(">I", len(payload)) + payload:
        connection.send_bytes(bytes([byte]))
    assert pb.ModelInferResponse.FromString(connection.receive() or b"").tensors()["n"].tolist() == [7]


def test_two_requests_at_once_are_answered_in_order(connection: Frames) -> None:
    payloads = [request("echo", n=[n]).SerializeToString() for n in (1, 2)]
    connection.send_bytes(b"".join(struct.pack(">I", len(p)) + p for p in payloads))
    for n in (1, 2):
        assert pb.ModelInferResponse.FromString(connection.receive() or b"").tensors()["n"].tolist() == [n]


def test_failure_is_told_in_parameters_and_the_connection_stays(connection: Frames) -> None:
    assert failure(connection.ask(request("fails"))) == (Code.ABORTED, "no")
    assert connection.ask(request("echo", n=[1])).tensors()["n"].tolist() == [1]


def test_stream_ends_with_an_empty_frame_and_the_connection_stays(connection: Frames) -> None:
    for count in (3, 0, 100):
        connection.send(request("tokens", n=[count]).SerializeToString())
        assert [int(r.infer_response.tensors()["n"][0]) for r in connection.replies()] == list(range(count))


def test_stream_that_fails(connection: Frames) -> None:
    connection.send(request("stream-fails", id="i").SerializeToString())
    first, last = connection.replies()
    assert first.infer_response.tensors()["n"].tolist() == [0]
    assert last.error_message == "no"
    assert last.infer_response.id == "i"
    assert failure(last.infer_response)[0] == Code.ABORTED


def test_a_failure_at_length_is_cut_and_the_connection_stays(connection: Frames) -> None:
    message = ("no " * 50_000)[:MAX_ERROR_CHARACTERS]
    assert failure(connection.ask(request("fails-at-length"))) == (Code.INTERNAL, message)
    connection.send(request("stream-fails-at-length").SerializeToString())
    assert [reply.error_message for reply in connection.replies()] == ["", message]
    assert connection.ask(request("echo", n=[1])).tensors()["n"].tolist() == [1]


def test_empty_replies_do_not_end_a_stream(connection: Frames) -> None:
    connection.send(request("empty-replies").SerializeToString())
    assert len(list(connection.replies())) == 3


def test_handler_sees_neither_what_the_agent_appended_nor_the_deadline_as_a_parameter(connection: Frames) -> None:
    message = request("m x", capability="model=m%20x,size=1%2C2,type=about", timeout_ms=5000)
    message.parameters["mine"].int64_param = 1
    tensors = connection.ask(message).tensors()
    assert tensors["parameters"].tolist() == [b"mine"]
    assert 3.0 < tensors["left"][0] <= 5.0


def test_appended_parameters_win_over_the_clients_bytes(connection: Frames) -> None:
    # The agent appends to what the client sent: of two entries with the same key, the last one counts.
    client = request("echo", n=[3], capability="type=fails").SerializeToString()
    agent = ModelInferRequest()
    agent.parameters["anyserve_capability"].string_param = "type=echo"
    connection.send(client + agent.SerializeToString())
    assert pb.ModelInferResponse.FromString(connection.receive() or b"").tensors()["n"].tolist() == [3]


@pytest.mark.parametrize("capability", ["type=nowhere", "type=echo,model=m", "", "%%%", "type"])
def test_unknown_capability(connection: Frames, capability: str) -> None:
    code, message = failure(connection.ask(request("echo", capability=capability)))
    assert code == Code.NOT_FOUND
    assert "does not serve" in message
    assert connection.ask(request("echo", n=[1])).tensors()["n"].tolist() == [1]


def test_request_without_a_capability_goes_by_name(connection: Frames) -> None:
    message = request("echo", n=[4])
    del message.parameters["anyserve_capability"]
    assert connection.ask(message).tensors()["n"].tolist() == [4]
    message.model_name = "nowhere"
    assert failure(connection.ask(message))[0] == Code.NOT_FOUND


def test_malformed_tensor_inside_a_good_message(connection: Frames) -> None:
    # inputs[0] is field 5, length-delimited; what is in it is no message: the client's fault.
    payload = request("echo").SerializeToString() + b"\x2a\x02\x0a\xff"
    connection.send(payload)
    code, message = failure(pb.ModelInferResponse.FromString(connection.receive() or b""))
    assert code == Code.INVALID_ARGUMENT
    assert "ModelInferRequest" in message
    assert connection.ask(request("echo", n=[1])).tensors()["n"].tolist() == [1]


def test_malformed_tensor_in_a_stream(connection: Frames) -> None:
    connection.send(request("tokens").SerializeToString() + b"\x2a\x02\x0a\xff")
    (reply,) = connection.replies()
    assert reply.error_message
    assert failure(reply.infer_response)[0] == Code.INVALID_ARGUMENT


def test_raw_contents_that_do_not_fit_their_shape(connection: Frames) -> None:
    message = request("echo", n=[1, 2])
    message.inputs[0].shape[0] = 3
    code, text = failure(connection.ask(message))
    assert code == Code.INVALID_ARGUMENT
    assert '"n"' in text


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I", LIMIT + (1 << 20)),
        struct.pack(">I", 4) + b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["4 GiB", "above the limit", "no message", "HTTP/1", "HTTP/2"],
)
def test_garbage_closes_its_connection_alone(worker: ScriptedWorker, connection: Frames, data: bytes) -> None:
    connection.send_bytes(data)
    assert connection.receive() is None
    assert serves(worker)
    assert worker.running


def test_half_a_frame_then_close(worker: ScriptedWorker, connection: Frames) -> None:
    connection.send_bytes(struct.pack(">I", 100) + b"half")
    connection.close()
    assert serves(worker)


def test_half_a_frame_then_end_of_requests(worker: ScriptedWorker, connection: Frames) -> None:
    connection.send_bytes(struct.pack(">I", 100) + b"half")
    connection.end_of_requests()
    assert connection.receive() is None
    assert serves(worker)


def test_many_requests_before_their_turn(worker: ScriptedWorker, connection: Frames) -> None:
    payload = request("held").SerializeToString()
    connection.send_bytes((struct.pack(">I", len(payload)) + payload) * 100)
    assert connection.receive() is None  # one exchange at a time: this agent does not keep to it
    assert serves(worker)


@pytest.mark.parametrize("cut", [0, 1 << 14], ids=["whole frames", "a part of one"])
def test_many_bytes_before_their_turn(worker: ScriptedWorker, connection: Frames, cut: int) -> None:
    """What comes while an exchange is under way is kept up to what one read brings (256 KiB)."""
    watching = worker.connect()
    held, cancelled = (fact(watching, name, 0) for name in ("held", "cancelled"))
    connection.send(request("held").SerializeToString())
    fact(watching, "held", held + 1)
    early = struct.pack(">I", 3 * LIMIT) + request("echo").SerializeToString().ljust(3 * LIMIT, b"\0")
    connection.send_bytes(early)
    assert fact(watching, "cancelled", 0) == cancelled  # one frame is kept for later
    with suppress(BrokenPipeError, ConnectionResetError):  # it may be closed in the middle
        connection.send_bytes(early[: len(early) - cut])
    assert connection.receive() is None
    fact(watching, "cancelled", cancelled + 1)
    assert serves(worker)


@pytest.mark.parametrize("prefix", ["", "async "])
def test_close_cancels_the_handler(worker: ScriptedWorker, prefix: str) -> None:
    watching, connection = worker.connect(), worker.connect()
    before = fact(watching, f"{prefix}cancelled", 0), fact(watching, f"{prefix}held", 0)
    connection.send(request(f"{prefix.strip()}-held".removeprefix("-")).SerializeToString())
    fact(watching, f"{prefix}held", before[1] + 1)
    connection.close()
    assert fact(watching, f"{prefix}cancelled", before[0] + 1) == before[0] + 1
    assert fact(watching, "in vain", 0) == 0


def test_socket_is_for_this_user_alone(worker: ScriptedWorker) -> None:
    assert Path(worker.path).stat().st_mode & 0o777 == 0o600
    assert Path(worker.path).parent.stat().st_mode & 0o077 == 0
