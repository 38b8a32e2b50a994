"""How an app is named and where settings come from: modules, directories, factories, environment, no app at all."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anyserve import AnyserveClient
from anyserve.control.agents import available_implementations
from anyserve_conformance.launch import reserved_ports
from support.command import Instance, run, serving, started, write_app
from support.processes import Running, short_directory

APP = """
    import os

    from anyserve import AnyServe

    app = other = AnyServe()

    @app.capability(type="echo")
    def echo(request):
        return {"cwd": [os.getcwd()], "file": [os.path.abspath(__file__)], "pid": [os.getpid()]}
"""


def answer(instance: Instance) -> dict[str, str]:
    tensors = instance.client.infer("echo", {}).tensors()
    return {name: tensors[name][0].decode() for name in ("cwd", "file")}


@pytest.mark.parametrize("spec", ["my_app:app", "my_app", "my_app:other"])
def test_attribute(tmp_path: Path, spec: str) -> None:
    write_app(tmp_path, APP)
    with started(spec, directory=tmp_path) as instance:
        instance.wait_log("ready")
        assert answer(instance) == {"cwd": str(tmp_path), "file": str(tmp_path / "my_app.py")}
        assert instance.stop() == 0


def test_dotted_module_and_dotted_attribute(tmp_path: Path) -> None:
    package = tmp_path / "package" / "inside"
    package.mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "settings.py").write_text("SIZE = 1\n")
    text = write_app(package, APP).read_text()
    (package / "my_app.py").write_text(f"from .settings import SIZE\n{text}\nclass Apps:\n    main = app\n")
    with started("package.inside.my_app:Apps.main", directory=tmp_path) as instance:
        instance.wait_log("ready")
        assert answer(instance)["file"] == str(package / "my_app.py")
        assert instance.stop() == 0


def test_app_dir(tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    write_app(elsewhere, APP)
    with started("my_app:app", "--app-dir=else where", directory=tmp_path) as instance:
        instance.wait_log("ready")
        assert answer(instance) == {"cwd": str(tmp_path), "file": str(elsewhere / "my_app.py")}
        assert instance.stop() == 0


@pytest.mark.parametrize("make", ["def make(): return app", "make = lambda: app", "class make:\n    new = lambda: app"])
def test_factory(tmp_path: Path, make: str) -> None:
    text = write_app(tmp_path, APP).read_text()
    (tmp_path / "my_app.py").write_text(f"{text}\n{make}\n")
    spec = "my_app:make.new" if make.startswith("class") else "my_app:make"
    with started(spec, "--factory", directory=tmp_path) as instance:
        instance.wait_log("ready")
        assert answer(instance)["cwd"] == str(tmp_path)
        assert instance.stop() == 0


def test_settings_from_the_environment(tmp_path: Path) -> None:
    write_app(tmp_path, APP)
    with short_directory() as socket_dir, reserved_ports(2) as (port, management_port):
        instance = Instance(
            "my_app:app",
            directory=tmp_path,
            socket_dir=socket_dir,
            env={
                "ANYSERVE_HOST": "127.0.0.1",
                "ANYSERVE_PORT": str(port),
                "ANYSERVE_MANAGEMENT_PORT": str(management_port),
                "ANYSERVE_SOCKET_DIR": socket_dir,
                "ANYSERVE_LOG_FORMAT": "json",
                "ANYSERVE_WORKERS": "2",
            },
        )
        try:
            serving = instance.wait_log("serving")
            assert serving["address"] == f"127.0.0.1:{port}"
            assert serving["management"] == f"127.0.0.1:{management_port}"
            instance.wait_log("ready")
            assert len(instance.sockets()) == len(instance.logs("worker started")) == 2
            assert instance.stop() == 0
        finally:
            instance.kill_all()


def test_option_wins_over_the_environment(tmp_path: Path) -> None:
    env = {"ANYSERVE_PORT": "1", "ANYSERVE_WORKERS": "7", "ANYSERVE_LOG_FORMAT": "text"}
    with serving(APP, "--workers=1", directory=tmp_path, env=env) as instance:
        assert instance.address != "127.0.0.1:1"
        assert len(instance.logs("worker started")) == 1


def test_malformed_environment_is_named(tmp_path: Path) -> None:
    done = run("my_app:app", directory=tmp_path, env={"ANYSERVE_PORT": "many"})
    assert done.status == 2
    assert "many" in done.stderr
    assert "--port" in done.stderr or "ANYSERVE_PORT" in done.stderr


def test_environment_of_the_app_is_its_own(tmp_path: Path) -> None:
    """ANYSERVE_* is for the command line; whatever else is set reaches the handlers as it is."""
    source = """
        import os

        from anyserve import AnyServe

        app = AnyServe()

        @app.capability(type="env")
        def env(request):
            return {"value": [os.environ["MY_SETTING"]], "stdin": [os.read(0, 10)]}
    """
    with serving(source, directory=tmp_path, env={"MY_SETTING": "it=is mine"}) as instance:
        tensors = instance.client.infer("env", {}).tensors()
        assert tensors["value"].tolist() == [b"it=is mine"]
        assert tensors["stdin"].tolist() == [b""]


def test_bare_agent_is_ready_at_once_and_takes_workers(tmp_path: Path) -> None:
    write_app(tmp_path, APP)
    with started(directory=tmp_path) as agent:
        agent.wait_log("ready", capabilities=[])
        assert agent.client.server_ready()
        assert agent.client.workers() == []
        assert not agent.client.model_ready("echo")
        with worker_by_hand(agent, tmp_path):
            assert answer(agent)["cwd"] == str(tmp_path)
        assert agent.client.workers() == []
        assert agent.stop() == 0


@contextmanager
def worker_by_hand(agent: Instance, directory: Path) -> Iterator[None]:
    """`python -m anyserve.worker` beside an agent; it leaves with SIGTERM."""
    command = [sys.executable, "-m", "anyserve.worker", "my_app:app", f"--management={agent.management}"]
    worker = Running([*command, f"--socket-dir={agent.socket_dir}", "--log-format=json"], cwd=directory)
    try:
        worker.wait_log("registered")
        yield
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    finally:
        worker.kill_all()


def test_two_instances_share_a_socket_directory(tmp_path: Path) -> None:
    write_app(tmp_path, APP)
    with started("my_app:app", directory=tmp_path) as first:
        first.wait_log("ready")
        shared = f"--socket-dir={first.socket_dir}"
        with started("my_app:app", shared, directory=tmp_path) as second:
            second.wait_log("ready")
            assert len(first.sockets()) == 2
            assert second.client.infer("echo", {}).tensors()["pid"] != first.client.infer("echo", {}).tensors()["pid"]
            assert second.stop() == 0
        assert len(first.sockets()) == 1
        assert answer(first)["cwd"] == str(tmp_path)
        assert first.stop() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost", "::1"])
def test_hosts(tmp_path: Path, host: str) -> None:
    """The workers find their agent, and clients too, whatever it listens on."""
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    with serving(APP, f"--host={host}", f"--management-host={host}", directory=tmp_path) as instance:
        port = instance.address.rpartition(":")[2]
        reachable = "[::1]" if ":" in host else "127.0.0.1"
        with AnyserveClient(f"{reachable}:{port}") as client:
            assert client.infer("echo", {}, timeout=10).tensors()["cwd"].tolist() == [str(tmp_path).encode()]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("limit", "words"),
    [("max-streams", "NAME=NUMBER"), ("max-colours=1", "max-colours"), ("max-streams=0", "max-streams")],
)
def test_a_bad_limit_of_http2_is_named(tmp_path: Path, limit: str, words: str) -> None:
    done = run("--port=0", "--management-port=0", f"--http2-limit={limit}", directory=tmp_path)
    assert done.status == 2
    assert words in done.stderr


def test_the_reference_agent_has_one_io_thread(tmp_path: Path) -> None:
    done = run("--impl=reference", "--port=0", "--management-port=0", "--io-threads=2", directory=tmp_path)
    assert done.status == 2
    assert "--io-threads" in done.stderr


@pytest.mark.skipif("native" not in available_implementations(), reason="the native agent is not in this installation")
def test_several_io_threads(tmp_path: Path) -> None:
    with serving(APP, "--impl=native", "--io-threads=2", directory=tmp_path) as instance:
        names = [path.read_text() for path in Path(f"/proc/{instance.pid}/task").glob("*/comm")]
        assert sum(name.startswith("anyserve-io") for name in names) == 2, names
        assert instance.stop() == 0


def test_a_limit_of_http2_holds(tmp_path: Path) -> None:
    with serving(APP, "--http2-limit=max-streams=7", directory=tmp_path) as instance:
        host, _, port = instance.address.rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
            reader = connection.makefile("rb")
            greeting = reader.read(9)
            settings = reader.read(int.from_bytes(greeting[:3], "big"))
        assert greeting[3] == 4, "the first frame is SETTINGS"
        pairs = {settings[at : at + 2]: settings[at + 2 : at + 6] for at in range(0, len(settings), 6)}
        assert int.from_bytes(pairs[b"\0\x03"], "big") == 7, "SETTINGS_MAX_CONCURRENT_STREAMS"
