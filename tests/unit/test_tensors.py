"""Tensors: hand-written bytes in both directions, round trips, and every malformed message by its text."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anyserve import tensors
from anyserve.errors import Code, InferenceError
from anyserve.messages import ModelInferRequest, ModelInferResponse
from anyserve.tensors import DATATYPES, TensorSpec

# datatype, dtype, elements, raw form, field of the typed form
VECTORS = [
    ("BOOL", "bool", [True, False], "01 00", "bool_contents"),
    ("INT8", "int8", [-1, 127], "ff 7f", "int_contents"),
    ("INT16", "int16", [-2, 258], "feff 0201", "int_contents"),
    ("INT32", "int32", [-3, 1], "fdffffff 01000000", "int_contents"),
    ("INT64", "int64", [-2, 2**32 + 1], "feffffffffffffff 0100000001000000", "int64_contents"),
    ("UINT8", "uint8", [0, 255], "00 ff", "uint_contents"),
    ("UINT16", "uint16", [258, 65535], "0201 ffff", "uint_contents"),
    ("UINT32", "uint32", [1, 2**32 - 2], "01000000 feffffff", "uint_contents"),
    ("UINT64", "uint64", [1, 2**64 - 2], "0100000000000000 feffffffffffffff", "uint64_contents"),
    ("FP16", "float16", [1.0, -2.0], "003c 00c0", None),
    ("BF16", "float32", [1.0, -2.5], "803f 20c0", None),
    ("FP32", "float32", [1.5, -0.0], "0000c03f 00000080", "fp32_contents"),
    ("FP64", "float64", [1.0, -2.0], "000000000000f03f 00000000000000c0", "fp64_contents"),
    ("BYTES", "object", [b"ab\0", b""], "03000000 616200 00000000", "bytes_contents"),
]
KNOWN = ", ".join(vector[0] for vector in VECTORS)
NUMBERS = [vector[0] for vector in VECTORS if vector[0] not in ("BF16", "BYTES")]


def request(
    datatype: str, shape: list[int], raw: bytes | None = None, *, name: str = "x", **contents: Any
) -> ModelInferRequest:
    message = ModelInferRequest(raw_input_contents=[] if raw is None else [raw])
    message.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents or None)
    return message


def rejected(message: ModelInferRequest | ModelInferResponse) -> str:
    with pytest.raises(InferenceError) as caught:
        tensors.decode(message)
    side = Code.INVALID_ARGUMENT if isinstance(message, ModelInferRequest) else Code.INTERNAL
    assert caught.value.code is side
    return caught.value.message


def encoded(value: Any, datatype: str | None = None, **options: Any) -> ModelInferRequest:
    message = ModelInferRequest()
    tensors.encode(message, {"x": value}, datatypes={"x": datatype} if datatype else None, **options)
    return message


def raw_of(value: Any, datatype: str | None = None) -> bytes:
    (raw,) = encoded(value, datatype).raw_input_contents
    return raw


# Hand-written bytes


@pytest.mark.parametrize(("datatype", "dtype", "values", "raw", "field"), VECTORS)
def test_vectors(datatype: str, dtype: str, values: list[Any], raw: str, field: str | None) -> None:
    array = np.array(values, dtype)
    messages = {True: request(datatype, [2], bytes.fromhex(raw))}
    if field:
        messages[False] = request(datatype, [2], **{field: values})
    for as_raw, message in messages.items():
        decoded = tensors.decode(message)["x"]
        assert (decoded.dtype, decoded.tolist()) == (array.dtype, values)
        assert DATATYPES[datatype] == array.dtype
        assert encoded(array, datatype, raw=as_raw) == message
    own = "FP32" if datatype == "BF16" else datatype
    assert encoded(array).inputs[0].datatype == own
    assert tensors.datatype_of(array.astype(array.dtype.newbyteorder(">"))) == own


def test_byte_order_and_strides() -> None:
    assert raw_of(np.array([258, -2], ">i2")) == bytes.fromhex("0201 feff")
    assert raw_of(np.array([1.0, -2.5], ">f4"), "BF16") == bytes.fromhex("803f 20c0")
    grid = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert raw_of(grid.T) == bytes([0, 3, 1, 4, 2, 5])
    assert raw_of(grid[:, ::-2]) == bytes([2, 0, 5, 3])
    assert list(encoded(grid.T, raw=False).inputs[0].contents.uint_contents) == [0, 3, 1, 4, 2, 5]
    assert raw_of(np.array([[b"a", b"b"], [b"c", b"d"]], object).T)[4::5] == b"acbd"


@pytest.mark.parametrize("raw", [True, False])
def test_scalars_and_empty_shapes(raw: bool) -> None:
    message = ModelInferResponse()
    arrays = {"scalar": np.float32(2.5), "text": "hi", "empty": np.empty((0, 3), np.int16), "none": []}
    tensors.encode(message, arrays, datatypes={"none": "BYTES"}, raw=raw)
    decoded = tensors.decode(message)
    assert {name: array.shape for name, array in decoded.items()} == {
        name: np.shape(array) for name, array in arrays.items()
    }
    assert (decoded["scalar"].item(), decoded["text"].item()) == (2.5, b"hi")
    assert (decoded["empty"].dtype, decoded["none"].dtype) == (np.int16, object)


@pytest.mark.parametrize("raw", [True, False])
def test_decoded_arrays_are_read_only(raw: bool) -> None:
    message = ModelInferRequest()
    tensors.encode(message, {"n": np.ones(2), "s": [b"a"]}, raw=raw)
    for array in tensors.decode(message).values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[0]


def test_raw_numbers_are_views() -> None:
    array: Any = tensors.decode(request("FP32", [1, 1], bytes(4)))["x"]
    while isinstance(array, np.ndarray):
        assert not array.flags.owndata
        array = array.base
    assert array == bytes(4)


def test_encode_replaces_and_keeps_the_rest() -> None:
    message = request("FP32", [1], bytes(4), name="old")
    message.outputs.add(name="wanted")
    message.id = "7"
    tensors.encode(message, {"new": np.int8([1])})
    assert [tensor.name for tensor in message.inputs] == ["new"]
    assert (list(message.raw_input_contents), message.outputs[0].name, message.id) == ([b"\1"], "wanted", "7")
    tensors.encode(message, tensors.decode(message), raw=False)  # from its own bytes
    assert (list(message.raw_input_contents), list(message.inputs[0].contents.int_contents)) == ([], [1])
    tensors.encode(message, {})
    assert not message.inputs


def test_encode_leaves_the_message_alone_on_an_error() -> None:
    message = request("FP32", [1], bytes(4))
    before = message.SerializeToString()
    with pytest.raises(TypeError):
        tensors.encode(message, {"good": [1], "bad": np.array([1j])})
    assert message.SerializeToString() == before


# BF16

BF16_ROUNDING = [
    (0x3F807FFF, 0x3F80),
    (0x3F808000, 0x3F80),  # a tie, to even: down
    (0x3F808001, 0x3F81),
    (0x3F818000, 0x3F82),  # a tie, to even: up
    (0x80000000, 0x8000),
    (0x00000001, 0x0000),
    (0x7F7FFFFF, 0x7F80),  # beyond the greatest: infinite
    (0xFF800000, 0xFF80),
    (0x7F800001, 0x7FC0),  # a NaN whose payload is all in the lower half
    (0x7FFFFFFF, 0x7FFF),
    (0xFFFFFFFF, 0xFFFF),
    (0xFF812345, 0xFF81),
]


@pytest.mark.parametrize(("single", "half"), BF16_ROUNDING, ids=[f"{single:08x}" for single, _ in BF16_ROUNDING])
def test_bf16_rounding(single: int, half: int) -> None:
    assert raw_of(np.array([single], np.uint32).view(np.float32), "BF16") == struct.pack("<H", half)


def nearest_bf16(value: float) -> int:
    """The oracle: of the two neighbours (exact as Python floats) the nearer, of equals the even one."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    below = bits >> 16
    ends = [abs(struct.unpack("<f", struct.pack("<I", end << 16))[0]) for end in (below, below + 1)]
    low, high = (min(end, 2.0**128) for end in ends)
    down, up = abs(value) - low, high - abs(value)
    return below + (up < down or (up == down and below % 2))


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bf16_rounds_to_nearest_even(value: float) -> None:
    assert raw_of(np.float32(value), "BF16") == struct.pack("<H", nearest_bf16(value))


