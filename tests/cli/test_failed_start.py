"""An app that does not come up: one clear message, an exit status that is not 0, soon, and nothing left."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from anyserve.control.agents import available_implementations
from support.command import run, write_app
from support.processes import Running, short_directory

GOOD = """
    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="echo")
    def echo(request):
        return {}
"""

START = """
    import os, sys
    from anyserve import AnyServe, Worker

    app = AnyServe()

    @app.worker(capabilities=[{{"type": "echo"}}])
    class Echo(Worker):
        def on_start(self):
            {}

        def handle(self, request):
            return {{}}
"""


def serve(*arguments: str, directory: Path) -> Running:
    with short_directory() as socket_dir:
        options = ("--host=127.0.0.1", "--port=0", "--management-port=0", f"--socket-dir={socket_dir}")
        began = time.monotonic()
        done = run(*options, *arguments, directory=directory)
        assert time.monotonic() - began < 15
        assert os.listdir(socket_dir) == []
    return done


def one_message(done: Running) -> str:
    """The one line that is not a log line; log lines begin with the time."""
    others = [line for line in done.lines if not line.startswith("20")]
    assert len(others) == 1, done.stderr
    assert done.status == 1
    assert done.stdout == ""
    assert others[0].startswith("anyserve: error: ")
    return others[0].removeprefix("anyserve: error: ")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere:app", "there is no module 'nowhere'"),
        ("nowhere.inside:app", "there is no module 'nowhere'"),
        ("my_app.inside:app", "there is no module 'my_app.inside'"),
        ("my_app:nothing", "module 'my_app' has no attribute 'nothing'; it has the apps app"),
        ("my_app:app.nothing", "has no attribute"),
        ("my_app:echo", "'my_app:echo' is a function, not an AnyServe app"),
        ("my_app:text", "'my_app:text' is a str, not an AnyServe app"),
        ("my_app:empty", "declares no capability"),
        ("my_app.py", "is a path; write the module's name instead, e.g. my_app:app"),
        ("my_app.py:app", "is a path; write the module's name instead, e.g. my_app:app"),
        ("./my_app.py:app", "is a path; write the module's name instead, e.g. my_app:app"),
        ("dir/my_app:app", "e.g. dir.my_app:app"),
        (":app", "does not name an app"),
        ("my app:app", "does not name an app"),
        ("my_app:app:more", "does not name an app"),
    ],
)
def test_what_is_no_app(tmp_path: Path, spec: str, words: str) -> None:
    write_app(tmp_path, GOOD + "    empty, text = AnyServe(), 'text'\n")
    message = one_message(serve(spec, directory=tmp_path))
    assert words in message
    assert spec in message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def broken(:\n    pass\n", "SyntaxError: invalid syntax (my_app.py, line 1)"),
        ("if True:\npass\n", "(my_app.py, line 2)"),
        ("raise RuntimeError('no weights here')\n", "RuntimeError: no weights here"),
        ("import missing_dependency\n", "No module named 'missing_dependency'"),
        ("from anyserve import Nothing\n", "cannot import name 'Nothing'"),
        ("import sys\nsys.exit('refused by the app')\n", "refused by the app"),
        ("import sys\nsys.exit(0)\n", "cannot load my_app:app"),
        ("import os\nos._exit(3)\n", "status 3"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "killed by SIGKILL"),
        (
            "from anyserve import AnyServe\napp = AnyServe()\napp.capability()(lambda request: {})\n",
            "needs at least one key",
        ),
    ],
)
def test_failure_while_the_app_loads(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "my_app.py").write_text(source)
    message = one_message(serve("my_app:app", directory=tmp_path))
    assert words in message


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("raise RuntimeError('no weights here')", "Echo.on_start failed: RuntimeError: no weights here"),
        ("1 / 0", "Echo.on_start failed: ZeroDivisionError"),
        ("sys.exit('refused by on_start')", "refused by on_start"),
        ("os._exit(7)", "status 7"),
        ("os.abort()", "killed by SIGABRT"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_failure_in_on_start(tmp_path: Path, start: str, words: str, workers: int) -> None:
    write_app(tmp_path, START.format(start))
    message = one_message(serve("my_app:app", f"--workers={workers}", directory=tmp_path))
    assert words in message


def test_failure_of_one_group_ends_the_others_too(tmp_path: Path) -> None:
    source = (
        START.format("raise RuntimeError('no weights here')")
        + """
    @app.capability(type="fine")
    def fine(request):
        return {}
"""
    )
    write_app(tmp_path, source)
    assert "no weights here" in one_message(serve("my_app:app", directory=tmp_path))


@pytest.mark.parametrize("which", ["port", "management-port"])
def test_port_in_use(tmp_path: Path, which: str) -> None:
    write_app(tmp_path, GOOD)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = one_message(serve("my_app:app", f"--{which}={port}", directory=tmp_path))
    assert f"127.0.0.1:{port}" in message
    assert "in use" in message


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", "not a host"])
def test_address_that_is_not_ours(tmp_path: Path, host: str) -> None:
    write_app(tmp_path, GOOD)
    assert host in one_message(serve("my_app:app", f"--host={host}", directory=tmp_path))


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("app = AnyServe()", "is not callable; --factory needs a function"),
        ("def app(): raise RuntimeError('no weights here')", "RuntimeError: no weights here"),
        ("def app(): return 7", "is a int, not an AnyServe app"),
        ("def app(needed): return AnyServe()", "needed"),
    ],
)
def test_factories_that_make_no_app(tmp_path: Path, factory: str, words: str) -> None:
    write_app(tmp_path, f"from anyserve import AnyServe\n{factory}\n")
    assert words in one_message(serve("my_app:app", "--factory", directory=tmp_path))


def test_factory_without_the_flag_is_hinted_at(tmp_path: Path) -> None:
    write_app(tmp_path, "from anyserve import AnyServe\ndef make(): return AnyServe()\n")
    assert "add --factory" in one_message(serve("my_app:make", directory=tmp_path))


def test_native_agent_that_is_not_installed(tmp_path: Path) -> None:
    if "native" in available_implementations():
        pytest.skip("the native agent is installed")
    done = run("my_app:app", "--impl=native", directory=tmp_path)
    assert done.status == 2
    assert "--impl reference" in done.stderr
