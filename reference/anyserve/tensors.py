"""numpy arrays to and from the tensors of KServe v2 messages, in raw and typed form.

Raw form is one little-endian byte string a tensor (`raw_input_contents`,
`raw_output_contents`); typed form is `InferTensorContents`. This room checks that
shape, datatype and contents agree; it routes nothing and knows no model.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from anyserve.errors import Code, InferenceError

__all__ = ["DATATYPES", "RAW_DATATYPES", "TensorSpec", "check", "datatype_of", "decode", "encode"]

# datatype: dtype of the decoded array, field of InferTensorContents ("": the protocol has the raw form alone)
_LAYOUTS = {
    "BOOL": (np.dtype("?"), "bool_contents"),
    "INT8": (np.dtype("<i1"), "int_contents"),
    "INT16": (np.dtype("<i2"), "int_contents"),
    "INT32": (np.dtype("<i4"), "int_contents"),
    "INT64": (np.dtype("<i8"), "int64_contents"),
    "UINT8": (np.dtype("<u1"), "uint_contents"),
    "UINT16": (np.dtype("<u2"), "uint_contents"),
    "UINT32": (np.dtype("<u4"), "uint_contents"),
    "UINT64": (np.dtype("<u8"), "uint64_contents"),
    "FP16": (np.dtype("<f2"), ""),
    "BF16": (np.dtype("<f4"), ""),
    "FP32": (np.dtype("<f4"), "fp32_contents"),
    "FP64": (np.dtype("<f8"), "fp64_contents"),
    "BYTES": (np.dtype("O"), "bytes_contents"),
}
# Where one element looks otherwise on the wire than in the decoded array: in raw form, and in these fields.
_RAW_DTYPES = {"BF16": np.dtype("<u2")}
_FIELD_DTYPES = {"int_contents": np.dtype("<i4"), "uint_contents": np.dtype("<u4")}

_DATATYPE_OF_DTYPE = {dtype.str: datatype for datatype, (dtype, _) in _LAYOUTS.items() if datatype != "BF16"}
_BYTES_KINDS = "OSUT"  # numpy's object, bytes, str and variable-width string arrays
_FAULT = {"input": Code.INVALID_ARGUMENT, "output": Code.INTERNAL}  # the client's, the worker's
_LENGTH = struct.Struct("<I")  # before each element of a raw BYTES tensor
_MAX_DIMENSIONS = 32  # numpy 1 has no more
_MAX_QUOTED = 100

RAW_DATATYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {name: dtype for name, (dtype, _) in _LAYOUTS.items() if name not in ("BF16", "BYTES")}
)
"""Those whose elements look in raw form as they do in an array, on a little-endian machine."""

DATATYPES: Mapping[str, np.dtype[Any]] = MappingProxyType({name: dtype for name, (dtype, _) in _LAYOUTS.items()})
"""The KServe v2 datatypes and the numpy dtype that `decode` gives for each (BF16: float32, BYTES: object)."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a capability declares of one input or output.

    Args:
        name: the tensor's name.
        datatype: one of `DATATYPES`.
        shape: sizes in order; -1 matches any size.

    Raises:
        ValueError: the datatype is unknown or a size is neither -1 nor >= 0.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        if self.datatype not in _LAYOUTS:
            raise ValueError(f"tensor {_quote(self.name)}: {_unknown(self.datatype)}")
        object.__setattr__(self, "shape", tuple(self.shape))
        if not all(isinstance(size, int) and size >= -1 for size in self.shape):
            raise ValueError(f"tensor {_quote(self.name)}: shape takes -1 or sizes >= 0, got {list(self.shape)}")


def decode(message: ModelInferRequest | ModelInferResponse) -> dict[str, NDArray[Any]]:
    """Reads a message's tensors, by name, in their order.

    Arrays are read-only, in either form: copy one to change it. Raw numbers are views
    of the message's bytes, not copies; BF16 is widened to float32 exactly; BYTES gives
    object arrays of `bytes`.

    Returns:
        A request's inputs or a response's outputs, each with its shape and the dtype of `DATATYPES`.

    Raises:
        InferenceError: the message is malformed; INVALID_ARGUMENT for a request,
            INTERNAL for a response. The text names tensor, expected and got.
    """
    kind, tensors, raw = _parts(message)
    try:
        return _decode(kind, list(tensors), list(raw))
    except _MalformedError as error:
        raise InferenceError(_FAULT[kind], str(error)) from error


