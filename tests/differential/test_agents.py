"""Whole agents side by side: in any session both give the same statuses, bytes and events.

What a session is made of stands here; how it is played, in `support.sessions`. Left out is what depends on time:
deadlines, heartbeats that stop, backpressure.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st

from anyserve_conformance.cases.agent_serving import messages
from support.examples import examples
from support.instances import IMPLEMENTATIONS
from support.sessions import Step, play
from support.wire import frame, key, length_delimited, reply, stream_reply

SETTINGS = {
    "queue_size": 2,
    "default_max_concurrency": 1,
    "max_workers": 2,
    "max_registrations": 5,
    "max_message_bytes": 4096,
}
TOO_LONG = 5000
STEPS = 24
TEXTS = ("", "no", "café %")
"""By which workers say why they fail."""


def often(*weighted: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of these, each as often as the number before it says; `one_of` takes all alike."""
    bag = [strategy for weight, strategy in weighted for _ in range(weight)]
    return st.integers(0, len(bag) - 1).flatmap(bag.__getitem__)


names = often((6, st.just("m")), (1, st.sampled_from(["n", ""])))
versions = often((2, st.just("")), (1, st.sampled_from(["1", "2"])))
workers = st.sampled_from(["w1", "w2", "w3"])
which = st.integers(0, 3)
capabilities = st.sampled_from([{}, {"type": "x"}, {"type": "x", "model": "m"}, {"type": "y", "size": "7"}])

good_metadata = st.sampled_from(
    [(("x-cap-type", "x"),), (("x-cap-type", "?"), ("x-cap-size", ">=5")), (("x-cap-type", "m|x"),), (("other", "1"),)]
)
bad_metadata = st.sampled_from(
    [
        (("x-cap-type", "x|"),),
        (("x-cap-type", "%"),),
        (("x-cap-type", "x"), ("x-cap-type", "x")),
        (("x-cap-_", "x"),),
        (("x-cap-n", ">a"),),
    ]
)
metadata = often((8, st.just(())), (3, good_metadata), (1, bad_metadata))


def parameter(name: str, value: bytes) -> bytes:
    """A `parameters` entry of a request or a response."""
    return length_delimited(4, length_delimited(1, name) + length_delimited(2, value))


asks_for_the_end = parameter("triton_enable_empty_final_response", key(1, 0) + b"\1")
requests = st.builds(
    lambda name, version, request_id, rest: length_delimited(1, name) + version + request_id + b"".join(rest),
    names,
    versions.map(lambda version: length_delimited(2, version) if version else b""),
    st.sampled_from([b"", length_delimited(3, "7")]),
    st.lists(often((2, st.just(asks_for_the_end)), (1, messages.tensors), (1, messages.parameters)), max_size=2),
)
bad_requests = st.one_of(
    st.binary(max_size=20),
    st.just(length_delimited(1, "m") + parameter("anyserve_capability", b"")),
    st.just(length_delimited(1, b"\xff")),
    st.builds(lambda head, rest: length_delimited(1, "m") + head + rest, messages.requests, st.binary(max_size=3)),
)
too_long = length_delimited(1, "m") + length_delimited(7, bytes(TOO_LONG))
any_requests = often((6, requests), (1, bad_requests))


def failure(code: int, message: str) -> bytes:
    """A reply that is an error, or a lie about one."""
    return raw(reply(anyserve_error_code=code, anyserve_error_message=message))


def raw(message: Any) -> bytes:
    """A message as bytes."""
    data: bytes = message.SerializeToString()
    return data


failures = st.builds(failure, st.sampled_from([1, 3, 5, 8, 14, 16, 0, 17, -1]), st.sampled_from(TEXTS))
good_replies = st.sampled_from(
    [
        b"",
        raw(reply("m", raw=b"x")),
        raw(reply("", version="3", request_id="8")),
        raw(reply(anyserve_error_message="alone")),
    ]
)
replies = often((3, good_replies), (1, failures), (1, messages.replies), (1, st.binary(max_size=20)))
stream_replies = st.one_of(
    replies.map(lambda data: length_delimited(2, data)),
    st.builds(
        lambda error, id_: stream_reply(error=error, request_id=id_), st.text(max_size=3), st.sampled_from(["", "9"])
    ),
    st.just(stream_reply(raw=b"x", triton_final_response=True)),
)
some_stream_replies = st.lists(stream_replies, max_size=3)
cut_frames = st.builds(lambda data, cut: frame(data)[:cut], replies, st.integers(1, 6))
lies = st.one_of(
    st.tuples(replies.map(frame), st.binary(min_size=1, max_size=3)).map(b"".join),
    st.just(TOO_LONG.to_bytes(4, "big")),
    st.just(frame(bytes(TOO_LONG))),
    st.binary(max_size=8),
    replies.map(lambda data: frame(data) * 2),
    cut_frames,
)


