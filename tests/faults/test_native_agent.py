"""The native agent inside a process that runs short of descriptors, forks, or ends without a word."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from anyserve.control.agents import available_implementations
from benchmarks import machine
from support.command import started
from support.processes import PATIENCE, eventually

pytestmark = pytest.mark.skipif(
    "native" not in available_implementations(), reason="the native agent is not in this installation"
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
WATCHED_SECONDS = 1.0


def greeted(connection: socket.socket) -> bool:
    """Whether the server has said its SETTINGS by now."""
    connection.setblocking(False)
    try:
        return len(connection.recv(9, socket.MSG_PEEK)) == 9
    except BlockingIOError:
        return False


def test_without_descriptors_it_serves_whom_it_has_and_does_not_spin(tmp_path: Path) -> None:
    with started("--impl=native", directory=tmp_path) as instance, ExitStack() as stack:
        assert instance.client.server_ready()
        host, _, port = instance.address.rpartition(":")
        room = 20
        limit = machine.descriptors(instance.pid) + room
        resource.prlimit(instance.pid, resource.RLIMIT_NOFILE, (limit, limit))
        connections = []
        for _ in range(2 * room):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
            connection.sendall(PREFACE)
            connections.append(connection)
        eventually(lambda: sum(map(greeted, connections)) >= room - 1, "as many as may be are accepted")
        used, began = machine.cpu_seconds(instance.pid), time.monotonic()
        while time.monotonic() - began < WATCHED_SECONDS:
            assert instance.client.server_ready(), "a client that is there is served"
            time.sleep(WATCHED_SECONDS / 10)
        assert machine.cpu_seconds(instance.pid) - used < WATCHED_SECONDS / 2, "it spins"
        assert not all(map(greeted, connections))
        for connection in connections[:room]:
            connection.close()
        eventually(lambda: all(map(greeted, connections[room:])), "the others are accepted when there is room again")
        assert instance.stop() == 0


STARTED = """
    import asyncio, os, signal, sys, threading
    from anyserve import AnyserveClient
    from anyserve.agent import AgentConfig
    from anyserve.agent.native import NativeAgent

    CONFIG = AgentConfig(host="127.0.0.1", port=0, management_port=0, io_threads=2)

    def answers(agent):
        with AnyserveClient(f"127.0.0.1:{agent.port}") as client:
            return client.server_ready()
"""


def ended(script: str) -> subprocess.CompletedProcess[str]:
    """A Python program with an agent in it, when it has ended."""
    source = textwrap.dedent(STARTED) + textwrap.dedent(script)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)


def test_a_fork_leaves_it_as_it_is() -> None:
    """Also when the child ends as Python does, with all that it has inherited."""
    done = ended("""
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()

        def on_loop(coroutine):
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

        async def make():
            agent = NativeAgent(CONFIG)
            await agent.start()
            return agent

        agent = on_loop(make())
        child = os.fork()
        if child == 0:
            del agent, loop
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert answers(agent)
        on_loop(agent.stop(grace=0))
        print("served")
    """)
    assert (done.returncode, done.stdout) == (0, "served\n"), done.stderr


def test_the_interpreter_may_end_without_stopping_it() -> None:
    done = ended("""
        async def main():
            agent = NativeAgent(CONFIG)
            await agent.start()
            globals()["kept"] = agent
            sys.exit(3)

        asyncio.run(main())
    """)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_keyboard_interrupt_ends_the_program() -> None:
    done = ended("""
        async def main():
            agent = NativeAgent(CONFIG)
            await agent.start()
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
