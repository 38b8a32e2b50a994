"""Users' handlers, of whatever form, in one shape. Pure of I/O: who runs them where is not decided here.

A handler may be a function, a generator, `async def` or an async generator; it takes
`(request)`, `(request, context)` or `(request, context, stream)`. Those that take several requests at once
are in `batch_handlers.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from anyserve import tensors
from anyserve.errors import Code, InferenceError
from anyserve.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

if TYPE_CHECKING:
    from anyserve.tensors import TensorSpec

__all__ = ["SEVERAL", "Handler", "Reply", "TensorForm", "as_response", "as_stream_response", "tensor_handler"]

Reply = ModelInferResponse | ModelStreamInferResponse | Mapping[str, np.ndarray]
"""What a handler may return (but for ModelStreamInferResponse), send or yield."""

# What a handler takes, as messages name it.
ONE = "(request[, context])"
SEVERAL = "(requests[, contexts])"
STREAM = "(request, context, stream)"

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler and how to call it."""

    function: Callable[..., Any]
    parameters: int
    """How many of (request, context, stream) it takes."""
    stream: bool
    """Its replies are streamed."""
    asynchronous: bool
    """It runs on the event loop; else in a thread."""
    generator: bool
    """It yields its replies."""
    form: TensorForm | None = None
    """The named arrays that it takes and returns, where it does: it can be called with them without a message."""

    @classmethod
    def of(cls, function: Callable[..., Any], *, stream: bool = False, takes: str = ONE) -> Handler:
        """Reads a function's form; it takes one request, or `SEVERAL`.

        Raises:
            TypeError: its parameters do not fit; the message says what would.
        """
        return cls._of(function, inspect.signature(function), stream, takes)

    @classmethod
    def of_method(cls, function: Callable[..., Any], *, stream: bool = False, takes: str = ONE) -> Handler:
        """Reads the form of a method that is not bound yet; see `of`."""
        signature = inspect.signature(function)
        if not signature.parameters:
            raise TypeError(f"{function.__qualname__} is a method: its first parameter is self")
        parameters = list(signature.parameters.values())[1:]
        return cls._of(function, signature.replace(parameters=parameters), stream, takes)

    @classmethod
    def _of(cls, function: Callable[..., Any], signature: inspect.Signature, stream: bool, takes: str) -> Handler:
        name = getattr(function, "__qualname__", repr(function))
        # Of an instance with `__call__`, that method says what kind it is.
        plain = inspect.isroutine(function) or isinstance(function, partial)
        code: Any = function if plain else type(function).__call__
        generator = inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)
        takes_stream = stream and not generator
        count = _positional(name, signature, STREAM if takes_stream else takes)
        if takes_stream and count != 3:
            raise TypeError(f"{name} has stream=True: it must take (request, context, stream), or be a generator")
        return cls(
            function=function,
            parameters=count,
            stream=stream or generator,
            asynchronous=inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code),
            generator=generator,
        )

    def bound_to(self, instance: object) -> Handler:
        """The same handler with its function bound to an instance of its class."""
        return replace(self, function=self.function.__get__(instance))

    def call(self, request: Any, context: Any, stream: Any = None) -> Any:
        """Calls it with as many arguments as it takes; those of several requests are lists."""
        return self.function(*(request, context, stream)[: self.parameters])


