"""How a worker ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from anyserve_conformance import proto, wire
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_agent import WorkerUnderTest

LOOK_AT = "what the worker does at SIGTERM, and in which order"
LaunchWorker = Callable[..., WorkerUnderTest]


def connects(path: str) -> bool:
    """Whether the socket takes a connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
    return True


@requirement("lifecycle.worker.leave", "frame.connections.listen")
def test_takes_its_leave_while_it_listens(launch_worker: LaunchWorker) -> None:
    """At SIGTERM the worker calls UnregisterWorker, and until that is answered its socket takes connections."""
    worker = launch_worker()
    path = worker.path
    listening: list[bool] = []

    def leave(_: Any) -> Any:
        listening.append(connects(path))
        return proto.UnregisterWorkerResponse(success=True)

    worker.agent.answers["UnregisterWorker"] = leave
    worker.program.terminate()
    call = worker.agent.wait_for("UnregisterWorker")
    assert call.request.worker_id == worker.registrations()[0].worker_id, "another worker_id takes its leave"
    worker.program.wait()
    assert listening[:1] == [True], "the socket took no connection while the leave was not answered"


@requirement("lifecycle.worker.silent")
def test_nothing_after_the_leave(launch_worker: LaunchWorker) -> None:
    """After its leave the worker neither registers nor sends heartbeats, also while it still drains."""
    worker = launch_worker({"grace": 3})
    connection = worker.connect()
    connection.send_frame(worker.request("wait", ms=1_500))
    worker.patience.until(lambda: runs(worker), "the handler to run")
    worker.program.terminate()
    worker.agent.wait_for("UnregisterWorker")
    connection.reply()
    worker.program.wait()
    calls = [call.name for call in worker.agent.calls]
    rest = calls[calls.index("UnregisterWorker") + 1 :]
    assert not {"RegisterModel", "Heartbeat"} & {*rest}, f"after its leave came {rest}"


def runs(worker: WorkerUnderTest) -> bool:
    """Whether a `wait` handler runs beside the one that is asked."""
    return int(wire.parameters_of(worker.connect().ask(worker.request("wait")))["running"]) > 1


@requirement("lifecycle.worker.drain")
def test_requests_under_way_are_answered(launch_worker: LaunchWorker) -> None:
    """A request that runs at SIGTERM is answered."""
    worker = launch_worker({"grace": 20})
    connection = worker.connect()
    connection.send_frame(worker.request("wait", ms=700))
    worker.patience.until(lambda: runs(worker), "the handler to run")
    worker.program.terminate()
    assert wire.parameters_of(connection.reply())["running"]
    worker.program.wait()


@requirement("lifecycle.worker.drain")
def test_a_request_of_which_a_byte_has_come(launch_worker: LaunchWorker) -> None:
    """A request whose first byte came before the leave is read to its end and answered."""
    worker = launch_worker({"grace": 20})
    connection = worker.connect()
    connection.ask(worker.request("echo", raw=b"accepted"))
    data = wire.frame(worker.request("echo", raw=b"late"))
    connection.send(data[:1])
    worker.program.terminate()
    worker.agent.wait_for("UnregisterWorker")
    connection.send(data[1:])
    assert list(connection.reply().raw_output_contents) == [b"late"]
    worker.program.wait()


@requirement("lifecycle.worker.drain")
def test_a_stream_under_way(launch_worker: LaunchWorker) -> None:
    """A stream that is under way at SIGTERM comes to its end."""
    worker = launch_worker({"grace": 20})
    connection = worker.connect()
    connection.send_frame(worker.request("count", n=300, size=50_000))
    connection.read_frame()
    worker.program.terminate()
    worker.agent.wait_for("UnregisterWorker")
    assert sum(1 for _ in connection.replies()) == 299
    worker.program.wait()


@requirement("lifecycle.worker.grace")
def test_idle_connections_are_closed(launch_worker: LaunchWorker) -> None:
    """Connections without a request are closed, and the worker ends long before its grace."""
    worker = launch_worker({"grace": 60})
    connection = worker.connect()
    connection.ask(worker.request("echo", raw=b"x"))
    worker.program.terminate()
    connection.expect_end()
    worker.program.wait()


@requirement("lifecycle.worker.grace")
def test_after_the_grace(launch_worker: LaunchWorker) -> None:
    """A request that is not answered when the grace has passed loses its connection, and the worker ends."""
    worker = launch_worker({"grace": 1})
    connection = worker.connect()
    connection.send_frame(worker.request("wait", ms=600_000))
    worker.patience.until(lambda: runs(worker), "the handler to run")
    started = time.monotonic()
    worker.program.terminate()
    connection.expect_end()
    assert time.monotonic() - started > 0.8, "the connection was closed before the grace had passed"
    worker.program.wait()


@requirement("lifecycle.worker.unlink", "lifecycle.worker.exit")
def test_leaves_nothing_behind(launch_worker: LaunchWorker) -> None:
    """After SIGTERM the worker exits with status 0, and its socket's file is gone."""
    worker = launch_worker()
    path = worker.path
    worker.program.terminate()
    assert worker.program.wait() == 0, f"the exit status is not 0; it printed: {worker.program.output()}"
    assert not os.path.exists(path), "the socket's file is left"
    assert not worker.program.children(), "processes are left"
