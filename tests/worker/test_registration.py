"""How a worker registers, stays registered, leaves, and gives up; the test is its agent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import grpc
import pytest

from anyserve._proto import worker_management_pb2 as pb
from support.command import FACTS
from support.processes import eventually
from support.scripted_agent import ScriptedAgent, request, scripted

APP = (
    FACTS
    + """
from pathlib import Path


@app.capability(type="chat", model="m", version="2", stream=True, max_concurrency=3, priority=-5, platform="p",
                inputs=[TensorSpec("q", "BYTES", (1,))], outputs=[TensorSpec("a", "FP32", (-1, 4))])
def chat(request, context, stream):
    pass


@app.capability(type="held")
def held(request, context):
    Path("held").touch()
    facts.add("held")
    facts.gate.wait(20)
    return {"n": [7]}


@app.worker(capabilities=[{"type": "class"}])
class Class(Worker):
    def on_start(self):
        Path("started").touch()

    def on_cleanup(self):
        if Path("held").exists():
            if self.cancelled.acquire(timeout=3):
                Path("cancelled").touch()
        Path("cleaned").write_text("once" if not Path("cleaned").exists() else "again")

    cancelled = threading.Semaphore(0)

    def handle(self, request, context):
        Path("held").touch()
        if context.cancellation.wait(20):
            self.cancelled.release()
