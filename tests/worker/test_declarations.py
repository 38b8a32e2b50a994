"""What an app may declare and what is refused, at the line that declares it. No processes."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import pytest

from anyserve import AnyServe, Batch, Capability, TensorSpec, Worker
from anyserve.handlers import Handler


def only(app: AnyServe) -> Any:
    (group,) = app.groups()
    (declaration,) = group.declarations
    return declaration


def echo(request: Any) -> Any:
    return request


@pytest.mark.parametrize(
    ("capability", "name", "version"),
    [
        ({"type": "echo"}, "echo", ""),
        ({"type": "chat", "model": "llama-70b"}, "llama-70b", ""),
        ({"type": "chat", "model": "llama-70b", "version": "3"}, "llama-70b", "3"),
        ({"model": "llama-70b"}, "llama-70b", ""),
        ({"language": "de"}, "", ""),
    ],
)
def test_names_of_a_capability(capability: dict[str, str], name: str, version: str) -> None:
    app = AnyServe()
    assert app.capability(**capability)(echo) is echo  # the function stays what it was
    declaration = only(app)
    assert (declaration.model_name, declaration.model_version) == (name, version)
    assert declaration.capability == Capability(capability)


@pytest.mark.parametrize(
    ("arguments", "capability"), [(("add",), {"type": "add"}), (("add", "1"), {"type": "add", "model": "1"})]
)
def test_names_of_a_model(arguments: tuple[str, ...], capability: dict[str, str]) -> None:
    app = AnyServe()
    app.model(*arguments)(echo)
    declaration = only(app)
    assert (declaration.model_name, declaration.model_version) == (arguments[0], "".join(arguments[1:]))
    assert declaration.capability == Capability(capability)


def test_options_reach_the_declaration() -> None:
    app = AnyServe()
    spec = TensorSpec("x", "FP32", (2, -1))
    app.capability(type="echo", max_concurrency=3, priority=-1, inputs=[spec], outputs=(spec,), platform="cpu")(echo)
    declaration = only(app)
    assert (declaration.max_concurrency, declaration.priority, declaration.platform) == (3, -1, "cpu")
    assert declaration.inputs == declaration.outputs == (spec,)
    assert declaration.capability == Capability({"type": "echo"})


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        ({}, "needs at least one key"),
        ({"Type": "echo"}, "capability key 'Type' must match"),
        ({"_type": "echo"}, "capability key '_type' must match"),
        ({"k" * 65: "echo"}, "at most 64 characters"),
        ({"type": ""}, "1 to 256 characters"),
        ({"type": "e" * 257}, "1 to 256 characters"),
        ({"type": "two\nlines"}, "none of them control"),
        ({"type": 7}, "keys and values are strings"),
        ({"type": None}, "keys and values are strings"),
        ({f"k{n}": "v" for n in range(33)}, "at most 32 keys"),
    ],
)
def test_bad_capabilities(capability: dict[str, Any], words: str) -> None:
    app = AnyServe()
    with pytest.raises(ValueError, match=words):
        app.capability(**capability)(echo)
    with pytest.raises(ValueError, match=words):
        app.tensors(**capability)(lambda x: {"x": x})
    assert app.groups() == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_concurrency": 0}, "max_concurrency must be 1 to 1024, got 0"),
        ({"max_concurrency": 1025}, "max_concurrency must be 1 to 1024"),
        ({"max_concurrency": 1.5}, "max_concurrency must be 1 to 1024"),
        ({"priority": "high"}, "priority"),
        ({"priority": 1 << 31}, "priority"),
        ({"platform": 3}, "platform"),
        ({"inputs": ["x"]}, "inputs"),
        ({"outputs": [("x", "FP32")]}, "outputs"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    app = AnyServe()
    for declare in (
        lambda: app.capability(type="echo", **options)(echo),
        lambda: app.model("echo", **options)(echo),
        lambda: app.tensors(type="echo", **options)(lambda **arrays: arrays),
        lambda: app.worker(capabilities=[{"type": "echo"}], **options)(worker_class(echo)),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            declare()
    assert app.groups() == ()


def test_unknown_option_of_a_model() -> None:
    with pytest.raises(TypeError, match="language"):
        AnyServe().model("echo", language="de")


def worker_class(handle: Callable[..., Any]) -> type[Worker]:
    def method(self: Any, request: Any) -> Any:
        return handle(request)

    return type("SomeWorker", (Worker,), {"handle": method})


def no_parameters() -> None: ...
def four(request: Any, context: Any, stream: Any, more: Any) -> None: ...
def three(request: Any, context: Any, stream: Any) -> None: ...
def keyword_only(request: Any, *, wanted: Any) -> None: ...
def generator_of_three(request: Any, context: Any, stream: Any) -> Any:
    yield


@pytest.mark.parametrize(
    ("handler", "stream", "words"),
    [
        (no_parameters, False, r"no_parameters\(\).*: a handler takes \(request\[, context\]\)"),
        (four, False, r"a handler takes \(request\[, context\]\)"),
        (three, False, "declare it with stream=True"),
        (keyword_only, False, "a handler takes"),
        (generator_of_three, False, "a handler takes"),
        (no_parameters, True, r"a handler takes \(request, context, stream\)"),
        (echo, True, r"it must take \(request, context, stream\)"),
        (four, True, "a handler takes"),
    ],
)
def test_handlers_that_do_not_fit(handler: Callable[..., Any], stream: bool, words: str) -> None:
    app = AnyServe()
    with pytest.raises(TypeError, match=words):
        app.capability(type="echo", stream=stream)(handler)
    with pytest.raises(TypeError, match=words):
        app.model("echo", stream=stream)(handler)
    assert app.groups() == ()


@pytest.mark.parametrize("handler", [None, 7, "echo", [echo]])
def test_what_is_no_function(handler: Any) -> None:
    with pytest.raises(TypeError, match="callable"):
        AnyServe().capability(type="echo")(handler)


def with_defaults(request: Any, context: Any = None, factor: int = 2) -> Any:
    return request, context, factor


@pytest.mark.parametrize(
    ("handler", "stream", "passed"),
    [
        (echo, False, 1),
        (lambda request, context: (request, context), False, 2),
        (with_defaults, False, 2),
        (functools.partial(four, more=1), True, 3),
        (three, True, 3),
    ],
)
def test_how_many_arguments_are_passed(handler: Callable[..., Any], stream: bool, passed: int) -> None:
    form = Handler.of(handler, stream=stream)
    assert form.parameters == passed
    assert form.stream == stream


def with_a_setting(request: Any, temperature: float = 0.5) -> Any:
    return request, temperature


def test_second_parameter_with_a_default_that_is_no_context() -> None:
    handler = Handler.of(with_a_setting, stream=False)
    assert handler.call("request", "the context") == ("request", 0.5)  # type: ignore[arg-type]
    assert Handler.of(with_defaults, stream=False).call("r", "c") == ("r", "c", 2)  # type: ignore[arg-type]


async def coroutine(request: Any) -> Any:
    return request


async def async_generator(request: Any) -> Any:
    yield request


def generator(request: Any) -> Any:
    yield request


class CallsAsync:
    async def __call__(self, request: Any) -> Any:
        return request


@pytest.mark.parametrize(
    ("handler", "asynchronous", "streams"),
    [
        (echo, False, False),
        (coroutine, True, False),
        (generator, False, True),
        (async_generator, True, True),
        (functools.partial(coroutine), True, False),
        (CallsAsync(), True, False),
    ],
)
def test_form_of_a_handler(handler: Callable[..., Any], asynchronous: bool, streams: bool) -> None:
    form = Handler.of(handler, stream=False)
    assert (form.asynchronous, form.stream, form.generator) == (asynchronous, streams, streams)


# Batches


def several(requests: Any) -> Any:
    return requests


def several_and_contexts(requests: Any, contexts: Any = ()) -> Any:
    return requests, contexts


def declare_batch(app: AnyServe, handler: Callable[..., Any], **options: Any) -> None:
    """By each of the ways to declare a list handler; only the first that is refused is seen."""
    app.capability(type="batched", **options)(handler)
    app.model("batched", "1", **options)(handler)


@pytest.mark.parametrize("handler", [several, several_and_contexts, functools.partial(several), coroutine])
def test_batch_handlers(handler: Callable[..., Any]) -> None:
    app = AnyServe()
    declare_batch(app, handler, batch=Batch(max_size=8))
    (group,) = app.groups()
    assert {declaration.max_concurrency for declaration in group.declarations} == {16}
    assert not any(declaration.handler.stream for declaration in group.declarations)


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"batch": Batch()}, 64),
        ({"batch": Batch(max_size=600)}, 1024),
        ({"batch": Batch(max_size=8), "max_concurrency": 8}, 8),
        ({}, 10),
    ],
)
def test_places_of_a_declaration(options: dict[str, Any], places: int) -> None:
    app = AnyServe()
    app.tensors(type="batched", **options)(lambda x: {"x": x})
    assert only(app).max_concurrency == places


@pytest.mark.parametrize(
    ("handler", "options", "words"),
    [
        (several, {"batch": 32}, "batch must be a Batch, got 32"),
        (several, {"batch": Batch(max_size=32), "max_concurrency": 31}, "can never fill a batch of max_size=32"),
        (three, {"batch": Batch(), "stream": True}, "streamed replies cannot be batched"),
        (generator, {"batch": Batch()}, "generator is a generator: .* returns a list of replies"),
        (async_generator, {"batch": Batch()}, "returns a list of replies"),
        (no_parameters, {"batch": Batch()}, r"a handler takes \(requests\[, contexts\]\)"),
        (three, {"batch": Batch()}, r"a handler takes \(requests\[, contexts\]\)$"),
    ],
)
def test_what_cannot_be_batched(handler: Callable[..., Any], options: dict[str, Any], words: str) -> None:
    app = AnyServe()
    with pytest.raises((TypeError, ValueError), match=words):
        declare_batch(app, handler, **options)
    with pytest.raises((TypeError, ValueError), match=words):
        app.worker(capabilities=[{"type": "batched"}], **options)(method_class(handler))
    assert app.groups() == ()


def method_class(handle: Callable[..., Any]) -> type[Worker]:
    """A worker class whose method has the form of a function."""
    source = inspect.signature(handle)
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *source.parameters.values()]
    handle = types.FunctionType(handle.__code__, handle.__globals__, handle.__name__)
    handle.__signature__ = source.replace(parameters=parameters)  # type: ignore[attr-defined]
    return type("Batched", (Worker,), {"handle": handle})


def test_stacked_tensors_without_a_batch_axis_are_refused() -> None:
    app = AnyServe()
    with pytest.raises(ValueError, match="its shape begins with -1"):
        app.tensors(type="batched", batch=Batch(), inputs=[TensorSpec("x", "FP32", (2,))])(lambda x: {"x": x})
    assert app.groups() == ()
