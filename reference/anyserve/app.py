"""What a user's app declares: capabilities and their handlers. No sockets, no processes.

`AnyServe` collects declarations; the worker runtime reads them and runs the
handlers. The decorators return what they decorate, so handlers stay plain
functions and classes that can be called and tested directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from anyserve.batch_handlers import BatchHandler, ListHandler, StackedHandler
from anyserve.batches import Batch
from anyserve.capability import Capability
from anyserve.handlers import SEVERAL, Handler, tensor_handler
from anyserve.tensors import TensorSpec
from anyserve.wire import MAX_CONCURRENCY

__all__ = ["AnyServe", "Declaration", "Group", "Worker"]

DEFAULT_MAX_CONCURRENCY = 10
FUNCTIONS = "functions"
"""Name of the group of all handlers that are functions."""

Function = TypeVar("Function", bound=Callable[..., Any])
WorkerClass = TypeVar("WorkerClass", bound="type[Worker]")


class Worker:
    """Base of long-lived handlers: one instance per worker process.

    Override what you need; each may be `async def`. `handle(request[, context[, stream]])`
    takes the same forms as a handler function, with `batch=Batch(...)` those of several requests.
    """

    handle: Callable[..., Any]

    def on_start(self) -> Any:
        """Runs before the worker registers: load the model here. An exception ends the process."""

    def on_cleanup(self) -> Any:
        """Runs once when the worker stops, after the last exchange has ended; also when `on_start` has failed."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """One capability of an app, as a worker registers it."""

    capability: Capability
    model_name: str
    model_version: str
    handler: Handler | BatchHandler
    max_concurrency: int = DEFAULT_MAX_CONCURRENCY
    priority: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    platform: str = ""

    @property
    def key(self) -> str:
        """Two declarations of one app must not share it: a worker finds its handler by the capability."""
        return self.capability.encoded


@dataclass(frozen=True, slots=True)
class Group:
    """What one worker process serves: all functions of an app together, or one worker class."""

    name: str
    declarations: tuple[Declaration, ...]
    worker: type[Worker] | None = None
    gpus: int = 0


class AnyServe:
    """An app: a set of capabilities and the handlers that serve them.

    Example:
        app = AnyServe()

        @app.capability(type="echo")
        def echo(request: ModelInferRequest) -> ModelInferResponse: ...
    """

    def __init__(self) -> None:
        self._functions: list[Declaration] = []
        self._classes: list[Group] = []

    def groups(self) -> tuple[Group, ...]:
        """The groups of handlers that run in a process of their own each."""
        functions = (Group(FUNCTIONS, tuple(self._functions)),) if self._functions else ()
        return (*functions, *self._classes)

    def capability(
        self,
        *,
        stream: bool = False,
        max_concurrency: int | None = None,
        batch: Batch | None = None,
        priority: int = 0,
        inputs: Sequence[TensorSpec] = (),
        outputs: Sequence[TensorSpec] = (),
        platform: str = "",
        **capability: str,
    ) -> Callable[[Function], Function]:
        """Declares a function as the handler of a capability.

        The model name is the value of `model`, or else of `type`; the model version
        is the value of `version`.

        Args:
            stream: the handler takes `(request, context, stream)` and sends any number
                of replies. Generators stream by themselves.
            max_concurrency: exchanges at once in each worker process, 1 to 1024; by default 10, with `batch`
                as many as fill the next calls while others run.
            batch: the handler takes `(requests)` or `(requests, contexts)`, lists of the same length, and
                returns a list with a reply to each; an exception in it fails that request alone.
            priority: among equal matches, higher first.
            inputs: declared inputs, for ModelMetadata.
            outputs: declared outputs, for ModelMetadata.
            platform: free text for ModelMetadata.
            **capability: the capability's key = value pairs.

        Raises:
            ValueError: the capability is malformed, empty or declared already.
            TypeError: the handler's parameters do not fit.
        """
        options = _options(_places(max_concurrency, batch), priority, inputs, outputs, platform)

        def decorate(function: Function) -> Function:
            self._add(_declaration(capability, _handler(Handler.of, function, stream, batch), options))
            return function

        return decorate

    def model(
        self,
        name: str,
        version: str = "",
        *,
        stream: bool = False,
        max_concurrency: int | None = None,
        batch: Batch | None = None,
        **options: Any,
    ) -> Callable[[Function], Function]:
        """Declares a function as the handler of a model name and version.

        Its capability is `{type: name}`, and `{model: version}` if that is given, as for
        a worker that registers by name alone.

        Args:
            name: the model's name.
            version: the model's version.
            stream: as in `capability`.
            max_concurrency: as in `capability`.
            batch: as in `capability`.
            **options: `priority`, `inputs`, `outputs`, `platform`.

        Raises:
            ValueError: the name is malformed or declared already.
            TypeError: the handler's parameters do not fit, or an option is unknown.
        """
        checked = _options(_places(max_concurrency, batch), **options)
        capability = {"type": name, "model": version} if version else {"type": name}

        def decorate(function: Function) -> Function:
            declaration = _declaration(capability, _handler(Handler.of, function, stream, batch), checked)
            self._add(replace(declaration, model_name=name, model_version=version))
            return function

        return decorate

    def tensors(
        self,
        *,
        max_concurrency: int | None = None,
        batch: Batch | None = None,
        priority: int = 0,
        inputs: Sequence[TensorSpec] = (),
        outputs: Sequence[TensorSpec] = (),
        platform: str = "",
        **capability: str,
    ) -> Callable[[Function], Function]:
        """Declares a function from named numpy arrays to named numpy arrays.

        The function's parameters name the inputs (`context` gets the `Context`); it
        returns a mapping of outputs, or one array if one output is declared. Declared
        inputs and outputs are checked: name, datatype, shape.

        Args:
            max_concurrency: as in `capability`.
            batch: the arrays of several requests are put one behind the other along their first axis, which
                every input of a request has and of the same size; outputs have as many rows as the inputs
                had in all. Requests whose arrays differ in other sizes or in dtype go into separate calls.
            priority: as in `capability`.
            inputs: declared inputs; checked against each request.
            outputs: declared outputs; checked against each reply.
            platform: free text for ModelMetadata.
            **capability: the capability's key = value pairs.

        Raises:
            ValueError: the capability is malformed, empty or declared already.
            TypeError: the function's parameters do not fit the declared inputs.
        """
        options = _options(_places(max_concurrency, batch), priority, inputs, outputs, platform)

        def decorate(function: Function) -> Function:
            declared = tuple(inputs), tuple(outputs)
            handler = StackedHandler(function, *declared, batch) if batch else tensor_handler(function, *declared)
            self._add(_declaration(capability, handler, options))
            return function

        return decorate

    def worker(
        self,
        *,
        capabilities: Sequence[Mapping[str, str]],
        gpus: int = 0,
        stream: bool = False,
        max_concurrency: int | None = None,
        batch: Batch | None = None,
        priority: int = 0,
        inputs: Sequence[TensorSpec] = (),
        outputs: Sequence[TensorSpec] = (),
        platform: str = "",
    ) -> Callable[[WorkerClass], WorkerClass]:
        """Declares a `Worker` class that runs in processes of its own.

        Args:
            capabilities: what its `handle` serves.
            gpus: how many GPUs each process uses.
            stream: as in `capability`.
            max_concurrency: as in `capability`.
            batch: as in `capability`.
            priority: as in `capability`.
            inputs: as in `capability`.
            outputs: as in `capability`.
            platform: as in `capability`.

        Raises:
            ValueError: a capability is malformed, empty or declared already.
            TypeError: not a `Worker` class, or its `handle` does not fit.
        """
        options = _options(_places(max_concurrency, batch), priority, inputs, outputs, platform)
        if isinstance(capabilities, str | Mapping) or not all(isinstance(c, Mapping) for c in capabilities):
            raise TypeError("capabilities is a list of mappings: @app.worker(capabilities=[{...}])")
        if not capabilities:
            raise ValueError("a worker needs at least one capability: @app.worker(capabilities=[{...}])")
        if not isinstance(gpus, int) or gpus < 0:
            raise ValueError(f"gpus must be 0 or more, got {gpus!r}")

        def decorate(class_: WorkerClass) -> WorkerClass:
            if not (isinstance(class_, type) and issubclass(class_, Worker)):
                raise TypeError(f"@app.worker decorates subclasses of anyserve.Worker, got {class_!r}")
            if not callable(getattr(class_, "handle", None)):
                raise TypeError(f"{class_.__name__} needs a method handle(self, request[, context[, stream]])")
            handler = _handler(Handler.of_method, class_.handle, stream, batch)
            declarations = tuple(_declaration(c, handler, options) for c in capabilities)
            self._check_new(declarations)
            if class_.__name__ in (FUNCTIONS, *(group.name for group in self._classes)):
                raise ValueError(f"this app has a group {class_.__name__!r} already: give the class another name")
            self._classes.append(Group(class_.__name__, declarations, class_, gpus))
            return class_

        return decorate

    def _add(self, declaration: Declaration) -> None:
        self._check_new((declaration,))
        self._functions.append(declaration)

    def _check_new(self, declarations: Sequence[Declaration]) -> None:
        taken = {d.key for group in self.groups() for d in group.declarations}
        for declaration in declarations:
            if declaration.key in taken:
                raise ValueError(f"capability {declaration.capability} is declared twice in this app")
            taken.add(declaration.key)


def _places(max_concurrency: int | None, batch: Batch | None) -> int:
    """How many exchanges a worker takes at once: what is stated, if that makes sense, or the default."""
    if batch is not None and not isinstance(batch, Batch):
        raise TypeError(f"batch must be a Batch, got {batch!r}")
    if max_concurrency is None:
        return DEFAULT_MAX_CONCURRENCY if batch is None else batch.places
    if not isinstance(max_concurrency, int) or not 1 <= max_concurrency <= MAX_CONCURRENCY:
        raise ValueError(f"max_concurrency must be 1 to {MAX_CONCURRENCY}, got {max_concurrency!r}")
    if batch is not None and max_concurrency < batch.max_size:
        raise ValueError(
            f"max_concurrency={max_concurrency} can never fill a batch of max_size={batch.max_size}: "
            f"leave it out, or give it {batch.places}"
        )
    return max_concurrency


def _options(
    places: int,
    priority: int = 0,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    platform: str = "",
) -> dict[str, Any]:
    if not isinstance(priority, int) or not -(1 << 31) <= priority < 1 << 31:
        raise ValueError(f"priority must be a 32-bit integer, got {priority!r}")
    if not isinstance(platform, str):
        raise TypeError(f"platform must be a string, got {platform!r}")
    for name, specs in (("inputs", inputs), ("outputs", outputs)):
        if isinstance(specs, str) or not all(isinstance(spec, TensorSpec) for spec in specs):
            raise TypeError(f"{name} must be a list of TensorSpec, got {specs!r}")
    return {
        "max_concurrency": places,
        "priority": priority,
        "inputs": tuple(inputs),
        "outputs": tuple(outputs),
        "platform": platform,
    }


def _handler(
    form: Callable[..., Handler], function: Callable[..., Any], stream: bool, batch: Batch | None
) -> Handler | BatchHandler:
    """A function's handler, by `form`: `Handler.of`, or `Handler.of_method`."""
    if batch is None:
        return form(function, stream=stream)
    if stream:
        raise TypeError("batch=Batch(...) with stream=True: streamed replies cannot be batched")
    return ListHandler(form(function, takes=SEVERAL), batch)


def _declaration(items: Mapping[str, str], handler: Handler | BatchHandler, options: Mapping[str, Any]) -> Declaration:
    if not items:
        raise ValueError('a capability needs at least one key: @app.capability(type="echo")')
    capability = Capability(items)
    return Declaration(
        capability=capability,
        model_name=capability.get("model", capability.get("type", "")),
        model_version=capability.get("version", ""),
        handler=handler,
        **options,
    )