def test_every_bf16_survives() -> None:
    raw = np.arange(2**16, dtype="<u2").tobytes()
    array = tensors.decode(request("BF16", [2**16], raw))["x"]
    assert raw_of(array, "BF16") == raw
    assert np.isnan(array).sum() == 2 * 127


def test_ml_dtypes_bfloat16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([[1.0, -2.5], [0.0, 3.0]], ml_dtypes.bfloat16)
    assert tensors.datatype_of(array) == "BF16"
    assert encoded(array.T).inputs[0].datatype == "BF16"
    assert raw_of(array.T) == bytes.fromhex("803f 0000 20c0 4040")
    assert raw_of(array[0], "FP32") == bytes.fromhex("0000803f 000020c0")
    assert raw_of(array[0], "FP16") == bytes.fromhex("003c 00c1")
    assert raw_of(array[0, 1]) == bytes.fromhex("20c0")
    assert raw_of(array[0].astype(array.dtype.newbyteorder(">"))) == bytes.fromhex("803f 20c0")
    singles = np.array([bits for bits, _ in BF16_ROUNDING], np.uint32).view(np.float32)
    numbers = singles[~np.isnan(singles)]  # it has one NaN where we keep the payload
    assert raw_of(numbers, "BF16") == numbers.astype(ml_dtypes.bfloat16).tobytes()
    with pytest.raises(TypeError, match=r'^input "x": KServe has no datatype for dtype float8_e4m3fn$'):
        encoded(np.array([1], ml_dtypes.float8_e4m3fn))


