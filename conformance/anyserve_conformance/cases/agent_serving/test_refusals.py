"""Requests that an agent refuses by itself, and what it says."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from grpc import StatusCode

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.requirement import requirement

LOOK_AT = "the checks of a request before it is routed, and the status of each"


@requirement("serving.infer.not-found")
def test_unknown_model(agent: Agent) -> None:
    """A request that nothing matches is NOT_FOUND, and no worker hears of it."""
    worker = agent.worker(agent.name("other"))
    agent.infer(agent.name("unknown")).expect(StatusCode.NOT_FOUND)
    agent.infer(wire.request(worker.worker_id, "7")).expect(StatusCode.NOT_FOUND)
    agent.infer(wire.request(), query={"type": agent.name("unknown")}).expect(StatusCode.NOT_FOUND)
    assert not worker.connections, "the agent connected to a worker"


@requirement("serving.infer.suggestion")
def test_a_similar_name_is_suggested(agent: Agent) -> None:
    """The message of NOT_FOUND names a similar model, or the versions that there are."""
    name = agent.name("llama-70b-chat")
    agent.worker(name, "7")
    details = agent.infer(f"{name}t").expect(StatusCode.NOT_FOUND).details
    assert re.search(re.escape(name) + r"(?!t)", details), f"no suggestion in: {details}"
    details = agent.infer(wire.request(name, "8")).expect(StatusCode.NOT_FOUND).details
    assert "7" in details.replace(name, ""), f"the version 7 is not named in: {details}"


@requirement("serving.infer.no-target")
@pytest.mark.parametrize("version", ["", "1"])
def test_neither_name_nor_query(agent: Agent, version: str) -> None:
    """A request without a model name and without a query is INVALID_ARGUMENT."""
    agent.worker(capability={"type": agent.name()})
    agent.infer(wire.request("", version, raw=b"x")).expect(StatusCode.INVALID_ARGUMENT)


def entry(key: str, *values: bytes) -> bytes:
    """One entry of `parameters`, its value given once for each of some bytes."""
    return wire.field(4, wire.field(1, key) + b"".join(wire.field(2, value) for value in values))


FIVE = wire.key(2, 0) + b"\x05"
RESERVED = {
    "capability": entry("anyserve_capability", wire.field(3, "type=x")),
    "timeout": entry("anyserve_timeout_ms", FIVE),
    "error-code": entry("anyserve_error_code", FIVE),
    "of-tomorrow": entry("anyserve_of_tomorrow", FIVE),
    "prefix-alone": entry("anyserve_", FIVE),
    "empty-value": entry("anyserve_timeout_ms", b""),
    "no-value": entry("anyserve_timeout_ms"),
    "replaced-by-an-empty-value": entry("anyserve_timeout_ms", FIVE) + entry("anyserve_timeout_ms", b""),
    "value-before-key": wire.field(4, wire.field(2, FIVE) + wire.field(1, "anyserve_capability")),
    "key-twice": wire.field(4, wire.field(1, "harmless") + wire.field(1, "anyserve_capability")),
}


@requirement("serving.infer.reserved-parameter")
@pytest.mark.parametrize("parameters", RESERVED.values(), ids=RESERVED.keys())
def test_reserved_parameters(agent: Agent, parameters: bytes) -> None:
    """A parameter `anyserve_*` from a client is INVALID_ARGUMENT, whatever its value, and reaches no worker."""
    name = agent.name()
    worker = agent.worker(name, answer=lambda _: b"")
    agent.infer(wire.field(1, name) + parameters).expect(StatusCode.INVALID_ARGUMENT)
    assert not worker.requests, "the request reached the worker"


@requirement("serving.infer.reserved-parameter")
@pytest.mark.parametrize("key", ["Anyserve_x", "any", "xanyserve_", "anyserve", "anyserve-x"])
def test_other_parameters(agent: Agent, key: str) -> None:
    """Only the prefix `anyserve_` is reserved."""
    name = agent.name()
    agent.worker(name, answer=lambda _: b"")
    agent.infer(wire.field(1, name) + entry(key, FIVE)).expect_ok()


@requirement("serving.infer.malformed")
@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 11, b"\x0a\x05abc", b"\x08\x01"],
    ids=["text", "varint", "cut", "type"],
)
def test_no_request_at_all(agent: Agent, junk: bytes) -> None:
    """Bytes that are no ModelInferRequest are INVALID_ARGUMENT, and the agent goes on serving the client."""
    agent.infer(junk).expect(StatusCode.INVALID_ARGUMENT)
    assert agent.client.live()


@requirement("serving.model.malformed")
@pytest.mark.parametrize(
    "rpc",
    [
        *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig"),
        *("ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    ],
)
@pytest.mark.parametrize("junk", [b"\xff" * 11, b"\x0a\x05abc"], ids=["varint", "cut"])
def test_no_message_at_all(agent: Agent, rpc: str, junk: bytes) -> None:
    """Bytes that are not the message of an RPC are INVALID_ARGUMENT."""
    agent.client.call(rpc, junk).expect(StatusCode.INVALID_ARGUMENT)


LIMIT = 65_536
SMALL = {"max-message-bytes": LIMIT}


def of_size(name: str, size: int) -> bytes:
    """A request of that many bytes."""
    message = wire.request(name, raw=b"x" * (size - 200)).SerializeToString()
    filler = size - len(message)
    padded: bytes = message + wire.field(15, bytes(filler - 2 if filler < 130 else filler - 3))
    assert len(padded) == size
    return padded


@requirement("serving.infer.too-large", needs=SMALL, look_at="the limit of a received message")
def test_above_the_limit(agent: Agent) -> None:
    """A message above the limit is RESOURCE_EXHAUSTED, and the same connection goes on."""
    name = agent.name()
    worker = agent.worker(name, answer=lambda _: b"")
    agent.infer(of_size(name, LIMIT + 1)).expect(StatusCode.RESOURCE_EXHAUSTED)
    agent.infer(of_size(name, 20 * LIMIT)).expect(StatusCode.RESOURCE_EXHAUSTED)
    assert not worker.requests, "the request reached the worker"
    agent.infer(name).expect_ok()


@requirement("serving.infer.at-limit", needs=SMALL, look_at="the limit of a received message")
def test_at_the_limit(agent: Agent) -> None:
    """A message of exactly the limit is served, and its reply of that size too."""
    name = agent.name()
    reply = wire.reply(name, raw=b"y" * (LIMIT - 300)).SerializeToString()
    worker = agent.worker(name, answer=lambda _: reply)
    sent = of_size(name, LIMIT)
    assert agent.infer(sent).expect_ok().payload == reply
    assert worker.requests == [sent]


@requirement("serving.infer.overload", needs={"max-concurrent-rpcs": 3}, look_at="the count of calls under way")
def test_too_many_calls(agent: Agent) -> None:
    """A call beyond the limit is RESOURCE_EXHAUSTED, and one is taken again when another has ended."""
    name = agent.name()
    worker = agent.worker(name, max_concurrency=10)
    calls = [agent.start_infer(name) for _ in range(3)]
    exchanges = [worker.exchange() for _ in calls]
    agent.infer(name).expect(StatusCode.RESOURCE_EXHAUSTED)
    exchanges[0].answer()
    agent.patience.until(lambda: any(call.done for call in calls), "the end of one call")
    again = agent.start_infer(name)
    for exchange in (*exchanges[1:], worker.exchange()):
        exchange.answer()
    for call in (*calls, again):
        call.answer().expect_ok()


@requirement("serving.infer.deadline", look_at="the deadline of a call, and who watches it")
def test_deadline_in_the_worker(agent: Agent) -> None:
    """A call whose deadline passes while its worker is silent is DEADLINE_EXCEEDED."""
    name = agent.name()
    worker = agent.worker(name)
    answer = agent.infer(name, timeout=0.3)
    answer.expect(StatusCode.DEADLINE_EXCEEDED)
    worker.exchange().cancelled()


@requirement("serving.infer.deadline", look_at="the deadline of a call, and who watches it")
def test_deadline_within_a_reply(agent: Agent) -> None:
    """The reply must be complete before the deadline: a part of it is not enough."""
    name = agent.name()
    worker = agent.worker(name)
    call = agent.start_infer(name, timeout=0.3)
    exchange = worker.exchange()
    exchange.connection.send(wire.frame(wire.reply(raw=bytes(100)))[:-1])
    call.answer().expect(StatusCode.DEADLINE_EXCEEDED)


@requirement("serving.infer.unreachable", look_at="what is told when every match was tried")
def test_unreachable(agent: Agent) -> None:
    """When there were matches and none took the request, the call is UNAVAILABLE."""
    name = agent.name()
    for worker in [agent.worker(name, worker_id=f"w{n}") for n in range(3)]:
        worker.refuse()
    agent.infer(name).expect(StatusCode.UNAVAILABLE)


@requirement("serving.infer.worker-died", look_at="what an end of the connection means after the request was written")
def test_worker_died(agent: Agent) -> None:
    """When the worker closes after it has read the request, the call is UNAVAILABLE and nobody else gets it."""
    name = agent.name()
    worker = agent.worker(name, worker_id="dies", priority=1)
    other = agent.worker(name, worker_id="other", answer=lambda _: b"")
    call = agent.start_infer(name)
    worker.exchange().close()
    call.answer().expect(StatusCode.UNAVAILABLE)
    assert not other.requests, "the request was sent again"


@requirement("serving.infer.streaming-capability")
def test_unary_call_of_a_streaming_model(agent: Agent) -> None:
    """ModelInfer of what only streams is UNIMPLEMENTED, and the message names ModelStreamInfer."""
    name = agent.name()
    worker = agent.worker(capability={"model": name}, stream=True)
    for answer in (agent.infer(name), agent.infer(wire.request(), query={"model": name})):
        answer.expect(StatusCode.UNIMPLEMENTED)
        assert "ModelStreamInfer" in answer.details, f"the message does not name the call to use: {answer.details}"
    assert not worker.connections, "the agent connected to the worker"


# Messages


def refusals(agent: Agent) -> dict[str, tuple[object, dict[str, str]]]:
    """Requests that are refused for different reasons."""
    streaming = agent.name("streaming")
    agent.worker(streaming, stream=True)
    gone = agent.name("gone")
    agent.worker(gone, worker_id="gone").refuse()
    silent = agent.name("silent")
    agent.worker(silent, worker_id="silent", answer=lambda _: wire.reply(anyserve_error_code=7))
    return {
        "unknown": (agent.name("unknown"), {}),
        "no-target": (wire.request(), {}),
        "malformed": (b"\xff", {}),
        "reserved": (wire.request("x", anyserve_x=1), {}),
        "bad-query": (wire.request(), {"size": ">=x"}),
        "streaming": (streaming, {}),
        "unreachable": (gone, {}),
        "failed-without-a-message": (silent, {}),
    }


@requirement("serving.status.message", look_at="the messages of error statuses")
def test_every_status_has_a_message(agent: Agent) -> None:
    """Each error status has a message, also where the worker gave none."""
    for what, (request, query) in refusals(agent).items():
        answer = agent.infer(request, query=query)  # type: ignore[arg-type]
        assert answer.code is not StatusCode.OK, f"{what} succeeded"
        assert answer.details.strip(), f"{what}: {answer.code.name} without a message"


@requirement("serving.status.private", look_at="the messages of error statuses")
def test_messages_keep_places_to_themselves(agent: Agent) -> None:
    """No message of the agent's own has a traceback, a path of a socket or an address."""
    for what, (request, query) in refusals(agent).items():
        details = agent.infer(request, query=query).details  # type: ignore[arg-type]
        for secret in ("Traceback", ".sock", "unix:", str(agent.workers[0].path.parent), "127.0.0.1", 'File "'):
            assert secret not in details, f"{what}: the message tells {secret}: {details}"


