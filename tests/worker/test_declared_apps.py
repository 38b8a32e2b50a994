"""Apps as a whole: groups, duplicates, worker classes, and the decorator for named arrays. No processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from anyserve import AnyServe, Capability, Code, InferenceError, ModelInferRequest, TensorSpec, Worker

A, B, SUM = TensorSpec("a", "FP32", (2,)), TensorSpec("b", "FP32", (2,)), TensorSpec("sum", "FP32", (2,))


class Echo(Worker):
    def handle(self, request: Any) -> Any:
        return request


def echo(request: Any) -> Any:
    return request


def test_groups_are_the_functions_and_each_class() -> None:
    app = AnyServe()
    app.capability(type="one")(echo)
    app.worker(capabilities=[{"type": "two"}, {"type": "three", "model": "m"}], gpus=2)(Echo)
    app.model("four")(echo)
    functions, class_ = app.groups()
    assert [d.model_name for d in functions.declarations] == ["one", "four"]
    assert (functions.worker, functions.gpus) == (None, 0)
    assert [d.model_name for d in class_.declarations] == ["two", "m"]
    assert (class_.name, class_.worker, class_.gpus) == ("Echo", Echo, 2)


def test_worker_decorator_returns_the_class() -> None:
    assert AnyServe().worker(capabilities=[{"type": "echo"}])(Echo) is Echo


@pytest.mark.parametrize("again", ["capability", "tensors", "worker", "model"])
def test_declared_twice(again: str) -> None:
    app = AnyServe()
    app.capability(type="echo")(echo)
    declare: dict[str, Callable[[], Any]] = {
        "capability": lambda: app.capability(type="echo")(lambda request: request),
        "tensors": lambda: app.tensors(type="echo")(lambda x: {"x": x}),
        "worker": lambda: app.worker(capabilities=[{"type": "other"}, {"type": "echo"}])(Echo),
        "model": lambda: app.model("echo")(lambda request: request),
    }
    with pytest.raises(ValueError, match=r"capability \{type: echo\} is declared twice"):
        declare[again]()
    assert len(app.groups()) == 1


def test_declared_twice_in_one_class() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        AnyServe().worker(capabilities=[{"type": "echo"}, {"type": "echo"}])(Echo)


def test_one_capability_under_two_names() -> None:
    # A worker finds its handler by the capability alone: one of the two would never be called.
    app = AnyServe()
    app.model("add", version="1")(echo)
    with pytest.raises(ValueError, match="declared twice"):
        app.capability(type="add", model="1")(echo)


@pytest.mark.parametrize("first", ["Same", "functions"])
def test_groups_have_names_of_their_own(first: str) -> None:
    """A worker process finds its group by the name: two classes of one name are refused, or named apart."""
    app = AnyServe()
    app.capability(type="zero")(echo)
    with suppress(ValueError):
        app.worker(capabilities=[{"type": "one"}])(type(first, (Echo,), {}))
        app.worker(capabilities=[{"type": "two"}])(type("Same", (Echo,), {}))
    assert len({group.name for group in app.groups()}) == len(app.groups())


def test_same_model_under_other_capabilities() -> None:
    app = AnyServe()
    app.capability(type="chat", model="m")(echo)
    app.capability(type="embed", model="m")(echo)
    assert [d.model_name for d in app.groups()[0].declarations] == ["m", "m"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capabilities": []}, "at least one capability"),
        ({"capabilities": [{}]}, "needs at least one key"),
        ({"capabilities": [{"type": 3}]}, "strings"),
        ({"capabilities": [{"type": "x"}], "gpus": -1}, "gpus must be 0 or more, got -1"),
        ({"capabilities": [{"type": "x"}], "gpus": "two"}, "gpus must be 0 or more"),
        ({"capabilities": [{"type": "x"}], "gpus": 0.5}, "gpus must be 0 or more"),
        ({"capabilities": [{"type": "x"}], "max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_bad_worker_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AnyServe().worker(**options)(Echo)


def test_capabilities_that_are_one_mapping_instead_of_a_list() -> None:
    with pytest.raises((TypeError, ValueError), match="capabilities"):
        AnyServe().worker(capabilities={"type": "x"})(Echo)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("class_", "words"),
    [
        (type("NotAWorker", (), {"handle": lambda self, request: request}), "decorates subclasses of anyserve.Worker"),
        (echo, "decorates subclasses of anyserve.Worker"),
        (Echo(), "decorates subclasses of anyserve.Worker"),
        (type("NoHandle", (Worker,), {}), "NoHandle needs a method handle"),
        (type("NoSelf", (Worker,), {"handle": lambda: None}), "first parameter is self"),
        (type("TooMany", (Worker,), {"handle": lambda self, a, b, c, d: None}), "a handler takes"),
    ],
)
def test_classes_that_do_not_fit(class_: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        AnyServe().worker(capabilities=[{"type": "x"}])(class_)


def test_capability_is_a_mapping_that_compares_with_dicts() -> None:
    capability = Capability({"type": "chat", "model": "m"})
    assert capability == {"model": "m", "type": "chat"}
    assert dict(capability) == {"type": "chat", "model": "m"}
    assert hash(capability) == hash(Capability({"model": "m", "type": "chat"}))
    with pytest.raises(TypeError):
        capability["type"] = "x"  # type: ignore[index]


# Named arrays.


def tensors(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Declares a function of arrays and returns the handler that was made of it."""
    app = AnyServe()
    app.tensors(type="it", **options)(function)
    handler = app.groups()[0].declarations[0].handler

    def call(context: Any = None, **arrays: Any) -> dict[str, Any]:
        request = ModelInferRequest()
        request.set_tensors(arrays)
        return dict(handler.call(request, context).tensors())

    return call


