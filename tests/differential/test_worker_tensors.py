"""Arrays of the native worker loop, which makes no messages, beside what `tensors` makes of messages.

What the short way takes is what the long way gives, to the byte; what it does not take goes the long way, which
reads it or tells what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anyserve import tensors
from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from anyserve.errors import InferenceError
from anyserve.handlers import as_stream_response
from anyserve.tensors import DATATYPES, RAW_DATATYPES
from anyserve.worker.answers import request_of
from anyserve_conformance.wire import field, varint
from support.examples import examples
from support.processes import short_directory
from support.worker_io import WorkerLoop

COPIED = 16 << 10
"""Bytes of an array up to which its reply has a copy."""

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def loop() -> Iterator[WorkerLoop]:
    pytest.importorskip("anyserve._native", reason="it was built without a compiler")
    with short_directory() as directory:
        loop = WorkerLoop(f"{directory}/w")
        yield loop
        loop.close()


# Requests

names = st.text("abé", max_size=3)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


@st.composite
def raw_tensors(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An input with any datatype, whose shape and contents fit, mostly; the tensor and its raw contents."""
    datatype = draw(st.sampled_from([*DATATYPES, "", "FP8"]))
    shape = draw(st.one_of(shapes, st.lists(st.integers(-1, 3), max_size=34), st.just((1 << 40, 1 << 40, 0))))
    size = int(np.prod(shape, dtype=np.float64)) if len(shape) < 9 else 1
    contents = draw(st.binary(max_size=4)) if draw(st.booleans()) else None
    if contents is None and 0 <= size < 100:
        fill = draw(st.sampled_from([b"\0", b"\1", b"\2", b"\xff"]))
        contents = fill * (size * (RAW_DATATYPES[datatype].itemsize if datatype in RAW_DATATYPES else 2))
    tensor = ModelInferRequest.InferInputTensor(name=draw(names), datatype=datatype, shape=shape)
    return tensor.SerializeToString(), contents or b""


@st.composite
def spelled(draw: st.DrawFn, number: int, payload: bytes) -> bytes:
    """A length-delimited field, perhaps with a length that has more bytes than it needs."""
    if draw(st.integers(0, 20)):
        return field(number, payload)
    length = bytearray(varint(len(payload)))
    more = draw(st.integers(1, 10))
    length[-1] |= 0x80
    return (
        varint(number << 3 | 2)
        + bytes(length)
        + b"\x80" * (more - 1)
        + draw(st.sampled_from([b"\0", b"\x10"]))
        + payload
    )


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request of fields in any order, most of which are good."""
    parts = [field(1, b"m")]
    for tensor, contents in draw(st.lists(raw_tensors(), max_size=3)):
        broken = draw(st.integers(0, 20))
        extra = (
            b""
            if broken
            else draw(
                st.sampled_from([b"\x0a\x01\xff", b"\x12\x03\xff\xfeA\x12\x04FP32", b"\x1a\x01\x80", b"\x18\x02"])
            )
        )
        parts.append(draw(spelled(5, extra + tensor)))
        if draw(st.integers(0, 10)):
            parts.append(draw(spelled(7, contents)))
    parts += draw(
        st.lists(
            st.sampled_from(
                [
                    field(3, b"id"),
                    field(4, field(1, b"p") + field(2, b"\x10\x07")),
                    field(4, field(1, b"p") + field(2, b"\x1a\x81\x80\x80\x80\x80\x80\x00x")),
                    field(4, field(1, b"p") + field(2, b"") + b"\x88\x80\x80\x80\x80\x80\x00\x01"),
                    field(6, field(1, b"out")),
                    field(6, field(1, b"\xff")),
                    field(6, field(2, b"")),
                    field(9, b"unknown"),
                    b"\x48\x01",
                    b"\x4b\x4c",
                ]
            ),
            max_size=2,
        )
    )
    return b"".join(draw(st.permutations(parts)) if draw(st.booleans()) else parts)


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Cut off, with a byte changed, or good."""
    data = draw(good)
    place = draw(st.integers(0, 2 * len(data)))
    if place >= len(data):
        return data
    byte = draw(st.one_of(st.none(), st.binary(min_size=1, max_size=1)))
    return data[:place] if byte is None else data[:place] + byte + data[place + 1 :]