def encode(
    message: ModelInferRequest | ModelInferResponse,
    tensors: Mapping[str, ArrayLike],
    *,
    datatypes: Mapping[str, str] | None = None,
    raw: bool = True,
) -> None:
    """Fills a message's tensors, replacing those it had. On an error the message is unchanged.

    The datatype follows from the dtype (`ml_dtypes.bfloat16`: BF16; Python ints: INT64, floats: FP64;
    bytes and str, as UTF-8: BYTES). numpy's `S` and `U` arrays drop trailing NULs from their elements;
    lists and object arrays keep them. Any byte order and strides will do.

    Args:
        message: a request (its inputs are filled) or a response (its outputs are).
        tensors: name to array, or to what numpy makes one of.
        datatypes: name to KServe datatype where the dtype's own is not wanted. Casts are numpy's
            "same kind" (Python ints also go to unsigned datatypes); integers must fit, floats round
            (to nearest even; those too large become infinite). BF16 is rounded from float32.
        raw: False puts the elements into typed contents, which FP16 and BF16 do not have.

    Raises:
        TypeError: a dtype that KServe has no datatype for, or a cast to another kind.
        ValueError: an unknown name or datatype in `datatypes`, an integer that does not fit, a str
            that is not valid text, a ragged list, or FP16 or BF16 asked typed.
    """
    kind, targets, raw_contents = _parts(message)
    wanted = dict(datatypes or {})
    if unknown := sorted(wanted.keys() - tensors.keys()):
        known = ", ".join(map(_quote, tensors)) or "none"
        raise ValueError(f"datatypes names {_quote(unknown[0])}, which is not among the tensors: {known}")
    encoded = {name: _encode(f"{kind} {_quote(name)}", value, wanted.get(name), raw) for name, value in tensors.items()}
    del targets[:], raw_contents[:]
    for name, (datatype, shape, payload) in encoded.items():
        target = targets.add(name=name, datatype=datatype, shape=shape)
        if raw:
            raw_contents.append(payload)
        else:
            getattr(target.contents, _LAYOUTS[datatype][1]).extend(payload)


def datatype_of(array: NDArray[Any]) -> str:
    """The KServe datatype of an array, by its dtype; object and string arrays are BYTES.

    Raises:
        TypeError: KServe has no datatype for the dtype (complex, datetime, structured, ...).
    """
    datatype = _datatype(array.dtype)
    if datatype is None:
        raise TypeError(f"KServe has no datatype for dtype {array.dtype}")
    return datatype


def check(spec: TensorSpec, array: NDArray[Any], datatype: str | None = None) -> None:
    """Checks an array against a declaration.

    Args:
        spec: what was declared.
        array: what is there.
        datatype: the wire's datatype where it is known. Without it the dtype decides, and
            float32 passes for BF16, which numpy has no dtype of its own for.

    Raises:
        ValueError: datatype, number of dimensions or a size differs; names tensor, expected and got.
    """
    got = datatype or _datatype(array.dtype) or f"dtype {array.dtype}"
    if got != spec.datatype and (datatype or (got, spec.datatype) != ("FP32", "BF16")):
        raise ValueError(f"tensor {_quote(spec.name)}: expected datatype {spec.datatype}, got {got}")
    shapes = f"tensor {_quote(spec.name)}: expected shape {list(spec.shape)}, got {list(array.shape)}"
    if array.ndim != len(spec.shape):
        raise ValueError(f"{shapes}: {array.ndim} dimensions, not {len(spec.shape)}")
    for axis, (expected, size) in enumerate(zip(spec.shape, array.shape, strict=True)):
        if expected not in (-1, size):
            raise ValueError(f"{shapes}: dimension {axis} is {size}, not {expected}")


def _parts(message: ModelInferRequest | ModelInferResponse) -> tuple[str, Any, Any]:
    """Which kind of tensors the message has, its repeated field of them, and that of their raw contents."""
    if isinstance(message, ModelInferRequest):
        return "input", message.inputs, message.raw_input_contents
    return "output", message.outputs, message.raw_output_contents


# Decoding


class _MalformedError(Exception):
    """What the other side sent breaks the protocol; becomes an InferenceError."""


