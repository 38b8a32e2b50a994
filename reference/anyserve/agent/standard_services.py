"""The services that every gRPC server is expected to have: health and reflection.

grpcio's packages for them would pull in a protobuf of their own choice, over what
tritonclient or vLLM pin in the same environment (decision 0005), so they are here.
Rules: spec `serving.health.*` and `serving.reflection.*`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from anyserve import rpc
from anyserve._proto import health_pb2, reflection_pb2
from anyserve.agent.grpc_calls import Context, until
from anyserve.errors import Code

__all__ = ["Health", "Reflection", "StandardServices"]

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

Status = health_pb2.HealthCheckResponse.ServingStatus


class StandardServices:
    """Health and reflection of one server.

    Args:
        file: the descriptor of the file that defines the server's own services.
        services: their full names; the health of each is that of the server.
    """

    def __init__(self, file: FileDescriptor, services: Iterable[str]) -> None:
        names = tuple(services)
        self._health = Health(("", *names))
        self._reflection = Reflection(file, (*names, HEALTH.full_name, REFLECTION.full_name, REFLECTION_V1))

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the services to a server that has not started."""
        reflection: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self._reflection.server_reflection_info,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (
                rpc.handler(HEALTH, self._health.methods(), aio=True),
                *(
                    grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": reflection})
                    for name in (REFLECTION.full_name, REFLECTION_V1)
                ),
            )
        )

    def set_serving(self, serving: bool) -> None:
        """Sets the health of the server and of its services."""
        self._health.set_serving(serving)

    def close(self) -> None:
        """Ends the calls that would last as long as their clients like."""
        self._health.close()
        self._reflection.close()


class Health:
    """The RPCs of `grpc.health.v1.Health`.

    Args:
        services: names that are asked for; empty means the server as a whole.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._status: Status = health_pb2.HealthCheckResponse.NOT_SERVING
        self._closing = False
        self._changed = asyncio.Event()  # set, and replaced, with every change

    def methods(self) -> Mapping[str, Callable[..., Any]]:
        """RPC name -> its handler."""
        return {"Check": self.check, "List": self.list, "Watch": self.watch}

    def set_serving(self, serving: bool) -> None:
        """Changes the status and tells the watchers."""
        answer = health_pb2.HealthCheckResponse
        self._status = answer.SERVING if serving else answer.NOT_SERVING
        self._tell()

    def close(self) -> None:
        """Ends the calls that watch, after they have told the last status."""
        self._closing = True
        self._tell()

    async def check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service[:200]!r} is served here")
        return health_pb2.HealthCheckResponse(status=self._status)

    async def list(self, _request: health_pb2.HealthListRequest, _context: Context) -> health_pb2.HealthListResponse:
        answer = health_pb2.HealthCheckResponse(status=self._status)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, answer))

    async def watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        told: Status | None = None
        known = request.service in self._services
        while True:
            changed = self._changed
            status = self._status if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if self._closing and changed is self._changed:
                return
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Reflection:
    """The RPC of `grpc.reflection.v1.ServerReflection`, and of v1alpha.

    Args:
        file: the descriptor of the file that defines the server's own services.
        services: the full names of all services.
    """

    def __init__(self, file: FileDescriptor, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._closing = asyncio.Event()
        self._pool = DescriptorPool()
        self._pool.AddSerializedFile(file.serialized_pb)
        for each in _standard_files():
            self._pool.AddSerializedFile(each.SerializeToString())

    def close(self) -> None:
        """Ends the calls."""
        self._closing.set()

    async def server_reflection_info(self, requests: AsyncIterator[bytes], context: Context) -> None:
        async def serve() -> None:
            async for request in requests:
                try:
                    question = reflection_pb2.ServerReflectionRequest.FromString(request)
                except DecodeError:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no ServerReflectionRequest")
                await context.write(self.answer(question))

        await until(self._closing, serve())

    def answer(self, request: reflection_pb2.ServerReflectionRequest) -> reflection_pb2.ServerReflectionResponse:
        """The answer to one question; a failure is an answer too."""
        response = reflection_pb2.ServerReflectionResponse(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                response.list_services_response.service.extend(
                    reflection_pb2.ServiceResponse(name=name) for name in self._services
                )
            elif asked == "file_by_filename":
                self._add_file(response, self._pool.FindFileByName(request.file_by_filename))
            elif asked == "file_containing_symbol":
                self._add_file(response, self._file_of(request.file_containing_symbol))
            elif asked == "all_extension_numbers_of_type":
                # proto3 has no extensions: a type that is known has none.
                name = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
                response.all_extension_numbers_response.base_type_name = name
            elif asked == "file_containing_extension":
                raise KeyError(request.file_containing_extension.containing_type)
            else:
                _fail(response, Code.INVALID_ARGUMENT, "the request asks nothing: set one of message_request")
        except KeyError:
            _fail(response, Code.NOT_FOUND, "nothing of that name is served here")
        return response

    def _file_of(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # protobuf's C implementation does not find methods
            service, _, method = symbol.rpartition(".")
            if method not in self._pool.FindServiceByName(service).methods_by_name:
                raise
            return self._pool.FindFileContainingSymbol(service)

    @staticmethod
    def _add_file(response: reflection_pb2.ServerReflectionResponse, file: FileDescriptor) -> None:
        response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)


def _fail(response: reflection_pb2.ServerReflectionResponse, code: Code, message: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = message


def _standard_files() -> Iterable[FileDescriptorProto]:
    """The standard services' files under the names that gRPC gives them, reflection in both versions."""
    health = FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)
    health.name = "grpc/health/v1/health.proto"
    yield health
    reflection = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    reflection.name = "grpc/reflection/v1alpha/reflection.proto"
    yield reflection
    yield _as_v1(reflection)


def _as_v1(v1alpha: FileDescriptorProto) -> FileDescriptorProto:
    file = FileDescriptorProto()
    file.CopyFrom(v1alpha)
    old, new = f".{file.package}.", ".grpc.reflection.v1."

    def rename(message: DescriptorProto) -> None:
        for field in message.field:
            if field.type_name:  # setting it empty is not the same as leaving it out
                field.type_name = field.type_name.replace(old, new)
        for nested in message.nested_type:
            rename(nested)

    for message in file.message_type:
        rename(message)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(old, new)
        method.output_type = method.output_type.replace(old, new)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    return file