def by_message(data: bytes) -> tuple[Arrays, dict[str, str]] | None:
    """What the handler gets by the message; None where it gets none."""
    try:
        request = request_of(data)
        return tensors.decode(request), {tensor.name: tensor.datatype for tensor in request.inputs}
    except InferenceError:
        return None


def comparable(taken: tuple[Arrays, Mapping[str, str]]) -> Any:
    arrays, datatypes = taken
    listed = [
        (name, array.dtype, array.shape, array.tobytes(), array.flags.writeable) for name, array in arrays.items()
    ]
    return listed, list(datatypes.items())


@examples(1000)
@given(data=damaged(requests()))
def test_a_request_is_read_as_its_message_is(loop: WorkerLoop, data: bytes) -> None:
    exchange = loop.request(data)
    if exchange is None:
        return  # no request at all, and no form of reply is known
    taken = exchange.tensors()
    expected = by_message(data)
    exchange.reply(b"", now=True)
    exchange.ended()
    assert loop.reply() == b""
    if taken is not None:
        assert expected is not None, "the message is refused"
        assert comparable(taken) == comparable(expected)


native = st.sampled_from(sorted(set(RAW_DATATYPES.values()), key=str))
plain = native.flatmap(lambda dtype: hnp.arrays(dtype, shapes))


@examples(100)
@given(arrays=st.dictionaries(names, plain, max_size=4))
def test_plain_arrays_need_no_message(loop: WorkerLoop, arrays: Arrays) -> None:
    request = ModelInferRequest(model_name="m")
    tensors.encode(request, arrays)
    data = request.SerializeToString()
    exchange = loop.request(data)
    taken = exchange.tensors()
    assert exchange.reply_tensors(arrays, None, now=True)
    exchange.ended()
    expected = by_message(data)
    assert expected is not None
    assert comparable(taken) == comparable(expected)
    reply = ModelInferResponse.FromString(loop.reply())
    assert [tensor.name for tensor in reply.outputs] == list(arrays)
    for name, array in tensors.decode(reply).items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)


