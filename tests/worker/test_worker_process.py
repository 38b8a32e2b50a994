"""A worker process from start to end: on_start, on_cleanup, signals, and what stops it before it serves."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.command import write_app
from support.processes import Running, environment, eventually, short_directory
from support.scripted_agent import ScriptedAgent, request, scripted

LIFE = """
    import asyncio
    import time
    from pathlib import Path

    from anyserve import AnyServe, Worker

    app = AnyServe()

    def told(line):
        with open("told", "a") as file:
            file.write(line + chr(10))

    @app.worker(capabilities=[{{"type": "it"}}])
    class It(Worker):
        def __init__(self):
            {init}

        {start}

        {cleanup}

        def handle(self, request):
            return {{"n": [1]}}
"""

START = "def on_start(self): told('start')"
CLEANUP = "def on_cleanup(self): told('cleanup')"


def life(init: str = "pass", start: str = START, cleanup: str = CLEANUP) -> str:
    return LIFE.format(init=init, start=start, cleanup=cleanup)


def told(directory: Path) -> list[str]:
    path = directory / "told"
    return path.read_text().split() if path.exists() else []


def wait_told(directory: Path, line: str) -> None:
    eventually(lambda: line in told(directory), f"the app tells {line}")


@pytest.mark.parametrize(
    ("start", "cleanup"),
    [
        (START, CLEANUP),
        (f"async {START}", f"async {CLEANUP}"),
        ("async def on_start(self): await asyncio.sleep(0.01); told('start')", CLEANUP),
    ],
)
def test_on_start_and_on_cleanup_run_once_each(tmp_path: Path, start: str, cleanup: str) -> None:
    with scripted(life(start=start, cleanup=cleanup), directory=tmp_path) as worker:
        assert worker.connect().ask(request("it")).tensors()["n"].tolist() == [1]
        assert told(tmp_path) == ["start"]
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert told(tmp_path) == ["start", "cleanup"]


def test_neither_is_needed(tmp_path: Path) -> None:
    with scripted(life(start="", cleanup=""), directory=tmp_path) as worker:
        assert worker.connect().ask(request("it")).tensors()["n"].tolist() == [1]


@pytest.mark.parametrize("where", ["init", "start"])
def test_failed_start_never_registers(tmp_path: Path, where: str) -> None:
    fails = "raise RuntimeError('no weights')"
    source = life(init=fails) if where == "init" else life(start=f"def on_start(self): told('start'); {fails}")
    with scripted(source, directory=tmp_path) as worker:
        assert worker.wait(15) == 1
        assert worker.agent.names() == []
        (line,) = worker.logs("on_start failed")
        assert "RuntimeError: no weights" in line["traceback"]
        assert worker.sockets() == []


def test_failed_start_is_cleaned_up_after(tmp_path: Path) -> None:
    """`on_cleanup` runs whatever the reason for the end, so that what `on_start` had opened is closed."""
    source = life(start="def on_start(self): told('start'); raise RuntimeError('no weights')")
    with scripted(source, directory=tmp_path) as worker:
        assert worker.wait(15) == 1
        assert told(tmp_path) == ["start", "cleanup"]


@pytest.mark.parametrize("form", ["def", "async def"])
def test_sigterm_during_on_start_ends_it_at_once(tmp_path: Path, form: str) -> None:
    rest = "await asyncio.sleep(60)" if form == "async def" else "time.sleep(60)"
    source = life(start=f"{form} on_start(self): told('start'); {rest}")
    with scripted(source, directory=tmp_path) as worker:
        wait_told(tmp_path, "start")
        worker.signal(signal.SIGTERM)
        assert worker.wait(5) == 0
        assert worker.agent.names() == []
        assert worker.sockets() == []


def test_sigterm_while_the_app_loads_ends_it_at_once(tmp_path: Path) -> None:
    source = """
        import time
        from pathlib import Path

        Path("told").write_text("loading")
        time.sleep(60)
    """
    with scripted(source, directory=tmp_path) as worker:
        wait_told(tmp_path, "loading")
        worker.signal(signal.SIGTERM)
        assert worker.wait(5) == 0


def test_failed_cleanup_is_logged_and_the_worker_ends(tmp_path: Path) -> None:
    with scripted(life(cleanup="def on_cleanup(self): 1 / 0"), directory=tmp_path) as worker:
        worker.agent.called("Heartbeat")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        (line,) = worker.logs("on_cleanup failed")
        assert "ZeroDivisionError" in line["traceback"]


def test_handler_that_never_returns_does_not_keep_the_process(tmp_path: Path) -> None:
    source = life().replace('return {"n": [1]}', "told('held'); time.sleep(1000)")
    with scripted(source, "--grace=0.1", directory=tmp_path) as worker:
        worker.connect().send(request("it").SerializeToString())
        wait_told(tmp_path, "held")
        worker.signal(signal.SIGTERM)
        assert worker.wait(10) == 0
        assert told(tmp_path) == ["start", "held", "cleanup"]


def test_socket_of_a_worker_that_was_killed_is_replaced(tmp_path: Path) -> None:
    """A worker with a fixed id that was killed leaves its socket; the next one with that id takes its place."""
    with scripted(life(), "--worker-id=fixed", directory=tmp_path) as worker:
        worker.agent.called("Heartbeat")
        worker.kill_all()
        assert worker.sockets() == ["fixed.sock"]
        command = [sys.executable, "-m", "anyserve.worker", "my_app:app", "--worker-id=fixed", "--log-format=json"]
        command += [f"--management=127.0.0.1:{worker.agent.port}", f"--socket-dir={worker.socket_dir}"]
        registered = len(worker.agent.names())
        worker.agent.alive = lambda: True
        second = Running(command, cwd=tmp_path)
        try:
            worker.agent.called("RegisterModel", count=registered + 1, timeout=5)
            assert worker.connect().ask(request("it")).tensors()["n"].tolist() == [1]
        finally:
            second.kill_all()


def test_socket_of_a_living_worker_is_not_taken(tmp_path: Path) -> None:
    with scripted(life(), "--worker-id=fixed", directory=tmp_path) as worker:
        worker.agent.called("Heartbeat")
        command = [sys.executable, "-m", "anyserve.worker", "my_app:app", "--worker-id=fixed", "--log-format=json"]
        command += [f"--management=127.0.0.1:{worker.agent.port}", f"--socket-dir={worker.socket_dir}"]
        second = Running(command, cwd=tmp_path)
        assert second.wait(15) == 1
        assert "in use" in second.stderr
        assert worker.connect().ask(request("it")).tensors()["n"].tolist() == [1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["my_app:app", "--worker-id=../up"], "--worker-id"),
        (["my_app:app", "--group=5"], "the app has no group '5'"),
        (["my_app:nothing"], "has no attribute 'nothing'"),
        (["nowhere:app"], "there is no module 'nowhere'"),
        ([], "APP"),
    ],
)
def test_bad_command_lines(tmp_path: Path, options: list[str], words: str) -> None:
    write_app(tmp_path, life())
    with short_directory() as socket_dir:
        done = subprocess.run(
            [sys.executable, "-m", "anyserve.worker", *options, f"--socket-dir={socket_dir}"],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert words in done.stderr
    assert any(words in line and "Traceback" not in line for line in done.stderr.splitlines())


def test_management_address_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        agent = ScriptedAgent()
        with scripted(
            life(), f"--management=127.0.0.1:{taken.getsockname()[1]}", "--orphan-timeout=0.5",
            directory=tmp_path, agent=agent,
        ) as worker:  # fmt: skip
            assert worker.wait(15) == 0
            assert told(tmp_path) == ["start", "cleanup"]
            assert agent.names() == []
            assert worker.noise() == ["anyserve.worker: error: no agent has answered for 0.5 s"]
