"""`@app.tensors(..., batch=Batch(...))`: what is stacked and split, what is refused; served once on the way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from anyserve import Batch, Code, InferenceError, ModelInferRequest, ModelInferResponse, TensorSpec
from anyserve.batch_handlers import Entry, StackedHandler
from anyserve.control.agents import available_implementations
from anyserve.worker.loops import available_worker_io
from support.command import FACTS, Instance, serving
from support.processes import eventually

X = TensorSpec("x", "FP32", (-1, -1))
Y = TensorSpec("y", "FP32", (-1, -1))


def request(**arrays: Any) -> ModelInferRequest:
    message = ModelInferRequest()
    message.set_tensors(arrays)
    return message


def rows(count: int, width: int = 2, first: int = 0) -> np.ndarray:
    return np.arange(first, first + count * width, dtype=np.float32).reshape(count, width)


async def run(handler: StackedHandler, *requests: ModelInferRequest) -> list[Any]:
    """One call with these requests; each reply's arrays, or its exception."""
    called = asyncio.Event()
    entries: list[Entry] = []
    outcomes: list[Any] = []

    async def serve(entry: Entry) -> Any:
        entries.append(entry)
        place = len(entries) - 1
        if len(entries) == len(requests):
            assert len({entry.group for entry in entries}) == 1
            try:
                outcomes.extend(handler.outcomes(entries, handler.call(entries)))
            except Exception as error:
                outcomes.extend([error] * len(entries))
            called.set()
        await called.wait()
        if isinstance(outcomes[place], Exception):
            raise outcomes[place]
        return outcomes[place]

    one = handler.of_one(serve)
    replies = await asyncio.gather(*(one.call(request, None) for request in requests), return_exceptions=True)
    return [reply.tensors() if isinstance(reply, ModelInferResponse) else reply for reply in replies]


async def entry_of(handler: StackedHandler, **arrays: Any) -> Entry:
    """How a request with these arrays waits."""
    entries: list[Entry] = []

    async def serve(entry: Entry) -> Any:
        entries.append(entry)
        return {}

    await handler.of_one(serve).call(request(**arrays), None)
    return entries[0]


def stacked(function: Any, **options: Any) -> StackedHandler:
    return StackedHandler(
        function, options.get("inputs", ()), options.get("outputs", ()), options.get("limits", Batch(max_size=8))
    )


async def test_requests_are_stacked_and_their_rows_split() -> None:
    shapes = []

    def double(x: np.ndarray) -> np.ndarray:
        shapes.append(x.shape)
        return 2 * x

    handler = stacked(double, inputs=(X,), outputs=(Y,))
    given = [rows(2), rows(1, first=100), rows(3, first=200)]
    replies = await run(handler, *(request(x=x) for x in given))
    assert shapes == [(6, 2)]
    for x, reply in zip(given, replies, strict=True):
        np.testing.assert_array_equal(reply["y"], 2 * x)


async def test_arrays_are_read_only_however_many_requests_there_are() -> None:
    writable = []

    def note(x: np.ndarray) -> dict[str, np.ndarray]:
        writable.append(x.flags.writeable)
        return {"x": x}

    await run(stacked(note), request(x=rows(1)))
    await run(stacked(note), request(x=rows(1)), request(x=rows(1)))
    assert writable == [False, False]


async def test_several_inputs_and_outputs_optional_ones_and_bytes() -> None:
    def join(text: np.ndarray, n: np.ndarray, suffix: Any = None) -> dict[str, Any]:
        ends = [b""] * len(text) if suffix is None else suffix
        return {"text": [t + e for t, e in zip(text, ends, strict=True)], "n": n.sum(axis=1)}

    handler = stacked(join)
    first, second = await run(
        handler,
        request(text=[b"a\0", b"b"], n=np.int64([[1, 2], [3, 4]])),
        request(text=[b"c"], n=np.int64([[5, 6]])),
    )
    assert (first["text"].tolist(), first["n"].tolist()) == ([b"a\0", b"b"], [3, 7])
    assert (second["text"].tolist(), second["n"].tolist()) == ([b"c"], [11])
    (both,) = await run(handler, request(text=[b"a"], n=np.int64([[1]]), suffix=[b"!"]))
    assert both["text"].tolist() == [b"a!"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": rows(1)}, {"x": rows(1, width=3)}),
        ({"x": rows(1)}, {"x": rows(1).astype(np.float64)}),
        ({"x": rows(1)}, {"x": rows(1), "y": rows(1)}),
        ({"x": np.zeros(1)}, {"x": np.zeros((1, 1))}),
    ],
)
async def test_ragged_requests_are_of_different_groups(one: dict[str, Any], other: dict[str, Any]) -> None:
    handler = stacked(lambda x, y=None: {"x": x})
    assert (await entry_of(handler, **one)).group != (await entry_of(handler, **other)).group