def _decode(kind: str, tensors: list[Any], raw: list[bytes]) -> dict[str, NDArray[Any]]:
    raw_name = f"raw_{kind}_contents"
    if raw and len(raw) != len(tensors):
        raise _MalformedError(f"{raw_name} needs {len(tensors)} entries, one for each {kind}, got {len(raw)}")
    arrays: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(tensors):
        where = f"{kind} {_quote(tensor.name)}"
        if tensor.name in arrays:
            raise _MalformedError(f"{where}: the name is there more than once")
        if tensor.datatype not in _LAYOUTS:
            raise _MalformedError(f"{where}: {_unknown(tensor.datatype)}")
        dtype, field = _LAYOUTS[tensor.datatype]
        given = [name.name for name, _ in tensor.contents.ListFields()]
        if raw and given:
            raise _MalformedError(f"{where}: {given[0]} beside {raw_name}; a message takes typed or raw, not both")
        if not raw and not field:
            raise _MalformedError(f"{where}: {tensor.datatype} has no typed contents; send it in {raw_name}")
        shape = tuple(tensor.shape)
        count = _count(where, shape, dtype.itemsize)
        needs = f"{where}: {tensor.datatype} with shape {list(shape)} needs"
        if raw:
            flat = _from_raw(needs, tensor.datatype, raw[index], count)
        else:
            flat = _from_typed(needs, tensor.datatype, tensor.contents, given, count)
        arrays[tensor.name] = flat.reshape(shape)
        arrays[tensor.name].setflags(write=False)
    return arrays


def _count(where: str, shape: tuple[int, ...], itemsize: int) -> int:
    """The number of elements, in Python's integers: no shape can overflow it."""
    if len(shape) > _MAX_DIMENSIONS:
        raise _MalformedError(f"{where}: a shape takes at most {_MAX_DIMENSIONS} dimensions, got {len(shape)}")
    if any(size < 0 for size in shape):
        raise _MalformedError(f"{where}: shape takes sizes >= 0, got {list(shape)}")
    # numpy leaves zeros out of this product and refuses even an empty array of such a shape.
    if itemsize * math.prod(size or 1 for size in shape) > sys.maxsize:
        raise _MalformedError(f"{where}: shape {list(shape)} is too large for an array")
    return math.prod(shape)


def _from_raw(needs: str, datatype: str, raw: bytes, count: int) -> NDArray[Any]:
    if datatype == "BYTES":
        return np.fromiter(_split(f"{needs} {count} elements, got", raw, count), DATATYPES[datatype], count)
    dtype = _RAW_DTYPES.get(datatype, DATATYPES[datatype])
    if len(raw) != count * dtype.itemsize:
        raise _MalformedError(f"{needs} {count * dtype.itemsize} bytes, got {len(raw)}")
    flat = np.frombuffer(raw, dtype)
    if datatype == "BF16":
        return _widen(flat)
    # Other bytes make bools that equal neither True nor False.
    if datatype == "BOOL" and (odd := flat.view(np.uint8) > 1).any():
        raise _MalformedError(f"{needs} bytes 0 or 1, got {raw[odd.argmax()]} at element {odd.argmax()}")
    return flat


def _split(needs: str, raw: bytes, count: int) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while len(elements) < count:  # bounded by the bytes: each element takes four or more
        if at == len(raw):
            raise _MalformedError(f"{needs} {len(elements)}")
        if len(raw) - at < _LENGTH.size:
            raise _MalformedError(f"{needs} {len(raw) - at} of 4 bytes of the length of element {len(elements)}")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if len(raw) - at < length:
            raise _MalformedError(f"{needs} {len(raw) - at} of {length} bytes of element {len(elements)}")
        elements.append(raw[at : at + length])
        at += length
    if at != len(raw):
        raise _MalformedError(f"{needs} {len(raw) - at} bytes more")
    return elements


def _from_typed(needs: str, datatype: str, contents: Any, given: list[str], count: int) -> NDArray[Any]:
    dtype, field = _LAYOUTS[datatype]
    if given not in ([], [field]):
        raise _MalformedError(f"{needs} {field}, got {', '.join(given)}")
    elements = getattr(contents, field)
    if len(elements) != count:
        raise _MalformedError(f"{needs} {count} elements in {field}, got {len(elements)}")
    flat = np.fromiter(elements, _FIELD_DTYPES.get(field, dtype), count)
    if misfit := _misfit(flat, dtype):
        raise _MalformedError(f"{needs} {misfit}")
    return flat.astype(dtype, copy=False)


# Encoding