def test_arrays_outlive_the_exchange_and_its_connection(loop: WorkerLoop) -> None:
    request = ModelInferRequest(model_name="m")
    tensors.encode(request, {"x": np.arange(1000, dtype=np.int32), "y": np.full(7, 3, np.int8)})
    kept = []
    for _ in range(10):
        exchange = loop.request(request.SerializeToString())
        kept.append(exchange.tensors()[0])
        exchange.reply(b"", now=True)
        exchange.ended()
        del exchange
        loop.reply()
    for arrays in kept:
        np.testing.assert_array_equal(arrays["x"], np.arange(1000))
        np.testing.assert_array_equal(arrays["y"], np.full(7, 3))
        with pytest.raises(ValueError, match="read-only"):
            arrays["x"][0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            arrays["x"].flags.writeable = True


# Replies

dtypes = st.sampled_from(
    [
        *sorted({np.dtype(d) for d in DATATYPES.values()}, key=str),
        *map(np.dtype, (">f4", ">i2", ">u8", "c8", "M8[s]", "S3", "U2")),
    ]
)


@st.composite
def arrays_of_any_kind(draw: st.DrawFn) -> Any:
    """An array of any dtype, order and strides, small or large, or what numpy makes one of."""
    if draw(st.integers(0, 10)) == 0:
        texts = st.one_of(st.text(max_size=3), st.binary(max_size=3), st.just("\ud800"), st.just("a\0"))
        return draw(
            st.one_of(st.lists(st.integers(-3, 3), max_size=3), st.lists(st.one_of(texts, st.just([1])), max_size=3))
        )
    dtype = draw(dtypes)
    if dtype.kind == "O":
        array = np.array(draw(st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=3)), max_size=3)), object)
    else:
        array = draw(hnp.arrays(dtype, shapes))
    if draw(st.booleans()) and array.size:
        array = np.resize(array, (2, 3, (COPIED // array.itemsize) // draw(st.sampled_from([1, 6]))))
    form = draw(
        st.sampled_from(
            ["as it is", "fortran", "backwards", "transposed", "part", "broadcast", "read-only", "subclass", "of bytes"]
        )
    )
    if form == "fortran":
        array = np.asfortranarray(array)
    elif form == "backwards" and array.ndim:
        array = array[::-1]
    elif form == "transposed":
        array = array.T
    elif form == "part" and array.ndim:
        array = array[..., 1:]
    elif form == "broadcast":
        array = np.broadcast_to(array, (2, *array.shape))
    elif form == "read-only":
        array.flags.writeable = False
    elif form == "subclass":
        array = array.view(np.recarray)
    elif form == "of bytes" and dtype.kind not in "O":
        array = np.frombuffer(array.tobytes() or b"\0" * dtype.itemsize, dtype)
    return array


def encoded(arrays: Mapping[str, Any], datatypes: Mapping[str, str] | None) -> ModelInferResponse | None:
    response = ModelInferResponse()
    try:
        tensors.encode(response, arrays, datatypes=datatypes)
    except (TypeError, ValueError):
        return None
    return response


@examples(500)
@given(
    arrays=st.dictionaries(st.one_of(names, st.just("\ud800")), arrays_of_any_kind(), max_size=3),
    wanted=st.one_of(st.none(), st.sampled_from([*DATATYPES])),
)
def test_a_reply_is_what_its_message_is(loop: WorkerLoop, arrays: dict[str, Any], wanted: str | None) -> None:
    datatypes = None if wanted is None else dict.fromkeys(arrays, wanted)
    exchange = loop.request(field(1, b"m"))
    sent = exchange.reply_tensors(arrays, datatypes, now=True)
    if not sent:
        exchange.reply(b"", now=True)
    exchange.ended()
    payload = loop.reply()
    if sent:
        assert ModelInferResponse.FromString(payload) == encoded(arrays, datatypes)
    else:
        assert payload == b"", "nothing of it was sent"


@examples(500)
@given(arrays=st.dictionaries(names, arrays_of_any_kind(), max_size=3))
def test_a_streamed_reply_is_what_its_message_is(loop: WorkerLoop, arrays: dict[str, Any]) -> None:
    payload = loop.io.stream_reply(arrays)
    if payload is not None:
        assert payload
        assert ModelStreamInferResponse.FromString(payload) == as_stream_response(arrays)


@pytest.mark.parametrize("size", [COPIED, COPIED + 1, 1 << 22])
def test_arrays_that_nobody_has_are_sent_whole(loop: WorkerLoop, size: int) -> None:
    exchange = loop.request(field(1, b"m"))
    assert exchange.reply_tensors({str(n): np.full(size, n, np.uint8) for n in range(3)}, None, now=True)
    exchange.ended()
    reply = ModelInferResponse.FromString(loop.reply())
    assert list(reply.raw_output_contents) == [bytes([n]) * size for n in range(3)]


def test_arrays_that_somebody_has_are_copied(loop: WorkerLoop) -> None:
    """A buffer that is used again while its reply waits for a slow agent."""
    size = 1 << 22
    buffer = np.empty(size, np.uint8)
    view = buffer[:]
    for arrays in ({"y": buffer}, {"y": view}, {"y": buffer.reshape(2, -1)}, {"y": memoryview(buffer).obj}):
        exchange = loop.request(field(1, b"m"))
        buffer[:] = 1
        assert exchange.reply_tensors(arrays, None, now=True)
        buffer[:] = 2
        exchange.ended()
        (raw,) = ModelInferResponse.FromString(loop.reply()).raw_output_contents
        assert raw == b"\1" * size