def step(what: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    """A step with any of these arguments."""
    return st.fixed_dictionaries(arguments).map(lambda drawn: Step(what, drawn))


register = step(
    "register",
    worker=workers,
    model_name=names,
    model_version=versions,
    capability=capabilities,
    max_concurrency=st.sampled_from([0, 0, 1, 2]),
    priority=st.integers(0, 1),
)
bad_registrations = st.one_of(
    step("register", worker=workers, model_name=st.sampled_from(["", "a\n", "n" * 257])),
    step("register", worker=st.just(""), model_name=names),
    step("register", worker=workers, model_name=names, worker_address=st.sampled_from(["", "/s", "unix://s"])),
    step("register", worker=workers, capability=st.sampled_from([{"A": "x"}, {"a": ""}, {"a-bin": "x"}])),
    step("register", worker=workers, model_name=names, max_concurrency=st.just(1025)),
)
KINDS: Sequence[tuple[int, st.SearchStrategy[Step]]] = (
    (3, register),
    (1, bad_registrations),
    (12, step("infer", payload=any_requests, metadata=metadata)),
    (1, step("infer", payload=st.just(too_long), metadata=st.just(()))),
    (10, step("send", stream=which, payload=any_requests)),
    (1, step("send", stream=which, payload=st.just(too_long), too_long=st.just(True))),
    (9, step("answer", exchange=which, reply=replies, replies=some_stream_replies, last=st.booleans())),
    (2, step("lie", exchange=which, data=lies)),
    (1, step("open_stream", metadata=good_metadata)),
    (1, step("open_stream", metadata=bad_metadata, refused=st.just(True))),
    (1, step("unregister", worker=workers, model_name=names, model_version=versions)),
    (2, step("unregister_worker", worker=workers)),
    (1, step("heartbeat", worker=workers)),
    (1, step("look", name=names, version=versions)),
    (1, step("half_close", stream=which)),
    (2, step("cancel", call=which)),
    (1, step("cancel_stream", stream=which)),
    (2, step("hang_up", exchange=which, data=st.one_of(st.just(b""), replies.map(frame), cut_frames))),
    (1, step("end_answers", exchange=which)),
    (2, step("stop_listening", worker=workers)),
    (1, step("listen", worker=workers)),
)
unary = step("register", worker=st.just("w1"), model_name=st.just("m"), capability=capabilities)
streaming = step("register", worker=st.just("w2"), model_name=st.just("m"), capability=capabilities)
begin = st.tuples(unary, streaming, step("open_stream", metadata=st.just(()))).map(list)


def drawn_kinds(seed: int) -> list[st.SearchStrategy[Step]]:
    """Kinds of steps by their weights. Left to hypothesis most of a session would be of one or two kinds."""
    weights, kinds = zip(*KINDS, strict=True)
    return random.Random(seed).choices(kinds, weights, k=STEPS)


rest = st.integers(0, (1 << 64) - 1).flatmap(lambda seed: st.tuples(*drawn_kinds(seed)))
sessions = st.builds(lambda first, then: [*first, *then], begin, rest)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """What bad clients and workers do is logged, and would bury what a failing test says."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


# A failing session is not made shorter: it would take minutes, and each step of it can be read.
@examples(80, phases=(Phase.explicit, Phase.generate))
@given(sessions)
async def test_any_session(steps: list[Step]) -> None:
    if "native" not in IMPLEMENTATIONS:
        pytest.skip("anyserve._native is not installed: it was built without a compiler")
    reference, native = [
        await play(IMPLEMENTATIONS[name](**SETTINGS), steps, TEXTS) for name in ("reference", "native")
    ]
    for part, wanted in reference.items():
        assert native[part] == wanted, f"{part}: {native[part]}\nthe reference: {wanted}"
