"""The directory of the workers' sockets: private, short enough, without the remains of the dead."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from support.command import Instance, run, started, write_app
from support.processes import short_directory

APP = """
    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="echo")
    def echo(request):
        return {"n": [1]}
"""


def refused(tmp_path: Path, socket_dir: str) -> str:
    write_app(tmp_path, APP)
    done = run("my_app:app", "--port=0", "--management-port=0", f"--socket-dir={socket_dir}", directory=tmp_path)
    assert done.status == 1
    assert len(done.lines) == 1, done.stderr
    assert done.lines[0].startswith("anyserve: error: ")
    return done.lines[0]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_directory_that_is_open_to_others(tmp_path: Path, mode: int) -> None:
    with short_directory() as directory:
        os.chmod(directory, mode)
        message = refused(tmp_path, directory)
    assert "is open to other users" in message
    assert f"chmod 700 {directory}" in message


def test_path_that_is_too_long(tmp_path: Path) -> None:
    with short_directory() as directory:
        message = refused(tmp_path, f"{directory}/{'long' * 20}")
        assert "too long for Unix sockets" in message
        assert "--socket-dir" in message
        assert os.listdir(directory) == []


def test_longest_path_that_fits(tmp_path: Path) -> None:
    write_app(tmp_path, APP)
    with short_directory() as directory:
        longest = directory + "/" + "d" * (107 - 1 - 64 - len(directory) - 1)
        with started("my_app:app", f"--socket-dir={longest}", directory=tmp_path) as instance:
            instance.wait_log("ready")
            assert instance.client.infer("echo", {}).tensors()["n"].tolist() == [1]
            assert instance.stop() == 0
        assert os.listdir(longest) == []


def test_path_that_is_no_directory(tmp_path: Path) -> None:
    with short_directory() as directory:
        Path(directory, "file").touch()
        assert "directory" in refused(tmp_path, f"{directory}/file")
        assert "cannot create" in refused(tmp_path, f"{directory}/file/below")


def test_link_to_a_directory_is_not_followed(tmp_path: Path) -> None:
    with short_directory() as directory:
        Path(directory, "real").mkdir(mode=0o700)
        Path(directory, "link").symlink_to(Path(directory, "real"))
        assert "is not a directory" in refused(tmp_path, f"{directory}/link")


def test_directory_is_made_private(tmp_path: Path) -> None:
    write_app(tmp_path, APP)
    with short_directory() as directory, started(
        "my_app:app", f"--socket-dir={directory}/new/deep", directory=tmp_path
    ) as instance:  # fmt: skip
        instance.wait_log("ready")
        made = Path(directory, "new", "deep")
        assert made.stat().st_mode & 0o777 == 0o700
        (entry,) = made.iterdir()
        assert entry.stat().st_mode & 0o777 == 0o600
        assert instance.stop() == 0


def test_stale_sockets_are_removed_and_nothing_else(tmp_path: Path) -> None:
    with started(directory=tmp_path) as first:
        first.wait_log("ready")
        directory = Path(first.socket_dir)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(directory / "dead.sock"))
        (directory / "file.sock").write_text("no socket")
        (directory / "notes.txt").touch()
        with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as busy:
            alive.bind(str(directory / "alive.sock"))
            alive.listen()
            busy.bind(str(directory / "busy.sock"))
            busy.listen(0)
            with socket.socket(socket.AF_UNIX) as waiting:
                waiting.connect(str(directory / "busy.sock"))  # fills the backlog
                second = Instance(
                    "--host=127.0.0.1", "--port=0", "--management-port=0", "--log-format=json",
                    f"--socket-dir={directory}", directory=tmp_path, socket_dir=str(directory),
                )  # fmt: skip
                try:
                    second.wait_log("ready")
                    assert second.logs("removed stale sockets")[0]["sockets"] == ["dead.sock"]
                    assert sorted(os.listdir(directory)) == ["alive.sock", "busy.sock", "file.sock", "notes.txt"]
                    assert second.stop() == 0
                finally:
                    second.kill_all()
        assert first.stop() == 0


def test_default_directory_follows_the_runtime_directory(tmp_path: Path) -> None:
    write_app(tmp_path, APP)
    with short_directory() as runtime:
        instance = Instance(
            "my_app:app", "--host=127.0.0.1", "--port=0", "--management-port=0", "--log-format=json",
            directory=tmp_path, socket_dir=f"{runtime}/anyserve", env={"XDG_RUNTIME_DIR": runtime},
        )  # fmt: skip
        try:
            instance.wait_log("ready")
            assert len(instance.sockets()) == 1
            assert instance.stop() == 0
            assert instance.sockets() == []
        finally:
            instance.kill_all()
