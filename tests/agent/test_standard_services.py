"""Health and reflection, by bare calls: what probes and grpcurl ask of any gRPC server."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from anyserve.errors import Code
from support.client import Client, failure
from support.instances import Instance
from support.waiting import within

SERVICE = "inference.GRPCInferenceService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health(client: Client, service: str = "", method: str = "Check") -> Any:
    kind = client.channel.unary_unary if method == "Check" else client.channel.unary_stream
    call = kind(
        f"/grpc.health.v1.Health/{method}",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return call(health_pb2.HealthCheckRequest(service=service))


async def check(client: Client, service: str = "") -> int:
    return int((await within(health(client, service))).status)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_check_of_a_ready_server(client: Client, service: str) -> None:
    assert await check(client, service) == SERVING


async def test_health_check_of_an_unknown_service_is_not_found(client: Client) -> None:
    assert (await failure(health(client, "no.such.Service"))).code is Code.NOT_FOUND


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_watch_tells_the_state_and_its_change_at_drain(
    instance: Instance, client: Client, service: str
) -> None:
    watch = health(client, service, "Watch")
    assert (await within(watch.read())).status == SERVING
    await within(instance.stop(grace=5))
    last = await within(watch.read())
    assert last is grpc.aio.EOF or last.status == NOT_SERVING


async def test_health_watch_of_an_unknown_service_says_so(client: Client) -> None:
    watch = health(client, "no.such.Service", "Watch")
    assert (await within(watch.read())).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture(params=["v1", "v1alpha"])
def package(request: pytest.FixtureRequest) -> str:
    """The reflection service's package; its messages are the same on the wire."""
    return f"grpc.reflection.{request.param}"


async def reflect(client: Client, package: str, **ask: Any) -> reflection_pb2.ServerReflectionResponse:
    call: Any = client.channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await within(call.write(reflection_pb2.ServerReflectionRequest(**ask)))
    answer: reflection_pb2.ServerReflectionResponse = await within(call.read())
    await within(call.done_writing())
    assert await within(call.read()) is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    return answer


def files(answer: reflection_pb2.ServerReflectionResponse) -> dict[str, FileDescriptorProto]:
    found = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
    return {file.name: file for file in found}


async def test_reflection_lists_the_services(client: Client, package: str) -> None:
    answer = await reflect(client, package, list_services="")
    assert {service.name for service in answer.list_services_response.service} == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_knows_the_file_of_every_service_that_it_lists(client: Client, package: str) -> None:
    answer = await reflect(client, package, list_services="")
    for name in [service.name for service in answer.list_services_response.service]:
        found = files(await reflect(client, package, file_containing_symbol=name)).values()
        assert name in {f"{file.package}.{service.name}" for file in found for service in file.service}


@pytest.mark.parametrize("symbol", ["inference.ModelInferRequest", f"{SERVICE}.ModelInfer"])
async def test_reflection_finds_the_file_of_a_symbol(client: Client, package: str, symbol: str) -> None:
    found = files(await reflect(client, package, file_containing_symbol=symbol))
    (file,) = (file for file in found.values() if file.package == "inference")
    assert {"ModelInferRequest", "ModelStreamInferResponse"} <= {message.name for message in file.message_type}
    (infer,) = (m for m in file.service[0].method if m.name == "ModelStreamInfer")
    assert infer.client_streaming
    assert infer.server_streaming
    assert files(await reflect(client, package, file_by_filename=file.name)) == found


async def test_reflection_of_an_unknown_symbol_is_not_found(client: Client, package: str) -> None:
    answer = await reflect(client, package, file_containing_symbol="no.such.Thing")
    assert answer.error_response.error_code == Code.NOT_FOUND
