"""Backpressure: a client that does not read stops its workers, and nobody else."""

from __future__ import annotations

from anyserve_conformance import wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_streaming.steps import streaming
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import Connection

LOOK_AT = "the bound of reply frames that wait to be sent to the client"
REPLY = wire.frame(wire.stream_reply(raw=bytes(65_000)))
ENOUGH = 24 << 20
"""Bytes above all that socket buffers, HTTP/2 windows and the allowed frames can hold together."""


def push(connection: Connection) -> int:
    """Writes replies until the agent takes no more for a while, or ENOUGH was taken; the number of bytes."""
    data = memoryview(REPLY * 16)
    sent = idle = 0
    while sent < ENOUGH and idle < 20:
        taken = connection.send_available(data[sent % len(REPLY) :])
        sent += taken
        idle = 0 if taken else idle + 1
        if not taken:
            assert connection.silent(0.02), "the agent sent something, or closed the connection"
    return sent


@requirement("stream.flow.stop")
def test_stops_reading(agent: Agent) -> None:
    """The agent stops reading from a worker whose client does not read."""
    name = agent.name()
    worker = streaming(agent, name)
    client = agent.new_client(window=65_536)
    client.stream().send(wire.request(name))
    sent = push(worker.exchange().connection)
    assert sent < ENOUGH, f"the agent took {sent >> 20} MiB for a client that does not read"


@requirement("stream.flow.resume")
def test_goes_on(agent: Agent) -> None:
    """When the client reads again, everything that the worker sent arrives, and the agent reads on."""
    name = agent.name()
    worker = streaming(agent, name)
    client = agent.new_client(window=65_536)
    stream = client.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    sent = push(exchange.connection)
    assert sent < ENOUGH, "the agent did not stop reading"
    whole, part = divmod(sent, len(REPLY))
    for _ in range(whole):
        assert len(stream.receive().response.raw_output_contents[0]) == 65_000
    exchange.connection.send(REPLY[part:] if part else REPLY)
    exchange.connection.send(REPLY + wire.frame())
    assert sum(1 for _ in stream.replies()) == 2, "not all that the worker sent arrived"
    stream.answer().expect_ok()


@requirement("stream.flow.others")
def test_others_go_on(agent: Agent) -> None:
    """While one client does not read, other calls are served, also by the same worker."""
    name, other = agent.name("streaming"), agent.name("other")
    worker = streaming(agent, name)
    agent.worker(other, worker_id="other", answer=lambda _: b"")
    lazy = agent.new_client(window=65_536)
    lazy.stream().send(wire.request(name))
    sent = push(worker.exchange().connection)
    assert sent < ENOUGH, "the agent did not stop reading"
    for _ in range(20):
        agent.infer(other).expect_ok()
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    exchange.send(wire.stream_reply(i=1))
    exchange.end()
    assert wire.parameters_of(stream.receive().response)["i"] == 1
    stream.answer().expect_ok()
