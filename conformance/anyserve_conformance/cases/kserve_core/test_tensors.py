"""Contents of tensors: their layout, and what does not fit.

An identity model shows both directions at once: what was read wrong and written wrong
in the same way comes back right. The typed form, sent beside the raw one, tells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_conformance.cases.kserve_core.tensors import (
    FIXED_SIZE,
    TYPED_FIELD,
    Value,
    default_values,
    elements,
    identity_outputs,
    output_names,
    outputs_of,
    packed,
    refused,
    request,
    same,
    shape_of,
)
from anyserve_conformance.client import Client
from anyserve_conformance.fixtures import Model
from anyserve_conformance.requirement import not_applicable, requirement
from anyserve_conformance.subjects import Subjects, TensorSpec

LOOK_AT = "how raw contents are read and written: byte order, size of an element, order of the entries"

FLOATS = {
    "FP16": (2.0**-14, 65504.0),
    "FP32": (2.0**-126, 2.0**128 - 2.0**104),
    "FP64": (2.0**-1022, 1.7976931348623157e308),
}
"""Datatype -> least and greatest positive value, without subnormal ones."""

INTEGERS = {f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)} | {
    f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)
}
"""Datatype -> least and greatest value."""

REMARKABLE: dict[str, list[Value]] = {
    "BOOL": [True, False, False, True, True],
    "BYTES": [b"", b"a", b"\0\0", bytes(range(256)), "Größe · 大きさ".encode(), b"\xff\xfe", b"x" * 70_000],
    **{datatype: [0, 1, least, greatest, least + 1, 0x12] for datatype, (least, greatest) in INTEGERS.items()},
    **{
        datatype: [0.0, -0.0, 1.5, least, greatest, -greatest, math.inf, -math.inf, math.nan]
        for datatype, (least, greatest) in FLOATS.items()
    },
}


Input = tuple[Model, TensorSpec]


def _inputs(models: Sequence[Model], *datatypes: str) -> list[Input]:
    """All inputs of these datatypes; without any, the case does not apply."""
    found = [(model, spec) for model in models for spec in model.inputs if spec.datatype in datatypes]
    if not found:
        not_applicable(
            f"no model that was given has an input of {datatypes[0] if len(datatypes) == 1 else 'this kind'}"
        )
    return found


def _has_typed_form(model: Model) -> bool:
    return all(spec.datatype in TYPED_FIELD for spec in model.inputs)


def _comes_back(client: Client, model: Model, spec: TensorSpec, values: list[Value], *, typed: bool) -> None:
    """Sends the values in one input, in as many requests as its shape makes necessary."""
    count = elements(shape_of(spec, len(values)))
    endless = itertools.cycle(values)
    for _ in range(math.ceil(len(values) / count)):
        sent = list(itertools.islice(endless, count))
        answer = client.infer(request(model, {spec.name: sent}, typed=typed))
        received = identity_outputs(model, answer.message)[spec.name].values
        assert same(sent, received), f"{spec.datatype} {_short(sent)} came back as {_short(received)}"


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) < 500 else f"{text[:500]}…"


# Layout


@requirement("serving.tensor.raw-layout")
@pytest.mark.parametrize("datatype", FIXED_SIZE)
def test_raw_values(client: Client, models: Sequence[Model], datatype: str) -> None:
    """Raw contents with the least, the greatest and other remarkable values of a datatype come back as they were."""
    for model, spec in _inputs(models, datatype):
        _comes_back(client, model, spec, REMARKABLE[datatype], typed=False)


@requirement("serving.tensor.raw-bytes")
def test_raw_bytes(client: Client, models: Sequence[Model]) -> None:
    """Raw BYTES elements come back as they were: empty ones, long ones, and such that are no text."""
    for model, spec in _inputs(models, "BYTES"):
        _comes_back(client, model, spec, REMARKABLE["BYTES"], typed=False)


@requirement("serving.tensor.typed", look_at="the field of InferTensorContents for each datatype")
@pytest.mark.parametrize("datatype", TYPED_FIELD)
def test_typed_values(client: Client, models: Sequence[Model], datatype: str) -> None:
    """Typed contents with the least, the greatest and other remarkable values of a datatype come back as they were."""
    inputs = [(model, spec) for model, spec in _inputs(models, datatype) if _has_typed_form(model)]
    if not inputs:
        not_applicable(f"{datatype} is beside an input that has no typed contents")
    for model, spec in inputs:
        _comes_back(client, model, spec, REMARKABLE[datatype], typed=True)


def _values(datatype: str, count: int) -> st.SearchStrategy[list[Value]]:
    """Lists of elements, all of which a server can keep as they are (not subnormal ones: some processors are told to
    take those for 0)."""
    if datatype == "BYTES":
        element: st.SearchStrategy[Value] = st.binary(max_size=300)
    elif datatype == "BOOL":
        element = st.booleans()
    elif datatype == "BF16":
        element = st.integers(0, 0x7F7F)
    elif datatype.startswith("FP"):
        width: Any = int(datatype[2:])
        element = st.floats(width=width, allow_subnormal=False)
    else:
        least, greatest = INTEGERS[datatype]
        element = st.integers(least, greatest)
    return st.lists(element, min_size=count, max_size=count)


@requirement("serving.tensor.raw-layout", "serving.tensor.raw-bytes")
@given(data=st.data())
def test_any_raw_contents(client: Client, models: Sequence[Model], data: st.DataObject) -> None:
    """Raw contents of an input come back as they were, whatever they are and whatever shape the model allows."""
    inputs = [(model, spec) for model in models for spec in model.inputs]
    model, spec = data.draw(st.sampled_from(inputs), label="model and input")
    shape = data.draw(st.tuples(*(st.integers(1, 4) if size == -1 else st.just(size) for size in spec.shape)), "shape")
    sent = data.draw(_values(spec.datatype, elements(shape)), label="contents")
    answer = client.infer(request(model, {spec.name: sent}, shapes={spec.name: shape}))
    output = identity_outputs(model, answer.message)[spec.name]
    assert tuple(output.shape) == shape, f"{spec.name!r} of shape {list(shape)} came back with {output.shape}"
    assert same(sent, output.values), f"{spec.datatype} {_short(sent)} came back as {_short(output.values)}"


@requirement("serving.tensor.raw-order")
def test_one_raw_entry_an_output(client: Client, models: Sequence[Model]) -> None:
    """A response with raw contents has as many entries as outputs."""
    for model in models:
        response = client.infer(request(model)).message
        entries, outputs = len(response.raw_output_contents), len(response.outputs)
        assert entries in {0, outputs}, (
            f"{entries} entries in raw_output_contents for {outputs} outputs of {model.name!r}"
        )


@requirement("serving.tensor.raw-order", look_at="whether entries are made in the order of `outputs` of the response")
def test_raw_entries_in_the_order_of_outputs(client: Client, models: Sequence[Model]) -> None:
    """The entries are in the order of the response's outputs, in whatever order the request asks for them."""
    several = [model for model in models if len(model.inputs) > 1]
    if not several:
        not_applicable("no model that was given has several inputs")
    for model in several:
        message = request(model)
        names = output_names(model, client.infer(message).message)
        for asked_for in (list(names.values()), list(names.values())[::-1]):
            del message.outputs[:]
            for name in asked_for:
                message.outputs.add(name=name)
            received = {output.name: output for output in outputs_of(client.infer(message).message)}
            for place, spec in enumerate(model.inputs):
                name = names[spec.name]
                assert name in received, f"the output {name!r}, which was asked for, is missing"
                sent = default_values(spec.datatype, elements(shape_of(spec)), place)
                values = received[name].values
                assert same(sent, values), f"output {name!r} has {values}, and its input had {sent}"