def _positional(name: str, signature: inspect.Signature, form: str) -> int:
    """How many of (request, context, stream) to pass; parameters with defaults beyond those keep them."""
    most = 3 if form == STREAM else 2
    parameters = signature.parameters.values()
    count = 0
    for parameter in parameters:
        if parameter.kind not in POSITIONAL or _setting(parameter):
            break
        count += 1
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in (*POSITIONAL, p.KEYWORD_ONLY)]
    keyword_only = [p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    if count == 0 or len(needed) > most or keyword_only:
        hint = "; to send several replies, declare it with stream=True" if form == ONE and len(needed) == 3 else ""
        raise TypeError(f"{name}{signature}: a handler takes {form}{hint}")
    return min(count, most)


def _setting(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is the function's own, by its default: `temperature=0.5`, but not `context=None`."""
    ours = parameter.name in ("request", "requests", "context", "contexts", "stream")
    return not ours and parameter.default is not parameter.empty and parameter.default is not None


def as_response(reply: Any) -> ModelInferResponse:
    """What a unary handler returned, as a message.

    Raises:
        TypeError: it is neither a ModelInferResponse nor a mapping of arrays.
    """
    if isinstance(reply, ModelInferResponse):
        return reply
    if isinstance(reply, Mapping):
        response = ModelInferResponse()
        tensors.encode(response, reply)
        return response
    raise TypeError(f"a handler returns a ModelInferResponse or a mapping of arrays, got {type(reply).__name__}")


def as_stream_response(reply: Any) -> ModelStreamInferResponse:
    """What a streaming handler sent or yielded, as a message.

    Raises:
        TypeError: it is none of the messages of a reply and no mapping of arrays.
    """
    if isinstance(reply, ModelStreamInferResponse):
        return reply
    if not isinstance(reply, ModelInferResponse | Mapping):
        raise TypeError(
            "a streamed reply is a ModelStreamInferResponse, a ModelInferResponse or a mapping of arrays, "
            f"got {type(reply).__name__}"
        )
    return ModelStreamInferResponse(infer_response=as_response(reply))


def tensor_handler(
    function: Callable[..., Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Handler:
    """A handler from a function that takes and returns named arrays.

    Raises:
        TypeError: the function's parameters do not fit the declared inputs.
    """
    return TensorForm(function, inputs, outputs).handler()


class TensorForm:
    """How a function of named arrays is called, and what it may return.

    Args:
        function: takes its inputs by their names, and the `Context` as `context` if it wants it.
        inputs: what is declared of them.
        outputs: what is declared of the outputs.

    Raises:
        TypeError: the function's parameters do not fit the declared inputs.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        name = getattr(function, "__qualname__", repr(function))
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{name} is a generator: declare it with @app.capability, and yield mappings of arrays")
        parameters = inspect.signature(function).parameters
        self.function = function
        self.takes_context = "context" in parameters
        self._rest = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        named = {n: p for n, p in parameters.items() if n != "context" and p.kind not in (p.VAR_KEYWORD,)}
        if any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) for p in named.values()):
            raise TypeError(f"{name}: inputs are passed by name, so its parameters must take them by name")
        self._names = frozenset(named)
        self._required = frozenset(n for n, p in named.items() if p.default is p.empty)
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = {spec.name: spec for spec in outputs}
        self.datatypes = {name: spec.datatype for name, spec in self._outputs.items()} or None
        """Of the outputs, where they are declared."""
        if inputs and not self._rest and self._names != self._inputs.keys():
            raise TypeError(f"{name} takes {sorted(self._names)}, but its declared inputs are {sorted(self._inputs)}")

    def handler(self) -> Handler:
        """A handler that calls the function with a request's arrays."""
        if inspect.iscoroutinefunction(self.function):

            async def handle_async(request: ModelInferRequest, context: Any) -> ModelInferResponse:
                return self.response(self.outputs(await self.function(**self.arguments_of(request, context))))

            return replace(Handler.of(handle_async), form=self)

        def handle(request: ModelInferRequest, context: Any) -> ModelInferResponse:
            return self.response(self.outputs(self.function(**self.arguments_of(request, context))))

        return replace(Handler.of(handle), form=self)

    def with_function(self, function: Callable[..., Any]) -> TensorForm:
        """The same inputs and outputs with another function, which takes the context whether this one did or not."""
        form = copy(self)
        form.function = function
        form.takes_context = True
        return form

    def arguments_of(self, request: ModelInferRequest, context: Any) -> dict[str, Any]:
        """The function's arguments, of a message; see `arguments`."""
        arrays: dict[str, Any] = request.tensors()
        return self.arguments(arrays, {tensor.name: tensor.datatype for tensor in request.inputs}, context)

    def arguments(self, arrays: dict[str, Any], datatypes: Mapping[str, str], context: Any) -> dict[str, Any]:
        """The function's arguments.

        Args:
            arrays: a request's tensors by name; the context joins them.
            datatypes: theirs.
            context: the exchange's.

        Raises:
            InferenceError: INVALID_ARGUMENT, they are not the function's inputs, or not as declared.
        """
        if not (arrays.keys() >= self._required):
            missing = min(self._required - arrays.keys())
            raise InferenceError(Code.INVALID_ARGUMENT, f"input {missing!r} is missing; got {sorted(arrays)}")
        if not self._rest and not (arrays.keys() <= self._names):
            unknown = min(arrays.keys() - self._names)
            raise InferenceError(
                Code.INVALID_ARGUMENT, f"input {unknown!r} is not known; inputs are {sorted(self._names)}"
            )
        if self._inputs:
            self._check_inputs(arrays, datatypes)
        if self.takes_context:
            arrays["context"] = context
        return arrays

    def _check_inputs(self, arrays: Mapping[str, Any], datatypes: Mapping[str, str]) -> None:
        for name, array in arrays.items():
            if name in self._inputs:
                try:
                    tensors.check(self._inputs[name], array, datatypes[name])
                except ValueError as error:
                    raise InferenceError(Code.INVALID_ARGUMENT, f"input {error}") from error

    def outputs(self, returned: Any) -> dict[str, Any]:
        """What the function returned, by name, in a dictionary that nobody else has.

        Raises:
            TypeError: it is no mapping, nor the one output that is declared.
            ValueError: the names are not those that are declared.
        """
        if isinstance(returned, Mapping):
            outputs = dict(returned)
        else:
            if len(self._outputs) != 1:
                raise TypeError(
                    "the function returns a mapping of arrays, or one array if one output is declared; "
                    f"got {type(returned).__name__}"
                )
            outputs = {next(iter(self._outputs)): returned}
        if self._outputs and outputs.keys() != self._outputs.keys():
            raise ValueError(f"declared outputs are {sorted(self._outputs)}, the function returned {sorted(outputs)}")
        return outputs

    def response(self, outputs: Mapping[str, Any]) -> ModelInferResponse:
        """The reply with these outputs.

        Raises:
            TypeError: KServe has no datatype for one of them.
            ValueError: one is not as declared.
        """
        response = ModelInferResponse()
        tensors.encode(response, outputs, datatypes=self.datatypes)
        self.check(outputs)
        return response

    def check(self, outputs: Mapping[str, Any]) -> None:
        """Checks outputs against what is declared.

        Raises:
            ValueError: one is not as declared.
        """
        for name, spec in self._outputs.items():
            tensors.check(spec, np.asarray(outputs[name]), spec.datatype)
