"""What a worker does when the agent closes a connection."""

from __future__ import annotations

import socket
import struct

import pytest

from anyserve_conformance import wire
from anyserve_conformance.cases.worker.test_frames import settled
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_agent import AgentConnection, WorkerUnderTest

LOOK_AT = "who notices the end of a connection while a handler runs on it"


def reset(connection: AgentConnection) -> None:
    """Closes with unread bytes or not, as abruptly as a Unix socket allows."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@requirement("frame.cancel.stop")
def test_a_handler_stops(worker: WorkerUnderTest) -> None:
    """A handler stops soon after the connection of its exchange is closed."""
    connection = worker.connect()
    connection.send_frame(worker.request("wait", ms=600_000))

    def running() -> int:
        return int(wire.parameters_of(worker.connect().ask(worker.request("wait")))["running"])

    worker.patience.until(lambda: running() == 2, "the handler to run")
    connection.close()
    worker.patience.until(lambda: running() == 1, "the handler to stop", within=5)


@requirement("frame.cancel.others")
@pytest.mark.parametrize("how", ["exchange", "frame", "length", "reply"])
def test_others_go_on(worker: WorkerUnderTest, how: str) -> None:
    """A connection that is closed in the middle of an exchange or a frame disturbs no other."""
    other = worker.connect("another connection")
    other.send_frame(worker.request("wait", ms=300))
    connection = worker.connect()
    data = wire.frame(worker.request("wait", ms=60_000))
    connection.send({"exchange": data, "frame": data[:-2], "length": data[:2], "reply": data}[how])
    if how == "reply":
        connection.half_close()
    reset(connection)
    assert wire.parameters_of(other.reply())["running"], "the other exchange was disturbed"
    worker.serves()
    settled(worker)


@requirement("frame.cancel.others")
def test_many_in_quick_succession(worker: WorkerUnderTest) -> None:
    """Many exchanges that are given up at once leave the worker as it was."""
    for _ in range(50):
        connection = worker.connect()
        connection.send_frame(worker.request("wait", ms=60_000))
        connection.close()
    settled(worker)
    worker.serves()


@requirement("frame.cancel.stop")
def test_a_stream_stops(worker: WorkerUnderTest) -> None:
    """A streaming handler stops producing when the connection is closed."""
    connection = worker.connect()
    connection.send_frame(worker.request("count", n=10_000_000, size=10))
    connection.read_frame()
    connection.close()

    def produced() -> int:
        return int(wire.parameters_of(worker.connect().ask(worker.request("wait")))["produced"])

    def stopped() -> bool:
        before = produced()
        return worker_is_still(worker, before)

    def worker_is_still(worker: WorkerUnderTest, before: int) -> bool:
        wire.parameters_of(worker.connect().ask(worker.request("wait", ms=100)))
        return produced() == before

    worker.patience.until(stopped, "the streaming handler to stop", within=5)