async def test_order_of_inputs_and_number_of_rows_make_no_other_group() -> None:
    handler = stacked(lambda **arrays: arrays)
    one = await entry_of(handler, x=rows(1), y=rows(1))
    other = await entry_of(handler, y=rows(3), x=rows(3))
    assert one.group == other.group
    assert (one.size, other.size) == (1, 3)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.float32(1)}, r"input 'x' needs a first axis of at least one row, got shape \[\]"),
        ({"x": rows(0)}, r"input 'x' needs a first axis of at least one row, got shape \[0, 2\]"),
        ({"x": rows(2), "y": rows(3)}, "input 'y' has 3 rows, 'x' has 2"),
        ({"x": rows(9)}, "a request may have at most 8 rows, got 9"),
        ({}, "at least one input"),
    ],
)
async def test_requests_that_cannot_be_stacked(arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(InferenceError, match=words) as caught:
        await entry_of(stacked(lambda **arrays: arrays), **arrays)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_declared_inputs_are_checked_for_each_request() -> None:
    handler = stacked(lambda x: x, inputs=(X,), outputs=(Y,))
    with pytest.raises(InferenceError, match='input tensor "x": expected datatype FP32, got INT64'):
        await entry_of(handler, x=[[1]])


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (rows(2), "output 'y' needs 3 rows, as the inputs have; got 2"),
        (np.float32(1), "output 'y' needs 3 rows, as the inputs have; got 1"),
        ([[1.0]], "output 'y' needs 3 rows, as the inputs have; got 1"),
        ({"z": rows(3)}, r"declared outputs are \['y'\], the function returned \['z'\]"),
    ],
)
async def test_outputs_that_do_not_fit_fail_the_call(returned: Any, words: str) -> None:
    handler = stacked(lambda x: returned, inputs=(X,), outputs=(Y,))
    for error in await run(handler, request(x=rows(1)), request(x=rows(2))):
        assert isinstance(error, ValueError)
        assert re.fullmatch(words, str(error))


async def test_values_that_do_not_fit_fail_the_request_that_they_are_of() -> None:
    handler = stacked(lambda x: {"y": x.astype(np.int64)}, outputs=(TensorSpec("y", "INT8", (-1, -1)),))
    good, bad = await run(handler, request(x=rows(1)), request(x=rows(1, first=1000)))
    assert good["y"].tolist() == [[0, 1]]
    assert isinstance(bad, ValueError)
    assert "1000" in str(bad)


@pytest.mark.parametrize(
    ("function", "options", "error", "words"),
    [
        (lambda x: x, {"inputs": (TensorSpec("x", "FP32", (4, 2)),)}, ValueError, r"begins with -1; got \[4, 2\]"),
        (lambda x: x, {"outputs": (TensorSpec("y", "FP32", ()),)}, ValueError, r"begins with -1; got \[\]"),
        (lambda x, context: x, {}, TypeError, "take requests and contexts as lists"),
        (lambda *, y: y, {"inputs": (X,)}, TypeError, "declared inputs are"),
    ],
)
def test_functions_that_cannot_be_stacked(
    function: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        stacked(function, **options)


# Served

PAIRS = tuple(zip(available_implementations(), available_worker_io(), strict=True))
"""Agent and worker loop, both in Python or both native."""

APP = (
    FACTS
    + """
import asyncio

from anyserve import Batch

SPECS = {"inputs": [TensorSpec("x", "FP32", (-1, -1))], "outputs": [TensorSpec("y", "FP32", (-1, -1))]}


def doubled(x):
    facts.add(f"rows {len(x)}")
    return 2 * x


@app.tensors(type="double", batch=Batch(max_size=8, max_wait_ms=200), **SPECS)
def double(x):
    facts.add("began")
    facts.gate.wait(20)
    return doubled(x)


@app.tensors(type="async-double", batch=Batch(max_size=8, max_wait_ms=200), **SPECS)
async def async_double(x):
    facts.add("began")
    while not facts.gate.is_set():
        await asyncio.sleep(0.005)
    return doubled(x)
"""
)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def instance(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Instance]:
    agent, worker_io = request.param
    options = (f"--impl={agent}", f"--worker-io={worker_io}")
    with serving(APP, *options, directory=tmp_path_factory.mktemp("arrays")) as instance:
        yield instance


def counted(instance: Instance, sizes: Sequence[int]) -> dict[int, int]:
    return {size: instance.fact(f"rows {size}") for size in sizes}


@pytest.mark.parametrize("model", ["double", "async-double"])
def test_served_with_ragged_requests_between(instance: Instance, model: str) -> None:
    instance.open_gate(False)
    before = counted(instance, (1, 4, 6))
    with ThreadPoolExecutor(8) as threads:

        def ask(x: np.ndarray) -> Any:
            return threads.submit(instance.client.infer, model, {"x": x}, timeout=20.0)

        began = instance.fact("began")
        given = [rows(1)]
        asked = [ask(given[0])]
        instance.fact("began", began + 1)
        given += [rows(1, width=3), rows(2), rows(3, width=3), rows(4)]
        asked += [ask(x) for x in given[1:]]
        eventually(lambda: max(w.in_flight for w in instance.client.workers()) == 5, "five under way")
        instance.open_gate()
        for x, reply in zip(given, asked, strict=True):
            np.testing.assert_array_equal(reply.result().tensors()["y"], 2 * x)
    after = counted(instance, (1, 4, 6))
    assert {size: after[size] - before[size] for size in after} == {1: 1, 4: 1, 6: 1}


def test_served_refusal_is_the_clients(instance: Instance) -> None:
    with pytest.raises(InferenceError, match="at most 8 rows, got 9") as caught:
        instance.client.infer("double", {"x": rows(9)})
    assert caught.value.code is Code.INVALID_ARGUMENT