def add(a: Any, b: Any) -> Any:
    return {"sum": a + b}


def test_arrays_in_and_out() -> None:
    declared = tensors(add, inputs=[A, B], outputs=[SUM])
    free = tensors(add)
    for call in (declared, free):
        out = call(a=np.float32([1, 2]), b=np.float32([3, 4]))
        assert out["sum"].dtype == np.float32
        assert out["sum"].tolist() == [4, 6]


def test_one_array_for_one_declared_output() -> None:
    out = tensors(lambda a, b: a * b, inputs=[A, B], outputs=[SUM])(a=np.float32([1, 2]), b=np.float32([3, 4]))
    assert out["sum"].tolist() == [3, 8]


def test_context_by_name_defaults_and_rest() -> None:
    def function(a: Any, context: Any, scale: Any = 2, **rest: Any) -> Any:
        return {"out": a * scale, "names": sorted(rest), "context": [context]}

    out = tensors(function)(context="the context", a=[1, 2], more=[1])
    assert out["out"].tolist() == [2, 4]
    assert out["names"].tolist() == [b"more"]
    assert out["context"].tolist() == [b"the context"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.float32([1, 2])}, "input 'b' is missing"),
        ({"a": np.float32([1, 2]), "b": np.float32([1, 2]), "c": [1]}, "input 'c' is not known"),
        ({"a": np.float64([1, 2]), "b": np.float32([1, 2])}, r'"a".*FP32.*FP64'),
        ({"a": np.float32([1, 2, 3]), "b": np.float32([1, 2])}, r'"a".*\[2\].*\[3\]'),
        ({"a": np.float32([[1, 2]]), "b": np.float32([1, 2])}, r'"a"'),
    ],
)
def test_inputs_that_do_not_fit_are_the_clients_fault(arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(InferenceError, match=words) as caught:
        tensors(add, inputs=[A, B], outputs=[SUM])(**arrays)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ({"total": np.float32([1, 2])}, r"declared outputs are \['sum'\], the function returned \['total'\]"),
        ({}, "declared outputs"),
        ({"sum": np.float32([1, 2, 3])}, '"sum"'),
    ],
)
def test_outputs_that_do_not_fit_are_the_workers_fault(returned: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tensors(lambda a, b: returned, inputs=[A, B], outputs=[SUM])(a=np.float32([1, 2]), b=np.float32([3, 4]))


def test_bare_array_without_one_declared_output() -> None:
    with pytest.raises(TypeError, match="returns a mapping of arrays"):
        tensors(lambda a: a)(a=[1])


def by_position(a: Any, /) -> None: ...
def any_number(*arrays: Any) -> None: ...
def yields(a: Any) -> Any:
    yield a


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (add, {"inputs": [A]}, r"takes \['a', 'b'\], but its declared inputs are \['a'\]"),
        (add, {"inputs": [A, B, TensorSpec("c", "FP32")]}, "but its declared inputs are"),
        (by_position, {}, "by name"),
        (any_number, {}, "by name"),
        (yields, {}, "is a generator"),
    ],
)
def test_functions_that_do_not_fit(function: Callable[..., Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        AnyServe().tensors(type="it", **options)(function)
