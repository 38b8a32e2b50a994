"""What needs no protocol file: grpcio-reflection's client finds the service and calls it; grpcio-health-checking's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

LIMIT = 20.0  # seconds that anything here may take
SERVICE = "inference.GRPCInferenceService"
SERVICES = {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


class Reflected:
    """A client made of what the server says of itself, as grpcurl is."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.service = DescriptorPool(self.database).FindServiceByName(SERVICE)

    def call(self, rpc: str, request: dict[str, Any]) -> dict[str, Any]:
        """Calls a unary RPC with a request as grpcurl takes it."""
        method = self.service.methods_by_name[rpc]
        call = self._channel.unary_unary(
            f"/{SERVICE}/{rpc}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        message = ParseDict(request, GetMessageClass(method.input_type)())
        return MessageToDict(call(message, timeout=LIMIT), preserving_proto_field_name=True)

    def stream(self, rpc: str, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        """Calls a bidirectional RPC."""
        method = self.service.methods_by_name[rpc]
        call = self._channel.stream_stream(
            f"/{SERVICE}/{rpc}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        messages = [ParseDict(request, GetMessageClass(method.input_type)()) for request in requests]
        replies = call(iter(messages), timeout=LIMIT)
        return [MessageToDict(reply, preserving_proto_field_name=True) for reply in replies]


@pytest.fixture
def reflected(channel: grpc.Channel) -> Reflected:
    return Reflected(channel)


def test_reflection_lists_the_services(reflected):
    assert set(reflected.database.get_services()) >= SERVICES


def test_reflection_describes_every_method(reflected):
    methods = reflected.service.methods_by_name
    assert {"ServerLive", "ModelInfer", "ModelConfig", "RepositoryModelLoad", "LogSettings"} <= set(methods)
    stream = methods["ModelStreamInfer"]
    assert (stream.client_streaming, stream.server_streaming) == (True, True)
    fields = {f.name: f.number for f in methods["ModelInfer"].input_type.fields}
    assert fields == {
        "model_name": 1,
        "model_version": 2,
        "id": 3,
        "parameters": 4,
        "inputs": 5,
        "outputs": 6,
        "raw_input_contents": 7,
    }


def test_calls_made_of_reflection_alone(reflected):
    assert reflected.call("ServerReady", {}) == {"ready": True}
    reply = reflected.call(
        "ModelInfer",
        {
            "model_name": "echo",
            "id": "1",
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": ["2"], "contents": {"fp32_contents": [1.5, "Infinity"]}}
            ],
            "parameters": {"k": {"uint64_param": str(2**64 - 1)}},
        },
    )
    assert reply == {
        "model_name": "echo",
        "id": "1",
        "outputs": [
            {"name": "x", "datatype": "FP32", "shape": ["2"], "contents": {"fp32_contents": [1.5, "Infinity"]}}
        ],
        "parameters": {"k": {"uint64_param": str(2**64 - 1)}},
    }


def test_a_stream_made_of_reflection_alone(reflected):
    to = {"name": "to", "datatype": "INT64", "shape": ["1"], "contents": {"int64_contents": ["2"]}}
    replies = reflected.stream("ModelStreamInfer", {"model_name": "count", "id": "1", "inputs": [to]})
    assert [reply["infer_response"]["id"] for reply in replies] == ["1", "1"]
    assert all(reply["infer_response"]["outputs"][0]["name"] == "index" for reply in replies)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_versions_of_reflection(channel, version):
    """The messages of both are the same on the wire; grpcio's own client speaks only v1alpha."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    own = f"grpc.reflection.{version}.ServerReflection"
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=own),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.ModelInferRequest"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.NoSuchMessage"),
    ]
    services, itself, ours, unknown = call(iter(asked), timeout=LIMIT)
    assert {s.name for s in services.list_services_response.service} >= {SERVICE, own}
    assert itself.file_descriptor_response.file_descriptor_proto
    assert ours.file_descriptor_response.file_descriptor_proto
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT).status == SERVING


def test_health_of_an_unknown_service(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(health_pb2.HealthCheckRequest(service="inference.NoSuchService"), timeout=LIMIT)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="inference.NoSuchService"), timeout=LIMIT)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_a_watcher_hears_at_once_and_may_leave(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=LIMIT)
    assert next(watch).status == SERVING
    watch.cancel()
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT).status == SERVING


def test_a_watcher_hears_that_the_server_drains(own_instance):
    with grpc.insecure_channel(own_instance.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=LIMIT)
        assert next(watch).status == SERVING
        own_instance.stop()
        assert next(watch).status == NOT_SERVING
        assert list(watch) == []  # and its stream ends, or the server could not