# BYTES


def test_text_and_trailing_nuls() -> None:
    assert raw_of(["é", b"\xff\0"]) == bytes.fromhex("02000000 c3a9 02000000 ff00")
    assert raw_of(np.array(["é", "a"])) == bytes.fromhex("02000000 c3a9 01000000 61")
    assert raw_of(np.array([b"a", b"bc"])) == bytes.fromhex("01000000 61 02000000 6263")
    assert raw_of(np.array([b"a\0"])) == bytes.fromhex("01000000 61")  # numpy's doing, documented
    assert raw_of([[np.bytes_(b"a\0")]]) == bytes.fromhex("02000000 6100")
    assert raw_of(b"a\0") == bytes.fromhex("02000000 6100")


@pytest.mark.skipif(not hasattr(np, "dtypes") or not hasattr(np.dtypes, "StringDType"), reason="numpy 2 has it")
def test_variable_width_strings() -> None:
    assert raw_of(np.array(["é", "a\0"], np.dtypes.StringDType())) == bytes.fromhex("02000000 c3a9 02000000 6100")


def test_one_long_element_costs_no_more_than_itself() -> None:
    files = [bytes(1 << 20), *[b""] * (1 << 16)]  # 64 GiB, were each as wide as the longest
    assert len(raw_of(files)) == (1 << 20) + 4 * len(files)


@pytest.mark.parametrize(
    ("shape", "raw", "got"),
    [
        ([2], "01000000 61 0200", "needs 2 elements, got 2 of 4 bytes of the length of element 1"),
        ([2], "01000000 61 02000000 61", "needs 2 elements, got 1 of 2 bytes of element 1"),
        ([1], "ffffffff", "needs 1 elements, got 0 of 4294967295 bytes of element 0"),
        ([2], "01000000 61", "needs 2 elements, got 1"),
        ([1], "01000000 61 01000000 62", "needs 1 elements, got 5 bytes more"),
        ([1], "01000000 61 00", "needs 1 elements, got 1 bytes more"),
        ([0, 2], "00", "needs 0 elements, got 1 bytes more"),
        ([2**40], "", "needs 1099511627776 elements, got 0"),
    ],
)
def test_malformed_bytes(shape: list[int], raw: str, got: str) -> None:
    assert rejected(request("BYTES", shape, bytes.fromhex(raw))) == f'input "x": BYTES with shape {shape} {got}'


