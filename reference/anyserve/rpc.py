"""gRPC callables and handlers straight from a service's descriptor.

The build generates message modules alone, no `*_pb2_grpc`. This room tells grpc
the paths, arities and message classes that such a module would hold; it opens no
channel and starts no server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import wraps
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

__all__ = ["callables", "handler"]


def callables(
    channel: Any, service: ServiceDescriptor, *, single_request: Collection[str] = ()
) -> dict[str, Callable[..., Any]]:
    """Makes what a client calls: the service's method names with their multi-callables.

    Args:
        channel: a `grpc.Channel` or a `grpc.aio.Channel`.
        service: e.g. `grpc_predict_v2_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]`.
        single_request: names of methods that take a stream of requests, to be called
            with one request in its place; on the wire it is a stream of one.
    """
    return {
        method.name: getattr(channel, _arity(method, single_request))(
            f"/{service.full_name}/{method.name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        for method in service.methods
    }


def handler(
    service: ServiceDescriptor,
    implementations: Mapping[str, Callable[..., Any]],
    *,
    raw: Collection[str] = (),
    aio: bool = False,
) -> grpc.GenericRpcHandler:
    """Makes what a server serves. Methods without an implementation answer UNIMPLEMENTED.

    Args:
        service: the service's descriptor.
        implementations: method name -> function of (request or request iterator,
            context): on a `grpc.aio` server coroutine functions, which write streamed
            responses to the context, else what the server takes.
        raw: names of the methods that receive and return serialized messages, as bytes.
        aio: it is for a `grpc.aio` server. There a request that is not the method's message is
            INVALID_ARGUMENT; grpc's own answer would be an error of the server.

    Raises:
        ValueError: a name is not one of the service's methods.
    """
    unknown = {*implementations, *raw} - set(service.methods_by_name)
    if unknown:
        raise ValueError(f"{service.full_name} has no method {', '.join(sorted(unknown))}")
    handlers = {}
    for method in service.methods:
        make = getattr(grpc, f"{_arity(method)}_rpc_method_handler")
        behaviour = implementations.get(method.name) or _refusal(method, aio)
        if method.name in raw:
            handlers[method.name] = make(behaviour)
            continue
        reads = aio and not method.client_streaming and method.name in implementations
        handlers[method.name] = make(
            _reading(method, behaviour) if reads else behaviour,
            request_deserializer=None if reads else GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _reading(method: MethodDescriptor, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    read = GetMessageClass(method.input_type).FromString

    @wraps(behaviour)
    async def call(request: bytes, context: Any) -> Any:
        try:
            message = read(request)
        except DecodeError:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"the request of {method.name} is no {method.input_type.name}"
            )
        return await behaviour(message, context)

    return call


def _arity(method: MethodDescriptor, single_request: Collection[str] = ()) -> str:
    request = "stream" if method.client_streaming and method.name not in single_request else "unary"
    response = "stream" if method.server_streaming else "unary"
    return f"{request}_{response}"


def _refusal(method: MethodDescriptor, aio: bool) -> Callable[[Any, Any], Any]:
    message = f"{method.name} is not implemented by this server"

    def refuse(_request: Any, context: Any) -> None:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

    def refuse_stream(_request: Any, context: Any) -> Iterator[Any]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, message)
        yield

    # Not the plain ones on an aio server: it runs them in a thread, where abort() waits for the loop, and for ever if
    # the server stops meanwhile. A coroutine serves there behind streaming methods too.
    async def refuse_aio(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

    if aio:
        return refuse_aio
    return refuse_stream if method.server_streaming else refuse
