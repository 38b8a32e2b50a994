"""Users' handlers that take several requests at once, in one shape. Pure of I/O: who runs them where, and which
requests go together, is not decided here.

One form takes a list of requests and returns a list of replies; the other takes named arrays, those of all requests
one behind the other along the first axis, and returns arrays of as many rows.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from anyserve.batches import Batch
from anyserve.errors import Code, InferenceError
from anyserve.handlers import Handler, Reply, TensorForm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anyserve.messages import ModelInferRequest
    from anyserve.tensors import TensorSpec

__all__ = ["BatchHandler", "Entry", "ListHandler", "Outcome", "Serve", "StackedHandler"]

Outcome = Reply | Exception
"""What came of one request of a call."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One request as a batch handler takes it.

    Attributes:
        content: the request, or its arrays.
        context: of its exchange.
        size: how much of `Batch.max_size` it takes.
        group: only requests of one group go into one call.
    """

    content: Any
    context: Any
    size: int = 1
    group: Hashable = None


Serve = Callable[[Entry], Awaitable[Reply]]
"""Has a request served as part of a batch."""


class BatchHandler(ABC):
    """A handler of several requests and how to call it.

    Args:
        limits: how requests are put together for it.
        asynchronous: it runs on the event loop; else in a thread.
    """

    stream = False

    def __init__(self, limits: Batch, *, asynchronous: bool) -> None:
        self.limits = limits
        self.asynchronous = asynchronous

    def bound_to(self, _instance: object) -> BatchHandler:
        """The same handler, a method bound to an instance of its class."""
        return self

    @abstractmethod
    def of_one(self, serve: Serve) -> Handler:
        """The handler of one request that has it served in a batch: what the rest of the worker sees."""

    @abstractmethod
    def call(self, entries: Sequence[Entry]) -> Any:
        """Calls the function; what it returns, or its coroutine."""

    @abstractmethod
    def outcomes(self, entries: Sequence[Entry], returned: Any) -> list[Outcome]:
        """What the function returned, by request.

        Raises:
            TypeError: it is of another type than a handler returns.
            ValueError: it does not fit the requests.
        """


class ListHandler(BatchHandler):
    """From a list of requests to a list of replies.

    Args:
        handler: takes `(requests[, contexts])`.
        limits: how requests are put together for it.

    Raises:
        TypeError: it yields its replies.
    """

    def __init__(self, handler: Handler, limits: Batch) -> None:
        if handler.generator:
            name = getattr(handler.function, "__qualname__", repr(handler.function))
            raise TypeError(f"{name} is a generator: a handler with batch=Batch(...) returns a list of replies")
        super().__init__(limits, asynchronous=handler.asynchronous)
        self._handler = handler

    def bound_to(self, instance: object) -> ListHandler:
        return ListHandler(self._handler.bound_to(instance), self.limits)

    def of_one(self, serve: Serve) -> Handler:
        async def handle(request: ModelInferRequest, context: Any) -> Reply:
            return await serve(Entry(request, context))

        return Handler.of(handle)

    def call(self, entries: Sequence[Entry]) -> Any:
        return self._handler.call([entry.content for entry in entries], [entry.context for entry in entries])

    def outcomes(self, entries: Sequence[Entry], returned: Any) -> list[Outcome]:
        if not isinstance(returned, list | tuple):
            raise TypeError(
                f"a handler with batch=Batch(...) returns a list with a reply to each request, got {_kind(returned)}"
            )
        if len(returned) != len(entries):
            raise ValueError(f"the handler got {len(entries)} requests and returned {len(returned)} replies")
        return list(returned)


class StackedHandler(BatchHandler):
    """From stacked arrays to stacked arrays.

    Raises:
        TypeError: the function's parameters do not fit.
        ValueError: a declared shape has no batch axis.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        limits: Batch,
    ) -> None:
        for spec in (*inputs, *outputs):
            if not spec.shape or spec.shape[0] != -1:
                raise ValueError(
                    f"tensor {spec.name!r} is stacked along its first axis, so its shape begins with -1; "
                    f"got {list(spec.shape)}"
                )
        self._form = TensorForm(function, inputs, outputs)
        if self._form.takes_context:
            raise TypeError(
                "stacked tensors have no context: take requests and contexts as lists, "
                "with @app.capability(..., batch=Batch(...))"
            )
        super().__init__(limits, asynchronous=inspect.iscoroutinefunction(function))

    def of_one(self, serve: Serve) -> Handler:
        async def function(context: Any, **arrays: NDArray[Any]) -> Reply:
            group = tuple((name, arrays[name].dtype, arrays[name].shape[1:]) for name in sorted(arrays))
            return await serve(Entry(arrays, context, _rows(arrays, self.limits.max_size), group))

        return self._form.with_function(function).handler()

    def call(self, entries: Sequence[Entry]) -> Any:
        names = entries[0].content
        return self._form.function(**{name: _stacked([entry.content[name] for entry in entries]) for name in names})

    def outcomes(self, entries: Sequence[Entry], returned: Any) -> list[Outcome]:
        ends = list(accumulate((entry.size for entry in entries), initial=0))
        outputs = {name: _checked(name, value, ends[-1]) for name, value in self._form.outputs(returned).items()}
        return [{name: rows[begin:end] for name, rows in outputs.items()} for begin, end in pairwise(ends)]


def _rows(arrays: Mapping[str, NDArray[Any]], most: int) -> int:
    """The size of the first axis, which all inputs of a request share."""
    rows = -1
    for name, array in arrays.items():
        if not array.ndim or not array.shape[0]:
            raise _refused(f"input {name!r} needs a first axis of at least one row, got shape {list(array.shape)}")
        if rows not in (-1, array.shape[0]):
            raise _refused(f"input {name!r} has {array.shape[0]} rows, {next(iter(arrays))!r} has {rows}")
        rows = array.shape[0]
    if rows < 0:
        raise _refused("a request needs at least one input, whose first axis is the batch")
    if rows > most:
        raise _refused(f"a request may have at most {most} rows, got {rows}")
    return rows


def _refused(message: str) -> InferenceError:
    return InferenceError(Code.INVALID_ARGUMENT, message)


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array, read-only as those of a single request are: whether there are others must not matter."""
    stacked = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    stacked.setflags(write=False)
    return stacked


def _checked(name: str, value: Any, rows: int) -> Any:
    """An output, if it has as many rows as the inputs."""
    stacked = value if isinstance(value, list | tuple) else np.atleast_1d(np.asarray(value))
    got = len(stacked)
    if got != rows:
        raise ValueError(f"output {name!r} needs {rows} rows, as the inputs have; got {got}")
    return stacked


def _kind(value: object) -> str:
    return "a generator" if isinstance(value, Iterator) else type(value).__name__