"""
)

CLASS = "--group=Class"

REFUSALS = [
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
]
OTHERS = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND]


def test_registration_says_what_was_declared(tmp_path: Path) -> None:
    with scripted(APP, directory=tmp_path) as worker:
        worker.agent.called("Heartbeat")
        registered = {r.model_name: r for name, r in worker.agent.calls if name == "RegisterModel"}
        assert set(registered) == {"facts", "open-gate", "m", "held"}  # the functions; the class is another group
        chat = registered["m"]
        assert chat.model_version == "2"
        assert chat.worker_id == worker.worker_id
        assert dict(chat.capability) == {"type": "chat", "model": "m", "version": "2"}
        assert (chat.stream, chat.max_concurrency, chat.priority, chat.platform) == (True, 3, -5, "p")
        assert [(t.name, t.datatype, list(t.shape)) for t in chat.inputs] == [("q", "BYTES", [1])]
        assert [(t.name, t.datatype, list(t.shape)) for t in chat.outputs] == [("a", "FP32", [-1, 4])]
        assert not registered["held"].stream
        heartbeat = worker.agent.called("Heartbeat", count=3)
        assert heartbeat.worker_id == worker.worker_id
        assert sorted(heartbeat.model_names) == sorted(registered)
        assert len(worker.agent.names()) == 4  # heartbeats alone keep it registered


def test_it_listens_before_it_registers(tmp_path: Path) -> None:
    agent = ScriptedAgent()
    there: list[bool] = []

    def register(message: pb.RegisterModelRequest) -> pb.RegisterModelResponse:
        there.append(os.path.exists(message.worker_address.removeprefix("unix://")))
        return pb.RegisterModelResponse(success=True)

    agent.answers["RegisterModel"] = register
    with scripted(APP, CLASS, directory=tmp_path, agent=agent) as worker:
        worker.agent.called("Heartbeat")
        assert there == [True]
        assert (tmp_path / "started").exists()


def test_heartbeat_answered_unhealthy_registers_again(tmp_path: Path) -> None:
    with scripted(APP, CLASS, directory=tmp_path) as worker:
        agent = worker.agent
        agent.called("Heartbeat", count=2)
        healthy = iter([False])
        agent.answers["Heartbeat"] = lambda _: pb.HeartbeatResponse(healthy=next(healthy, True))
        again = agent.called("RegisterModel", count=2)
        assert again == agent.called("RegisterModel", count=1)
        beats = sum(name == "Heartbeat" for name, _ in agent.calls)
        agent.called("Heartbeat", count=beats + 3)
        assert agent.names() == ["RegisterModel", "RegisterModel"]


def test_agent_that_comes_back_gets_its_worker_back(tmp_path: Path) -> None:
    with scripted(APP, CLASS, directory=tmp_path) as worker:
        agent = worker.agent
        agent.called("Heartbeat", count=2)
        agent.stop()
        worker.wait_log("the agent does not answer")
        agent.start()
        assert agent.called("RegisterModel", count=2).worker_id == worker.worker_id
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_worker_waits_for_an_agent_that_starts_later(tmp_path: Path) -> None:
    agent = ScriptedAgent()
    agent.start()  # takes a port
    agent.stop()
    with scripted(APP, CLASS, directory=tmp_path, agent=agent) as worker:
        assert agent.called("RegisterModel").worker_id == worker.worker_id


def test_without_an_agent_it_gives_up_and_cleans_up(tmp_path: Path) -> None:
    with scripted(APP, CLASS, "--orphan-timeout=0.5", directory=tmp_path) as worker:
        worker.agent.called("Heartbeat")
        worker.agent.stop()
        assert worker.wait(15) == 0
        assert worker.logs("leaving")[0]["reason"] == "no agent has answered for 0.5 s"
        assert (tmp_path / "cleaned").read_text() == "once"
        assert worker.sockets() == []


@pytest.mark.parametrize("code", REFUSALS)
def test_refused_registration_ends_it_with_the_reason(tmp_path: Path, code: grpc.StatusCode) -> None:
    agent = ScriptedAgent()
    agent.refuse = (code, "we do not want you")
    with scripted(APP, CLASS, directory=tmp_path, agent=agent) as worker:
        assert worker.wait(15) == 1
        assert any("we do not want you" in line.get("reason", "") for line in worker.logs("leaving"))
        assert (tmp_path / "cleaned").read_text() == "once"
        assert worker.sockets() == []


def test_registration_that_is_answered_without_success(tmp_path: Path) -> None:
    """`success = false` is a refusal like any other: the message says why, and the worker does not go on."""
    agent = ScriptedAgent()
    agent.answers["RegisterModel"] = lambda _: pb.RegisterModelResponse(success=False, message="we do not want you")
    with scripted(APP, CLASS, directory=tmp_path, agent=agent) as worker:
        assert worker.wait(5) == 1
        assert "we do not want you" in worker.stderr


def test_refused_after_some_of_its_registrations_were_taken_it_takes_its_leave(tmp_path: Path) -> None:
    agent = ScriptedAgent()
    taken = iter([True, True])
    agent.answers["RegisterModel"] = lambda _: pb.RegisterModelResponse(success=next(taken, False))
    with scripted(APP, directory=tmp_path, agent=agent) as worker:
        assert worker.wait(15) == 1
        assert agent.names() == ["RegisterModel"] * 3 + ["UnregisterWorker"]


@pytest.mark.parametrize("code", REFUSALS)
def test_refused_heartbeat_ends_it_too(tmp_path: Path, code: grpc.StatusCode) -> None:
    with scripted(APP, CLASS, directory=tmp_path) as worker:
        worker.agent.called("Heartbeat", count=2)
        worker.agent.refused = "Heartbeat"
        worker.agent.refuse = (code, "we do not want you any more")
        assert worker.wait(15) == 1
        assert any("we do not want you any more" in line.get("reason", "") for line in worker.logs("leaving"))
        assert worker.agent.names() == ["RegisterModel", "UnregisterWorker"]
        assert (tmp_path / "cleaned").read_text() == "once"


@pytest.mark.parametrize("code", OTHERS)
def test_agent_that_is_out_of_order_for_a_moment_is_tried_again(tmp_path: Path, code: grpc.StatusCode) -> None:
    agent = ScriptedAgent()
    agent.refuse = (code, "not now")
    with scripted(APP, CLASS, directory=tmp_path, agent=agent) as worker:
        agent.called("RegisterModel", count=3)
        agent.refuse = None
        agent.called("Heartbeat")
        assert worker.running


@pytest.mark.parametrize("code", OTHERS)
def test_after_any_other_status_of_a_heartbeat_it_registers_again(tmp_path: Path, code: grpc.StatusCode) -> None:
    with scripted(APP, CLASS, directory=tmp_path) as worker:
        agent = worker.agent
        agent.called("Heartbeat", count=2)
        agent.refused, agent.refuse = "Heartbeat", (code, "not now")
        agent.called("RegisterModel", count=2)
        agent.refuse = None
        beats = sum(name == "Heartbeat" for name, _ in agent.calls)
        agent.called("Heartbeat", count=beats + 3)
        assert worker.running


def test_an_error_status_is_no_answer_of_an_agent(tmp_path: Path) -> None:
    """The time without an agent runs from the start, and only a reply ends it."""
    agent = ScriptedAgent()
    agent.refuse = (grpc.StatusCode.UNAVAILABLE, "not now")
    with scripted(APP, CLASS, "--orphan-timeout=0.5", directory=tmp_path, agent=agent) as worker:
        assert worker.wait(15) == 0
        assert worker.logs("leaving")[0]["reason"] == "no agent has answered for 0.5 s"


def test_an_agent_that_takes_registrations_alone_has_answered(tmp_path: Path) -> None:
    agent = ScriptedAgent()
    agent.refused, agent.refuse = "Heartbeat", (grpc.StatusCode.UNAVAILABLE, "not now")
    with scripted(APP, CLASS, "--orphan-timeout=0.5", directory=tmp_path, agent=agent) as worker:
        agent.called("Heartbeat", count=15)  # one every 0.1 s
        assert worker.running


def test_token_is_sent(tmp_path: Path) -> None:
    with scripted(APP, CLASS, directory=tmp_path, ANYSERVE_MANAGEMENT_TOKEN="s3cret") as worker:
        worker.agent.called("Heartbeat")
        assert all(metadata.get("authorization") == "Bearer s3cret" for metadata in worker.agent.metadata)
        assert "s3cret" not in worker.stderr
        command_line = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
        assert b"s3cret" not in command_line


def test_sigterm_leaves_first_then_ends_what_is_under_way(tmp_path: Path) -> None:
    with scripted(APP, directory=tmp_path) as worker:
        agent = worker.agent
        connection = worker.connect()
        connection.send(request("held").SerializeToString())
        control = worker.connect()
        control.ask(request("facts", name=["held"], at_least=[1], seconds=[10.0]))
        worker.signal(signal.SIGTERM)
        assert agent.called("UnregisterWorker").worker_id == worker.worker_id
        worker.wait_log("draining")
        assert worker.running  # the exchange under way holds it
        control.ask(request("open-gate", again=[True]))
        payload = connection.receive()
        assert payload is not None
        assert worker.wait() == 0
        assert agent.names()[-1] == "UnregisterWorker"
        assert worker.sockets() == []


def test_sigterm_cuts_exchanges_off_after_the_grace(tmp_path: Path) -> None:
    """Handlers are told before `on_cleanup` takes away what they use."""
    with scripted(APP, CLASS, "--grace=0.2", directory=tmp_path) as worker:
        connection = worker.connect()
        connection.send(request("class").SerializeToString())
        eventually((tmp_path / "held").exists, "the handler runs")
        worker.signal(signal.SIGTERM)
        assert connection.receive() is None
        assert worker.wait(10) == 0
        assert worker.logs("exchanges were cut off")
        assert (tmp_path / "cancelled").exists()
        assert (tmp_path / "cleaned").read_text() == "once"