@requirement("serving.status.names", look_at="the messages of error statuses")
@pytest.mark.parametrize(
    ("name", "query", "named"),
    [("no-such-model", {}, "no-such-model"), ("x", {"size": ">=seven"}, "size"), ("x", {"kind": "a|"}, "kind")],
    ids=["model", "comparison", "alternative"],
)
def test_messages_name_what_was_wrong(agent: Agent, name: str, query: dict[str, str], named: str) -> None:
    """A message names the model, key or field that was wrong."""
    details = agent.infer(name, query=query).details
    assert named in details, f"{named} is not in: {details}"


MESSAGE_LIMIT = 4_096


@requirement("serving.status.message-length", look_at="the cutting of status messages, by their encoded length")
@pytest.mark.parametrize("character", ["x", "%", "ü", "🙂", "\n"], ids=["ascii", "percent", "two", "four", "control"])
@pytest.mark.parametrize("above", [False, True], ids=["at", "above"])
def test_long_messages(agent: Agent, character: str, above: bool) -> None:
    """A message above 4,096 encoded bytes is cut at the end of a character, with `...`; one of that length is whole."""
    name = agent.name()
    worker = agent.worker(name)
    width = encoded_length(character)
    message = character * ((MESSAGE_LIMIT + above * width) // width)
    call = agent.start_infer(name)
    worker.exchange().answer(wire.reply(anyserve_error_code=9, anyserve_error_message=message))
    details = call.answer().expect(StatusCode.FAILED_PRECONDITION).details
    if not above:
        assert details == message, "a message within the limit was changed"
        return
    assert details.endswith("..."), "a message above the limit was not cut with ..."
    assert message.startswith(details[:-3]), "the message was changed, not only cut"
    length = encoded_length(details)
    assert length <= MESSAGE_LIMIT, f"the message has {length} encoded bytes"
    assert length > MESSAGE_LIMIT - width, "more was cut than had to be"


def encoded_length(text: str) -> int:
    """Bytes of `grpc-message` for a text: printable ASCII but `%` as it is, every other byte as three."""
    return len(quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"))
