"""gRPC health and reflection on the client port."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode

from anyserve_conformance import proto
from anyserve_conformance.agent import Agent
from anyserve_conformance.client import Client, Stream
from anyserve_conformance.requirement import requirement

LOOK_AT = "the health and reflection services of the client port"
UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = 0, 1, 2, 3
SERVICES = pytest.mark.parametrize("service", ["", proto.KSERVE], ids=["server", "kserve"])


def health(agent: Agent) -> Client:
    """A client of the health service."""
    return agent.new_client(service=proto.HEALTH, who="health client")


def ask(service: str) -> Any:
    """The request of Check and Watch."""
    return proto.HealthCheckRequest(service=service)


@requirement("serving.health.check")
@SERVICES
def test_check(agent: Agent, service: str) -> None:
    """Check says SERVING while the agent is ready."""
    assert health(agent).call("Check", ask(service)).message.status == SERVING


@requirement("serving.health.unknown")
def test_unknown_service(agent: Agent) -> None:
    """Check of another service is NOT_FOUND, and Watch tells SERVICE_UNKNOWN."""
    client = health(agent)
    client.call("Check", ask("no.such.Service")).expect(StatusCode.NOT_FOUND)
    watch = client.stream("Watch", ask("no.such.Service"))
    assert watch.receive().message.status == SERVICE_UNKNOWN
    watch.cancel()


@requirement("serving.health.watch")
@SERVICES
def test_watch(agent: Agent, service: str) -> None:
    """Watch tells the state at once, and nothing more while it does not change."""
    watch = health(agent).stream("Watch", ask(service))
    assert watch.receive().message.status == SERVING
    assert not watch.pending(), "a second state came although nothing has changed"
    watch.cancel()


@requirement("serving.health.draining", "serving.health.watch", "serving.health.check")
def test_draining(launch_agent: Any) -> None:
    """When the drain begins Watch tells NOT_SERVING and ends, while calls under way go on."""
    agent = launch_agent(grace=10)
    name = agent.name()
    worker = agent.worker(name)
    watch = health(agent).stream("Watch", ask(""))
    assert watch.receive().message.status == SERVING
    call = agent.start_infer(name)
    exchange = worker.exchange()
    agent.program.terminate()
    assert watch.receive().message.status == NOT_SERVING
    watch.answer()
    assert not call.done, "the call under way ended at the beginning of the drain"
    exchange.answer()
    call.answer().expect_ok()
    assert agent.program.wait() == 0


def reflection(agent: Agent, version: str) -> Stream:
    """A call of one version of the reflection service; their messages are the same on the wire."""
    client = agent.new_client(who="reflection client")
    make: Any = client.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    return client.opened(Stream(client, "ServerReflectionInfo", make, proto.ServerReflectionResponse, {}))


@requirement("serving.reflection.versions")
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(agent: Agent, version: str) -> None:
    """Both versions of reflection list all services of the client port, and know the file of each."""
    stream = reflection(agent, version)
    stream.send(proto.ServerReflectionRequest(list_services=""))
    services = {service.name for service in stream.receive().message.list_services_response.service}
    expected = {
        proto.KSERVE,
        proto.HEALTH,
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert services == expected
    for service in sorted(services):
        stream.send(proto.ServerReflectionRequest(file_containing_symbol=service))
        answer = stream.receive().message
        assert answer.file_descriptor_response.file_descriptor_proto, f"no file for {service}: {answer}"
    stream.end().answer().expect_ok()
