"""The management port: where it listens, how long a message may be."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import grpc
import pytest

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, goes_to
from anyserve_conformance.requirement import requirement, skipped

LOOK_AT = "how the management port is opened: the address that it listens on, and its own limit of messages"

LIMIT = 1 << 20
RPCS = ("RegisterModel", "UnregisterModel", "Heartbeat", "UnregisterWorker", "ListWorkers")
PROBE_SECONDS = 1.0


@requirement("manage.port.loopback")
def test_other_addresses_are_closed(agent: Agent) -> None:
    """Nobody listens on the management port's number at any other address of the machine."""
    if agent.place.program is None:
        if agent.place.options.get("management-host") != "127.0.0.1":
            skipped(
                "needs to know that the agent was given no address: use --launch, or --option management-host=127.0.0.1"
            )
    elif "ANYSERVE_MANAGEMENT_HOST" in os.environ or "management-host" in agent.program.command:
        skipped("the agent is told where to listen: leave --management-host out of --launch")
    port = int(agent.place.management.rpartition(":")[2])
    for address in other_addresses():
        assert not listens(address, port), f"the management port takes connections at {address}"


def other_addresses() -> list[str]:
    """Addresses of this machine; on Linux all of 127.0.0.0/8 leads to it, so there is always one."""
    found = {"127.0.0.2"}
    with suppress(OSError):
        found.update(str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None))
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # sends nothing, and chooses the address of the way out
            found.add(probe.getsockname()[0])
    return sorted(found - {"127.0.0.1", "::1", "0.0.0.0", "::"})


def listens(address: str, port: int) -> bool:
    """Whether a connection is taken there."""
    try:
        socket.create_connection((address, port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def padded(message: bytes, size: int) -> bytes:
    """The message with an unknown field that makes it exactly so long."""
    for header in range(4, 12):
        data = message + wire.field(900, b"x" * (size - len(message) - header))
        if len(data) == size:
            return data
    raise ValueError(size)


@requirement("manage.port.malformed")
@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("junk", [b"\xff" * 11, b"\x0a\x05abc"], ids=["varint", "cut"])
def test_no_message_at_all(agent: Agent, rpc: str, junk: bytes) -> None:
    """Bytes that are not the message of an RPC are INVALID_ARGUMENT."""
    agent.management.call(rpc, junk).expect(grpc.StatusCode.INVALID_ARGUMENT)


@requirement("manage.port.malformed")
def test_no_message_for_watching(agent: Agent) -> None:
    """WatchEvents with bytes that are no message is INVALID_ARGUMENT."""
    agent.management.stream("WatchEvents", b"\xff" * 11).answer().expect(grpc.StatusCode.INVALID_ARGUMENT)


@requirement("manage.port.message-limit")
def test_longest_registration_is_taken(agent: Agent) -> None:
    """A RegisterModel message of exactly 1 MiB is taken."""
    worker = agent.listener(answer=answers("it"))
    message = agent.management.registration(worker, agent.name("m")).SerializeToString()
    answer = agent.management.call("RegisterModel", padded(message, LIMIT))
    assert answer.message.success, f"RegisterModel was answered with success = false: {answer.message.message}"
    goes_to(agent, agent.name("m"), "it")


@requirement("manage.port.message-limit")
def test_one_byte_more_is_refused(agent: Agent) -> None:
    """A RegisterModel message of 1 MiB and one byte is refused, and the connection goes on."""
    worker = agent.listener()
    message = agent.management.registration(worker, agent.name("m")).SerializeToString()
    answer = agent.management.call("RegisterModel", padded(message, LIMIT + 1))
    answer.expect(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert agent.management.listed(worker.worker_id) is None, "a registration in a message that is too long was taken"
    agent.management.register(worker, agent.name("m"))


@requirement("manage.port.message-limit")
@pytest.mark.parametrize("rpc", RPCS)
def test_limit_holds_for(agent: Agent, rpc: str) -> None:
    """Each unary management RPC refuses a message above 1 MiB."""
    message = wire.field(4 if rpc == "RegisterModel" else 3 if rpc == "UnregisterModel" else 1, agent.name("stranger"))
    answer = agent.management.call(rpc, padded(b"" if rpc == "ListWorkers" else message, 3 * LIMIT))
    answer.expect(grpc.StatusCode.RESOURCE_EXHAUSTED)


@requirement("manage.port.message-limit")
def test_limit_holds_for_watching(agent: Agent) -> None:
    """WatchEvents with a message above 1 MiB is refused."""
    request = padded(proto.WatchEventsRequest(include_existing=True).SerializeToString(), LIMIT + 1)
    stream = agent.management.stream("WatchEvents", request)
    stream.answer().expect(grpc.StatusCode.RESOURCE_EXHAUSTED)
