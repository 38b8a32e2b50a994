"""A Unix socket as the address of the client port: `--host unix:/path`."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyserve import AnyserveClient
from anyserve.control.agents import available_implementations
from support.certificates import issue
from support.command import run, serving, started
from support.processes import short_directory

APP = """
    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="echo")
    def echo(request):
        return {"n": [1]}

    @app.capability(type="ask")
    def ask(request, context):
        return {"n": context.call("echo", {}).tensors()["n"] + 1}
"""


@pytest.fixture(params=available_implementations())
def impl(request: pytest.FixtureRequest) -> str:
    return f"--impl={request.param}"


@pytest.fixture
def path() -> Iterator[str]:
    with short_directory() as directory:
        yield os.path.join(directory, "client port")


@pytest.fixture
def others() -> Iterator[tuple[str, ...]]:
    """The other options of an agent that does not start."""
    with short_directory() as directory:
        yield "--management-port=0", f"--socket-dir={directory}"


def test_serves(impl: str, path: str, tmp_path: Path) -> None:
    with serving(APP, impl, f"--host=unix:{path}", directory=tmp_path) as instance:
        assert instance.address == f"unix:{path}"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with AnyserveClient(f"unix:{path}".replace(" ", "%20")) as client:
            assert client.infer("ask", {}).tensors()["n"].tolist() == [2]
    assert not os.path.lexists(path), "its file is left"


def test_serves_tls(impl: str, path: str, tmp_path: Path) -> None:
    authority = issue(tmp_path, "authority")
    server = issue(tmp_path, "server", authority)
    options = (f"--tls-cert={server.cert}", f"--tls-key={server.key}")
    with (
        serving(APP, impl, f"--host=unix:{path}", *options, directory=tmp_path),
        AnyserveClient(f"unix:{path}".replace(" ", "%20"), tls_ca=authority.cert) as client,
    ):
        assert client.infer("ask", {}).tensors()["n"].tolist() == [2]


def test_replaces_the_socket_of_nobody(impl: str, path: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)
    with started(impl, f"--host=unix:{path}", directory=tmp_path) as instance:
        instance.wait_log("ready")
        with AnyserveClient(f"unix:{path}".replace(" ", "%20")) as client:
            assert client.server_live()
        assert instance.stop() == 0


def test_takes_no_other_file(impl: str, path: str, others: tuple[str, ...], tmp_path: Path) -> None:
    refused = f"anyserve: error: cannot listen on unix:{path}: Address already in use"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        done = run(impl, f"--host=unix:{path}", *others, directory=tmp_path)
        assert (done.status, done.stderr) == (1, refused)
    os.unlink(path)
    Path(path).write_text("mine")
    done = run(impl, f"--host=unix:{path}", *others, directory=tmp_path)
    assert (done.status, done.stderr) == (1, refused)
    assert Path(path).read_text() == "mine"


def test_says_what_is_wrong_with_a_path(impl: str, others: tuple[str, ...], tmp_path: Path) -> None:
    done = run(impl, "--host=unix:/no/such/directory/s", *others, directory=tmp_path)
    assert done.status == 1
    assert "cannot listen on unix:/no/such/directory/s: No such file or directory" in done.stderr
    done = run(impl, f"--host=unix:/{'x' * 200}", *others, directory=tmp_path)
    assert done.status == 1
    assert "too long" in done.stderr
    for host in ("unix:", "unix:relative"):
        done = run(impl, f"--host={host}", *others, directory=tmp_path)
        assert done.status == 2
        assert "absolute path" in done.stderr