# What does not fit


@pytest.fixture
def readers(models: Sequence[Model], subjects: Subjects) -> Sequence[Model]:
    """The models, of a subject that reads contents."""
    if not subjects.settings.models:
        not_applicable("an agent forwards contents without reading them, and the suite itself plays its models")
    return models


def _with_datatype(models: Sequence[Model], fits: Callable[[str], bool], kind: str) -> tuple[Model, int]:
    """A model that has an input of such a datatype, and the place of that."""
    found = [(model, place) for model in models for place, spec in enumerate(model.inputs) if fits(spec.datatype)]
    if not found:
        not_applicable(f"no model that was given has an input of {kind}")
    return found[0]


def _refuses_raw(client: Client, model: Model, place: int, change: Callable[[bytes], bytes], what: str) -> None:
    message = request(model)
    message.raw_input_contents[place] = change(message.raw_input_contents[place])
    refused(client, client.infer(message), what)


RAW_MISFITS: dict[str, tuple[str, Callable[[bytes, int], bytes]]] = {
    "nothing": ("no bytes", lambda raw, size: b""),
    "one-element-less": ("one element less than its shape says", lambda raw, size: raw[:-size]),
    "one-element-more": ("one element more than its shape says", lambda raw, size: raw + raw[:size]),
    "one-byte-more": ("one byte more than its shape says", lambda raw, size: raw + b"\0"),
}

