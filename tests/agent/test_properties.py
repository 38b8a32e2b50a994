"""What holds for any request and any split: bytes reach the worker as they are, replies come whole."""

from __future__ import annotations

import asyncio
import itertools
import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest, ModelStreamInferResponse
from anyserve.errors import Code
from support.client import Client
from support.instances import Instance
from support.wire import frame, key, length_delimited, reply, request, varint
from support.worker import Connection, ScriptedWorker

one_instance = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
"""All examples of a test run against its one instance."""

uint64 = st.integers(0, (1 << 64) - 1)
text = st.text(max_size=20)
contents = st.binary(max_size=300)

infer_parameters = st.one_of(
    st.booleans().map(lambda value: key(1, 0) + varint(value)),
    uint64.map(lambda value: key(2, 0) + varint(value)),
    text.map(lambda value: length_delimited(3, value)),
    st.floats(allow_nan=False).map(lambda value: key(4, 1) + struct.pack("<d", value)),
    uint64.map(lambda value: key(5, 0) + varint(value)),
    st.just(b""),
)
parameter_names = text.filter(lambda name: not name.startswith("anyserve_"))
parameters = st.builds(
    lambda name, value: length_delimited(4, length_delimited(1, name) + length_delimited(2, value)),
    parameter_names,
    infer_parameters,
)
inputs = st.builds(
    lambda name, shape, data: length_delimited(
        5,
        length_delimited(1, name)
        + length_delimited(2, "UINT8")
        + length_delimited(3, b"".join(map(varint, shape)))
        + length_delimited(5, length_delimited(8, data)),
    ),
    text,
    st.lists(uint64, max_size=3),
    contents,
)
tomorrow = st.integers(8, (1 << 29) - 1)
unknown = st.one_of(
    st.builds(lambda number, value: key(number, 0) + varint(value), tomorrow, uint64),
    st.builds(lambda number, value: key(number, 1) + value, tomorrow, st.binary(min_size=8, max_size=8)),
    st.builds(lambda number, value: key(number, 5) + value, tomorrow, st.binary(min_size=4, max_size=4)),
    st.builds(length_delimited, tomorrow, contents),
)
fields = st.one_of(
    text.map(lambda value: length_delimited(3, value)),
    parameters,
    inputs,
    text.map(lambda value: length_delimited(6, length_delimited(1, value))),
    contents.map(lambda value: length_delimited(7, value)),
    unknown,
)


def requests(name: str) -> st.SearchStrategy[bytes]:
    """Any request for a model, its fields in any order, many of them repeated; the last name counts."""
    return st.builds(
        lambda before, early, after: b"".join((*before, *early, length_delimited(1, name), *after)),
        st.lists(fields, max_size=6),
        st.lists(text.map(lambda value: length_delimited(1, value)), max_size=1),
        st.lists(fields, max_size=6),
    )


@pytest.fixture
async def plain(instance: Instance) -> ScriptedWorker:
    """A worker that registered fields 1 to 4 alone."""
    return await instance.worker("m", answer=lambda _: b"")


@pytest.fixture
async def annotated(instance: Instance) -> ScriptedWorker:
    """A worker that registered a capability map."""
    return await instance.worker("m", capability={"type": "m"}, answer=lambda _: b"")


@one_instance
@given(payload=requests("m"))
async def test_any_request_reaches_a_worker_without_a_map_as_it_is(
    client: Client, plain: ScriptedWorker, payload: bytes
) -> None:
    got = await client.infer(payload)
    assert plain.requests.pop() == payload
    assert got.id == ModelInferRequest.FromString(payload).id


@one_instance
@given(payload=requests("m"))
async def test_any_request_is_the_beginning_of_what_a_worker_with_a_map_gets(
    client: Client, annotated: ScriptedWorker, payload: bytes
) -> None:
    await client.infer(payload)
    got = annotated.requests.pop()
    assert got.startswith(payload)
    merged = ModelInferRequest.FromString(got)
    assert merged.parameters["anyserve_capability"].string_param == "type=m"
    del merged.parameters["anyserve_capability"]
    assert merged == ModelInferRequest.FromString(payload)


@one_instance
@given(payload=st.binary(max_size=60))
async def test_any_bytes_are_a_request_or_invalid(client: Client, plain: ScriptedWorker, payload: bytes) -> None:
    error = await client.refused(payload)
    readable = True
    try:
        ModelInferRequest.FromString(payload)
    except DecodeError:
        readable = False
    assert error.code is Code.INVALID_ARGUMENT or (readable and error.code is Code.NOT_FOUND)
    assert plain.connections == []


replies = st.builds(
    lambda raw, request_id, extra: reply(raw=raw, request_id=request_id).SerializeToString() + b"".join(extra),
    contents,
    text,
    st.lists(unknown, max_size=2),
)


@st.composite
def pieces(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """Bytes, and the same cut into pieces."""
    whole = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    bounds = [0, *cuts, len(whole)]
    return whole, [whole[start:stop] for start, stop in itertools.pairwise(bounds)]


async def send_pieces(connection: Connection, parts: list[bytes]) -> None:
    """Each piece by itself; the agent, on the same loop, reads in between."""
    for part in parts:
        await connection.send(part)
        await asyncio.sleep(0)


@pytest.fixture
async def by_hand(instance: Instance) -> ScriptedWorker:
    """A unary worker whose replies the test sends."""
    return await instance.worker("m")


@one_instance
@given(answer=pieces(replies.map(frame)))
async def test_a_reply_split_anywhere_comes_whole(
    client: Client, by_hand: ScriptedWorker, answer: tuple[bytes, list[bytes]]
) -> None:
    whole, parts = answer
    call = asyncio.ensure_future(client.infer_bytes(request("m")))
    exchange = await by_hand.exchange()
    await send_pieces(exchange.connection, parts)
    exchange.over.set()
    assert (await call).startswith(whole[4:])
    assert len(by_hand.connections) == 1


@pytest.fixture
async def streaming(instance: Instance) -> ScriptedWorker:
    """A streaming worker whose replies the test sends."""
    return await instance.worker("m", stream=True)


@one_instance
@given(
    answer=pieces(
        st.lists(replies.map(lambda payload: length_delimited(2, payload)), max_size=5).map(
            lambda payloads: b"".join(map(frame, payloads)) + frame()
        )
    )
)
async def test_streamed_replies_split_anywhere_come_whole(
    client: Client, streaming: ScriptedWorker, answer: tuple[bytes, list[bytes]]
) -> None:
    whole, parts = answer
    stream = client.stream()
    await stream.send(request("m"))
    exchange = await streaming.exchange()
    await send_pieces(exchange.connection, parts)
    exchange.over.set()
    assert [got.infer_response.raw_output_contents for got in await stream.rest()] == [
        ModelStreamInferResponse.FromString(payload).infer_response.raw_output_contents for payload in unframed(whole)
    ]
    assert len(streaming.connections) == 1


def unframed(data: bytes) -> list[bytes]:
    """The payloads of frames up to the empty one."""
    payloads = []
    while length := int.from_bytes(data[:4], "big"):
        payloads.append(data[4 : 4 + length])
        data = data[4 + length :]
    return payloads
