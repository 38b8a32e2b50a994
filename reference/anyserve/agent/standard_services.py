"""The services that every gRPC server is expected to have: health and reflection.

Both are grpcio's own libraries; here they learn to end with the server, and
reflection to speak v1, whose messages are v1alpha's under another package name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from anyserve.agent.grpc_calls import Context, until

__all__ = ["StandardServices"]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

HEALTH = "grpc.health.v1.Health"
REFLECTION_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class StandardServices:
    """Health and reflection of one server.

    Args:
        file: the descriptor of the file that defines the server's own services.
        services: their full names; the health of each is that of the server.
    """

    def __init__(self, file: FileDescriptor, services: Iterable[str]) -> None:
        self._closing = asyncio.Event()
        self._services = tuple(services)
        self._health = _Health(self._closing)
        names = (*self._services, HEALTH, REFLECTION_V1ALPHA, REFLECTION_V1)
        self._reflection = ReflectionServicer(names, pool=_MethodsToo(_pool(file)))

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the services to a server that has not started."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        handler = grpc.stream_stream_rpc_method_handler(
            self._server_reflection_info,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
                for name in (REFLECTION_V1ALPHA, REFLECTION_V1)
            )
        )

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the server and of its services."""
        for name in ("", *self._services):
            await self._health.set(name, SERVING if serving else NOT_SERVING)

    def close(self) -> None:
        """Ends the calls that would last as long as their clients like."""
        self._closing.set()

    async def _server_reflection_info(self, requests: AsyncIterator[Any], context: Context) -> None:
        async def serve() -> None:
            responses: Any = self._reflection.ServerReflectionInfo(requests, context)
            async for response in responses:
                await context.write(response)

        await until(self._closing, serve())


class _Health(HealthServicer):
    """grpcio's health service, whose watchers end when the server closes."""

    def __init__(self, closing: asyncio.Event) -> None:
        super().__init__()
        self._closing = closing

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802 (the name of the RPC)
        await until(self._closing, super().Watch(request, context))


class _MethodsToo:
    """A pool that finds the file of a method as well, which protobuf's C implementation does not."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 (the name in DescriptorPool)
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            if method not in self._pool.FindServiceByName(service).methods_by_name:
                raise
            return self._pool.FindFileContainingSymbol(service)


def _pool(file: FileDescriptor) -> DescriptorPool:
    """A pool with the files of all services, ours and the standard ones."""
    pool = DescriptorPool()
    pool.AddSerializedFile(file.serialized_pb)
    pool.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_reflection_v1().SerializeToString())
    return pool


def _reflection_v1() -> FileDescriptorProto:
    """grpc/reflection/v1/reflection.proto, which is v1alpha's but for the package."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
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