# Round trips


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    return hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@pytest.mark.parametrize("datatype", NUMBERS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_numbers_round_trip(datatype: str, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(DATATYPES[datatype], shapes()))
    message = ModelInferResponse()
    tensors.encode(message, {"x": array})
    decoded = tensors.decode(ModelInferResponse.FromString(message.SerializeToString()))["x"]
    assert (decoded.dtype, decoded.shape, decoded.tobytes()) == (array.dtype, array.shape, array.tobytes())
    if datatype != "FP16":
        tensors.encode(message, {"x": array}, raw=False)
        decoded = tensors.decode(ModelInferResponse.FromString(message.SerializeToString()))["x"]
        np.testing.assert_array_equal(decoded, array, strict=True)


@pytest.mark.parametrize("raw", [True, False])
@settings(deadline=None, max_examples=50)
@given(array=hnp.arrays(object, shapes(), elements=st.binary() | st.text()))
def test_bytes_round_trip(raw: bool, array: np.ndarray[Any, Any]) -> None:
    decoded = tensors.decode(encoded(array, raw=raw))["x"]
    expected = [element.encode() if isinstance(element, str) else element for element in array.ravel()]
    assert (decoded.shape, decoded.ravel().tolist()) == (array.shape, expected)


@settings(deadline=None, max_examples=300)
@given(
    datatype=st.sampled_from([*DATATYPES, "FP8"]),
    shape=st.lists(st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    raw=st.none() | st.binary(max_size=24),
    contents=st.dictionaries(st.sampled_from(["int_contents", "uint_contents"]), st.lists(st.integers(0, 300))),
)
def test_whatever_arrives_is_read_or_refused(
    datatype: str, shape: list[int], raw: bytes | None, contents: dict[str, list[int]]
) -> None:
    try:
        decoded = tensors.decode(request(datatype, shape, raw, **contents))["x"]
        outcome: object = (decoded.shape, decoded.dtype)
    except InferenceError as error:
        outcome = error.code
    assert outcome in (Code.INVALID_ARGUMENT, (tuple(shape), DATATYPES.get(datatype)))


# What decode refuses


REFUSED = [
    (request("FP32", [2, 3], bytes(20)), "FP32 with shape [2, 3] needs 24 bytes, got 20"),
    (request("BF16", [2], bytes(8)), "BF16 with shape [2] needs 4 bytes, got 8"),
    (request("INT8", [], b""), "INT8 with shape [] needs 1 bytes, got 0"),
    (request("INT8", [0], b"1"), "INT8 with shape [0] needs 0 bytes, got 1"),
    (request("BOOL", [3], b"\0\1\2"), "BOOL with shape [3] needs bytes 0 or 1, got 2 at element 2"),
    (request("FP8", [1], b"1"), f'unknown datatype "FP8"; the datatypes are {KNOWN}'),
    (request("fp32", [1], bytes(4)), f'unknown datatype "fp32"; the datatypes are {KNOWN}'),
    (request("FP32", [-1, 2], b""), "shape takes sizes >= 0, got [-1, 2]"),
    (request("INT8", [2**40], b"1"), "INT8 with shape [1099511627776] needs 1099511627776 bytes, got 1"),
    (request("INT8", [2**62, 4], b""), f"shape [{2**62}, 4] is too large for an array"),
    (request("FP32", [0, 2**62], b""), f"shape [0, {2**62}] is too large for an array"),
    (request("INT8", [1] * 33, b"1"), "a shape takes at most 32 dimensions, got 33"),
    (request("FP16", [1]), "FP16 has no typed contents; send it in raw_input_contents"),
    (request("BF16", [1], fp32_contents=[1]), "BF16 has no typed contents; send it in raw_input_contents"),
    (request("FP32", [2]), "FP32 with shape [2] needs 2 elements in fp32_contents, got 0"),
    (request("INT64", [2], int64_contents=[1]), "INT64 with shape [2] needs 2 elements in int64_contents, got 1"),
    (request("BYTES", [], bytes_contents=[b"", b""]), "BYTES with shape [] needs 1 elements in bytes_contents, got 2"),
    (request("INT64", [1], int_contents=[1]), "INT64 with shape [1] needs int64_contents, got int_contents"),
    (
        request("FP32", [1], fp32_contents=[1], fp64_contents=[1]),
        "FP32 with shape [1] needs fp32_contents, got fp32_contents, fp64_contents",
    ),
    (request("INT8", [2], int_contents=[0, 128]), "INT8 with shape [2] needs -128 to 127, got 128 at element 1"),
    (request("INT8", [1], int_contents=[-129]), "INT8 with shape [1] needs -128 to 127, got -129 at element 0"),
    (request("INT16", [1], int_contents=[2**15]), "INT16 with shape [1] needs -32768 to 32767, got 32768 at element 0"),
    (request("UINT8", [1], uint_contents=[256]), "UINT8 with shape [1] needs 0 to 255, got 256 at element 0"),
    (request("UINT16", [1], uint_contents=[2**16]), "UINT16 with shape [1] needs 0 to 65535, got 65536 at element 0"),
    (
        request("FP32", [1], bytes(4), fp32_contents=[1]),
        "fp32_contents beside raw_input_contents; a message takes typed or raw, not both",
    ),
]


@pytest.mark.parametrize(("message", "text"), REFUSED, ids=[text[:40] for _, text in REFUSED])
def test_refused(message: ModelInferRequest, text: str) -> None:
    assert rejected(message) == f'input "x": {text}'


def test_raw_entries_match_the_tensors() -> None:
    message = request("INT8", [1], b"1")
    message.inputs.add(name="y", datatype="INT8", shape=[1])
    assert rejected(message) == "raw_input_contents needs 2 entries, one for each input, got 1"
    message.raw_input_contents.append(b"2")
    assert tensors.decode(message)["y"].tobytes() == b"2"
    del message.inputs[:]
    assert rejected(message) == "raw_input_contents needs 0 entries, one for each input, got 2"


def test_duplicate_names() -> None:
    message = request("INT8", [1], b"1")
    message.MergeFrom(message)
    assert rejected(message) == 'input "x": the name is there more than once'


def test_responses_name_outputs() -> None:
    message = ModelInferResponse(raw_output_contents=[b""])
    assert rejected(message) == "raw_output_contents needs 0 entries, one for each output, got 1"
    message.outputs.add(name="y", datatype="INT8", shape=[1])
    assert rejected(message) == 'output "y": INT8 with shape [1] needs 1 bytes, got 0'


def test_names_in_messages_are_short_and_on_one_line() -> None:
    assert rejected(request("INT8", [1], b"", name='a"\né')).startswith('input "a\\"\\né": ')
    assert len(rejected(request("x" * 10_000, [1], b"", name="y" * 10_000))) < 500


def test_an_empty_contents_message_beside_raw_is_none() -> None:
    message = request("INT8", [1], b"\1")
    message.inputs[0].contents.SetInParent()
    assert tensors.decode(message)["x"].tolist() == [1]


# What encode casts and refuses


def test_casts() -> None:
    assert raw_of([1, 255], "UINT8") == b"\1\xff"
    assert raw_of(np.array([-128, 127]), "INT8") == b"\x80\x7f"
    assert raw_of(np.array([True]), "INT16") == b"\1\0"
    assert raw_of([1, 2.5], "FP16") == bytes.fromhex("003c 0041")
    assert raw_of(np.array([1]), "BF16") == bytes.fromhex("803f")
    assert raw_of(np.uint64([2**63 - 1]), "INT64") == b"\xff" * 7 + b"\x7f"
    own = [encoded(value).inputs[0].datatype for value in (1, 1.0, True, "a", b"a", [[1]])]
    assert own == ["INT64", "FP64", "BOOL", "BYTES", "BYTES", "INT64"]


@pytest.mark.parametrize(
    ("value", "datatype", "error", "text"),
    [
        ([1.5], "INT32", TypeError, "cannot cast dtype float64 to INT32"),
        (np.int64([1]), "UINT8", TypeError, "cannot cast dtype int64 to UINT8"),
        (np.float32([1]), "BYTES", TypeError, "cannot cast dtype float32 to BYTES"),
        (np.array(["1"]), "FP32", TypeError, "cannot cast dtype <U1 to FP32"),
        (np.array([1, 2], object), "INT64", TypeError, "cannot cast dtype object to INT64"),
        (np.float32([1]), "BOOL", TypeError, "cannot cast dtype float32 to BOOL"),
        ([0, 256], "UINT8", ValueError, "UINT8 needs 0 to 255, got 256 at element 1"),
        ([-1], "UINT64", ValueError, "UINT64 needs 0 to 18446744073709551615, got -1 at element 0"),
        (np.int64([[0], [-129]]), "INT8", ValueError, "INT8 needs -128 to 127, got -129 at element 1"),
        (np.uint64([2**63]), "INT64", ValueError, f"INT64 needs {-(2**63)} to {2**63 - 1}, got {2**63} at element 0"),
        (np.array([1j]), None, TypeError, "KServe has no datatype for dtype complex128"),
        (np.array(["2020-01-01"], "M8[D]"), None, TypeError, "KServe has no datatype for dtype datetime64[D]"),
        (np.array([1j]), "FP32", TypeError, "KServe has no datatype for dtype complex128"),
        (np.zeros(1, "i4,f4"), None, TypeError, "KServe has no datatype for dtype [('f0', '<i4'), ('f1', '<f4')]"),
        ([b"a", 1], None, TypeError, "BYTES needs bytes or str, got int at element 1"),
        ([1, "a"], None, TypeError, "mixes text with other values"),
        (np.array([None]), None, TypeError, "BYTES needs bytes or str, got NoneType at element 0"),
        (["a", "\ud800"], None, ValueError, "element 1 is not valid text: surrogates not allowed"),
        ([1], "FP8", ValueError, f'unknown datatype "FP8"; the datatypes are {KNOWN}'),
    ],
)
def test_encode_refuses(value: Any, datatype: str | None, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        encoded(value, datatype)
    assert str(caught.value) == f'input "x": {text}'


def test_encode_refuses_a_ragged_list() -> None:
    with pytest.raises(ValueError, match=r'^input "x": not an array: '):
        encoded([[1], [1, 2]])


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_are_raw_only(datatype: str) -> None:
    with pytest.raises(ValueError, match=rf'^input "x": {datatype} has no typed contents; encode it raw$'):
        encoded(np.float32([1]), datatype, raw=False)


def test_datatypes_must_name_tensors() -> None:
    with pytest.raises(ValueError, match=r'^datatypes names "y", which is not among the tensors: "a", "x"$'):
        tensors.encode(ModelInferRequest(), {"a": 1, "x": 1}, datatypes={"y": "INT8", "a": "INT8"})


def test_datatype_of_refuses() -> None:
    with pytest.raises(TypeError, match=r"^KServe has no datatype for dtype complex64$"):
        tensors.datatype_of(np.zeros(1, np.complex64))


# Declarations


def test_spec() -> None:
    spec = TensorSpec("a", "FP32", [2, -1])  # type: ignore[arg-type]
    assert (spec, spec.shape, TensorSpec("a", "FP32").shape) == (TensorSpec("a", "FP32", (2, -1)), (2, -1), (-1,))
    assert {spec: 1}[TensorSpec("a", "FP32", (2, -1))] == 1


@pytest.mark.parametrize(
    ("datatype", "shape", "text"),
    [
        ("FP8", (1,), f'unknown datatype "FP8"; the datatypes are {KNOWN}'),
        ("FP32", (2, -2), "shape takes -1 or sizes >= 0, got [2, -2]"),
        ("FP32", (1.5,), "shape takes -1 or sizes >= 0, got [1.5]"),
    ],
)
def test_spec_refuses(datatype: str, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match="tensor") as caught:
        TensorSpec("a", datatype, shape)
    assert str(caught.value) == f'tensor "a": {text}'


@pytest.mark.parametrize(
    ("spec", "array", "datatype"),
    [
        (TensorSpec("a", "FP32"), np.zeros(0, np.float32), None),
        (TensorSpec("a", "FP32", (-1, 2)), np.zeros((5, 2), ">f4"), "FP32"),
        (TensorSpec("a", "INT8", ()), np.zeros((), np.int8), None),
        (TensorSpec("a", "BF16"), np.zeros(1, np.float32), "BF16"),
        (TensorSpec("a", "BF16"), np.zeros(1, np.float32), None),
        (TensorSpec("a", "BYTES"), np.array(["a"]), None),
    ],
)
def test_check_accepts(spec: TensorSpec, array: np.ndarray[Any, Any], datatype: str | None) -> None:
    tensors.check(spec, array, datatype)


@pytest.mark.parametrize(
    ("spec", "array", "datatype", "text"),
    [
        (TensorSpec("a", "FP32"), np.zeros(1), None, "expected datatype FP32, got FP64"),
        (TensorSpec("a", "FP32"), np.zeros(1, np.float32), "BF16", "expected datatype FP32, got BF16"),
        (TensorSpec("a", "BF16"), np.zeros(1, np.float32), "FP32", "expected datatype BF16, got FP32"),
        (TensorSpec("a", "FP32"), np.zeros(1, complex), None, "expected datatype FP32, got dtype complex128"),
        (TensorSpec("a", "FP64", (-1, 3)), np.zeros(4), None, "expected shape [-1, 3], got [4]: 1 dimensions, not 2"),
        (TensorSpec("a", "FP64", ()), np.zeros(1), None, "expected shape [], got [1]: 1 dimensions, not 0"),
        (
            TensorSpec("a", "FP64", (-1, 3)),
            np.zeros((3, 2)),
            None,
            "expected shape [-1, 3], got [3, 2]: dimension 1 is 2, not 3",
        ),
    ],
)
def test_check_refuses(spec: TensorSpec, array: np.ndarray[Any, Any], datatype: str | None, text: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        tensors.check(spec, array, datatype)
    assert str(caught.value) == f'tensor "a": {text}'


# Beside tritonclient


def test_tritonclient_reads_and_writes_the_same_bytes() -> None:
    utils = pytest.importorskip("tritonclient.utils", exc_type=ImportError)
    array = np.array([[b"ab\0", b""], ["é", b"\xff" * 300]], object)
    theirs = utils.serialize_byte_tensor(array).item()
    assert raw_of(array) == theirs
    assert utils.deserialize_bytes_tensor(theirs).tolist() == [b"ab\0", b"", "é".encode(), b"\xff" * 300]


# Its releases differ on which arrays they take for BF16.
@pytest.mark.parametrize(("datatype", "dtype", "values"), [v[:3] for v in VECTORS if v[0] != "BF16"])
def test_tritonclient_tensors(datatype: str, dtype: str, values: list[Any]) -> None:
    grpcclient = pytest.importorskip("tritonclient.grpc", exc_type=ImportError)
    tensor = grpcclient.InferInput("x", [2], datatype)
    tensor.set_data_from_numpy(np.array(values, dtype))
    theirs = ModelInferRequest(raw_input_contents=[tensor._get_content()])
    theirs.inputs.add().MergeFromString(tensor._get_tensor().SerializeToString())
    assert tensors.decode(theirs)["x"].tolist() == values
    assert encoded(np.array(values, dtype)) == theirs
