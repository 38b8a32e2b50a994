"""ModelInfer: the answer, its id and its name, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anyserve_conformance import wire
from anyserve_conformance.cases.kserve_core.tensors import (
    TYPED_FIELD,
    default_values,
    elements,
    identity_outputs,
    refused,
    request,
    same,
    shape_of,
    with_version,
)
from anyserve_conformance.client import Client
from anyserve_conformance.fixtures import Model
from anyserve_conformance.requirement import not_applicable, requirement

LOOK_AT = "how the request is decoded and the response is put together"

CONCURRENT = 16
NO_SUCH_MODEL = "anyserve-conformance-no-such-model"

NOT_A_MESSAGE = {
    "varint-without-end": b"\xff\xff\xff",
    "varint-of-eleven-bytes": wire.key(999, 0) + b"\x80" * 10 + b"\x01",
    "length-beyond-the-end": wire.key(999, 2) + b"\x05abc",
    "fixed64-cut-off": wire.key(999, 1) + b"abc",
    "wire-type-6": wire.key(999, 6) + b"\x00",
    "field-number-0": wire.key(0, 0) + b"\x01",
    "group-without-end": wire.key(999, 3),
    "end-of-a-group-without-group": wire.key(999, 4),
}


# The answer


@requirement("serving.infer.response")
def test_answers_raw_contents(client: Client, model: Model) -> None:
    """A request with raw contents is answered with OK, and the identity model's outputs are its inputs."""
    _is_answered(client, model, typed=False)


@requirement("serving.tensor.typed", look_at="the field of InferTensorContents for each datatype")
def test_answers_typed_contents(client: Client, model: Model) -> None:
    """A request with typed contents is answered with OK, and the identity model's outputs are its inputs."""
    if any(spec.datatype not in TYPED_FIELD for spec in model.inputs):
        not_applicable("an input of the model has a datatype that has no typed contents")
    _is_answered(client, model, typed=True)


def _is_answered(client: Client, model: Model, *, typed: bool) -> None:
    response = client.infer(request(model, typed=typed)).message
    outputs = identity_outputs(model, response)
    for place, spec in enumerate(model.inputs):
        shape, output = shape_of(spec), outputs[spec.name]
        sent = default_values(spec.datatype, elements(shape), place)
        assert output.datatype == spec.datatype, f"input {spec.name!r} came back as {output.datatype}"
        assert output.shape == shape, f"input {spec.name!r} of shape {shape} came back with {output.shape}"
        assert same(sent, output.values), f"input {spec.name!r} was {sent} and came back as {output.values}"


@requirement("serving.infer.response", look_at="how requests are decoded: protobuf skips fields that it does not know")
def test_answers_a_client_with_more_fields(client: Client, model: Model) -> None:
    """A field that the protocol does not have in ModelInferRequest changes nothing."""
    data = request(model).SerializeToString() + wire.field(1000, "of a later version")
    identity_outputs(model, client.infer(data).message)


@requirement("serving.infer.response")
def test_answers_for_a_version(client: Client, models: Sequence[Model]) -> None:
    """A request for a version of a model is answered with OK."""
    for model in with_version(models):
        identity_outputs(model, client.infer(request(model)).message)


# Its id and its name


@requirement("serving.infer.id")
def test_returns_the_id(client: Client, model: Model) -> None:
    """The response has the request's id."""
    _returns(client, model, "request-1")


@requirement("serving.infer.id", look_at="whether the id also goes where not all text may go, such as a header")
def test_returns_an_id_that_is_not_ascii(client: Client, model: Model) -> None:
    """The response has the request's id, also if that is not ASCII."""
    _returns(client, model, "Anfrage № 1 · 要求 · 🙂")


@requirement("serving.infer.id", look_at="whether the id also goes where not all text may go, such as a header")
def test_returns_an_id_of_ten_thousand_characters(client: Client, model: Model) -> None:
    """The response has the request's id, also if that has 10,000 characters."""
    _returns(client, model, "0123456789" * 1000)


@requirement("serving.infer.id", look_at="whether the id also goes where not all text may go, such as a header")
@given(text=st.text(min_size=1, max_size=100))
@example(text=" id ")
@example(text="line\r\nfeed")
@example(text="nul \0")
def test_returns_any_id(client: Client, model: Model, text: str) -> None:
    """The response has the request's id, whatever text that is."""
    _returns(client, model, text)


def _returns(client: Client, model: Model, text: str) -> None:
    received = client.infer(request(model, id=text)).message.id
    assert received == text, f"the id {text[:100]!r} came back as {received[:100]!r}"


@requirement("serving.infer.id", look_at="what calls under way at the same time share")
def test_returns_each_call_its_own(client: Client, model: Model) -> None:
    """Calls at the same time get each its own id and its own contents back."""
    spec = model.inputs[0]
    shape = shape_of(spec)
    contents = default_values(spec.datatype, elements(shape) + CONCURRENT)
    sent = [contents[number : number + elements(shape)] for number in range(CONCURRENT)]
    calls = [
        client.start_infer(request(model, {spec.name: values}, id=f"call-{number}"))
        for number, values in enumerate(sent)
    ]
    for number, (call, values) in enumerate(zip(calls, sent, strict=True)):
        response = call.answer().message
        assert response.id == f"call-{number}", f"the answer to call-{number} has the id {response.id!r}"
        received = identity_outputs(model, response)[spec.name].values
        assert same(values, received), f"call-{number} sent {values} and got {received}"


@requirement("serving.infer.name")
def test_returns_the_name(client: Client, model: Model) -> None:
    """The response has the model's name."""
    name = client.infer(request(model)).message.model_name
    assert name == model.name, f"the response of {model.name!r} has the model name {name!r}"


# What is refused


@requirement("serving.infer.unknown-model")
@pytest.mark.parametrize("prefix", ["", "{model}-"], ids=["another-name", "longer-name"])
def test_refuses_an_unknown_model(client: Client, model: Model, prefix: str) -> None:
    """ModelInfer for an unknown model is an error."""
    message = request(model)
    message.model_name = prefix.format(model=model.name) + NO_SUCH_MODEL
    message.model_version = ""
    refused(client, client.infer(message), f"ModelInfer for the unknown model {message.model_name!r}")


@requirement("serving.infer.not-ok", look_at="what is done when a request cannot be decoded")
@pytest.mark.parametrize("tail", NOT_A_MESSAGE.values(), ids=NOT_A_MESSAGE)
def test_refuses_what_is_no_message(client: Client, model: Model, tail: bytes) -> None:
    """Bytes that are no protobuf message, after a request that would do, are answered with an error."""
    answer = client.infer(request(model).SerializeToString() + tail)
    refused(client, answer, f"a request with {tail.hex(' ')} at its end, which is no protobuf message,")


@requirement("serving.infer.not-ok", look_at="what is done when a request cannot be decoded")
@given(data=st.data())
def test_refuses_a_request_that_is_cut_off(client: Client, model: Model, data: st.DataObject) -> None:
    """A request that ends within its last field is answered with an error."""
    message = request(model)
    whole = message.SerializeToString()
    left_out = data.draw(st.integers(1, len(message.raw_input_contents[-1])), label="bytes left out")
    refused(client, client.infer(whole[:-left_out]), f"a request without its last {left_out} bytes")