def _encode(where: str, value: Any, wanted: str | None, raw: bool) -> tuple[str, tuple[int, ...], Any]:
    """The datatype, the shape, and the raw form as bytes or the typed form as a list of elements."""
    if wanted is not None and wanted not in _LAYOUTS:
        raise ValueError(f"{where}: {_unknown(wanted)}")
    array = _as_array(where, value)
    own = _datatype(array.dtype)
    if own is None:
        raise TypeError(f"{where}: KServe has no datatype for dtype {array.dtype}")
    datatype = wanted or own
    if not raw and not _LAYOUTS[datatype][1]:
        raise ValueError(f"{where}: {datatype} has no typed contents; encode it raw")
    if own == "BF16":  # float32 casts to more than ml_dtypes does
        array = _widen(array.view(np.dtype(np.uint16).newbyteorder(array.dtype.byteorder)))
    literal = not hasattr(value, "dtype")
    if literal and array.size == 0:  # an empty list says nothing of its elements
        array = np.empty(array.shape, DATATYPES[datatype])
    elif "BYTES" not in (own, datatype):
        array = _cast(where, array, datatype, literal)
    elif own != datatype:
        raise TypeError(f"{where}: cannot cast dtype {array.dtype} to {datatype}")
    if datatype == "BYTES":
        elements = [_element(where, index, element) for index, element in enumerate(array.ravel().tolist())]
        return datatype, array.shape, b"".join(_LENGTH.pack(len(e)) + e for e in elements) if raw else elements
    if not raw:
        return datatype, array.shape, array.ravel().tolist()
    return datatype, array.shape, (_round(array) if datatype == "BF16" else array).tobytes()


def _as_array(where: str, value: Any) -> NDArray[Any]:
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    text = isinstance(first, str | bytes)
    try:
        # As `S` or `U`, numpy would drop trailing NULs and give every element the space of the longest.
        array = np.asarray(value, dtype=object if text else None)
    except ValueError as error:
        raise ValueError(f"{where}: not an array: {error}") from error
    if array.dtype.kind in "SU" and not hasattr(value, "dtype"):
        raise TypeError(f"{where}: mixes text with other values")
    return array


def _cast(where: str, array: NDArray[Any], datatype: str, literal: bool) -> NDArray[Any]:
    dtype = DATATYPES[datatype]
    # numpy makes Python ints signed; their author did not say so.
    to_unsigned = literal and array.dtype.kind == "i" and dtype.kind == "u"
    if not to_unsigned and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(f"{where}: cannot cast dtype {array.dtype} to {datatype}")
    if misfit := _misfit(array, dtype):
        raise ValueError(f"{where}: {datatype} needs {misfit}")
    return array.astype(dtype, copy=False)


def _element(where: str, index: int, element: Any) -> bytes:
    if isinstance(element, bytes):
        return element
    if not isinstance(element, str):
        raise TypeError(f"{where}: BYTES needs bytes or str, got {type(element).__name__} at element {index}")
    try:
        return element.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: element {index} is not valid text: {error.reason}") from error


# Both


def _datatype(dtype: np.dtype[Any]) -> str | None:
    if dtype.kind in _BYTES_KINDS:
        return "BYTES"
    if dtype.name == "bfloat16":  # ml_dtypes registers it; numpy has none
        return "BF16"
    return _DATATYPE_OF_DTYPE.get(dtype.newbyteorder("<").str)


def _widen(bits: NDArray[Any]) -> NDArray[Any]:
    """BF16 bits to float32, whose upper half they are."""
    return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _round(array: NDArray[Any]) -> NDArray[Any]:
    """float32 to BF16 bits (flat): to nearest, ties to even; a NaN keeps its upper bits and stays NaN."""
    flat = array.astype(np.float32, copy=False).ravel()
    bits = flat.view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    nan = np.where(upper & np.uint32(0x7F), upper, upper | np.uint32(0x40))
    return np.where(np.isnan(flat), nan, rounded).astype("<u2")


def _misfit(array: NDArray[Any], dtype: np.dtype[Any]) -> str | None:
    """Names the first integer that an integer `dtype` cannot hold."""
    if array.dtype.kind not in "iu" or dtype.kind not in "iu" or np.can_cast(array.dtype, dtype, "safe"):
        return None
    limits = np.iinfo(dtype)
    outside = (array < limits.min) | (array > limits.max)
    if not outside.any():
        return None
    return f"{limits.min} to {limits.max}, got {array.flat[outside.argmax()]} at element {outside.argmax()}"


def _unknown(datatype: str) -> str:
    return f"unknown datatype {_quote(datatype)}; the datatypes are {', '.join(_LAYOUTS)}"


def _quote(text: str) -> str:
    """Names come from the other side: kept short and on one line."""
    short = text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 3] + "..."
    return json.dumps(short, ensure_ascii=False)