BYTES_MISFITS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "nothing": ("no bytes", lambda raw: b""),
    "one-element-more": ("one element more than its shape says", lambda raw: raw + packed("BYTES", [b"x"])),
    "length-beyond-the-end": ("an element that is longer than the contents", lambda raw: b"\xff\xff\0\0" + raw[4:]),
    "cut-off-length": ("two bytes after its last element", lambda raw: raw + b"\0\0"),
    "length-with-its-top-bit": ("an element with a length of 2^32 - 1", lambda raw: b"\xff\xff\xff\xff" + raw[4:]),
}

LOOK_AT_SIZES = "the check of the contents against datatype and shape, before the model sees them"


@requirement("serving.tensor.size", look_at=LOOK_AT_SIZES)
@pytest.mark.parametrize("misfit", RAW_MISFITS)
def test_refuses_raw_contents_with(client: Client, readers: Sequence[Model], misfit: str) -> None:
    """Raw contents that are too short or too long for the shape are answered with an error."""
    model, place = _with_datatype(readers, lambda datatype: datatype in FIXED_SIZE, "a fixed size")
    size = len(packed(model.inputs[place].datatype, [1]))
    what, change = RAW_MISFITS[misfit]
    _refuses_raw(client, model, place, lambda raw: change(raw, size), f"a tensor with {what}")


@requirement("serving.tensor.size", look_at=LOOK_AT_SIZES)
@pytest.mark.parametrize("misfit", BYTES_MISFITS)
def test_refuses_raw_bytes_with(client: Client, readers: Sequence[Model], misfit: str) -> None:
    """Raw BYTES contents with lengths that lie, or too many or too few elements, are answered with an error."""
    model, place = _with_datatype(readers, lambda datatype: datatype == "BYTES", "datatype BYTES")
    what, change = BYTES_MISFITS[misfit]
    _refuses_raw(client, model, place, change, f"a BYTES tensor with {what}")


@requirement("serving.tensor.size", look_at=LOOK_AT_SIZES)
@pytest.mark.parametrize("count", [-1, 1], ids=["one-element-less", "one-element-more"])
def test_refuses_typed_contents_with(client: Client, readers: Sequence[Model], count: int) -> None:
    """Typed contents with too few or too many elements for the shape are answered with an error."""
    typed = [model for model in readers if _has_typed_form(model)]
    model, place = _with_datatype(typed, lambda datatype: datatype in TYPED_FIELD, "a datatype that has typed contents")
    message = request(model, typed=True)
    contents = getattr(message.inputs[place].contents, TYPED_FIELD[model.inputs[place].datatype])
    changed = [*contents, contents[0]][: len(contents) + count]
    del contents[:]
    contents.extend(changed)
    refused(
        client, client.infer(message), f"a tensor with {len(changed)} elements and {len(changed) - count} by its shape"
    )


@requirement("serving.tensor.size", look_at=LOOK_AT_SIZES)
def test_refuses_no_contents(client: Client, readers: Sequence[Model]) -> None:
    """A request without any contents for a tensor that should have some is answered with an error."""
    message = request(readers[0])
    del message.raw_input_contents[:]
    refused(client, client.infer(message), "a tensor without contents")


@requirement("serving.tensor.both", look_at="the check that a request uses one form of contents only")
def test_refuses_both_forms(client: Client, readers: Sequence[Model]) -> None:
    """A request with raw and with typed contents for the same tensor is answered with an error."""
    model, place = _with_datatype(
        readers, lambda datatype: datatype in TYPED_FIELD, "a datatype that has typed contents"
    )
    message, spec = request(model), model.inputs[place]
    values = default_values(spec.datatype, elements(message.inputs[place].shape), place)
    getattr(message.inputs[place].contents, TYPED_FIELD[spec.datatype]).extend(values)
    refused(client, client.infer(message), "a request with both raw and typed contents")
