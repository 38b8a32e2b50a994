"""Log lines: one line each, in either format, whatever happens; and what stands in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from anyserve import AnyserveClient, InferenceError
from support.command import Instance, serving, write_app
from support.processes import eventually, short_directory

APP = """
    import logging
    import warnings

    from anyserve import AnyServe, Worker

    app = AnyServe()

    logging.getLogger("mine").warning("loading\\nthe app of %s", "mine")

    @app.capability(type="fails")
    def fails(request):
        raise RuntimeError("first line\\nsecond \\"quoted\\" line = 1")

    @app.capability(type="logs")
    def logs(request):
        logging.getLogger("mine").error("a warning\\nof two lines", extra={"odd": {("a", 1): b"x"}})
        logging.getLogger("mine").info("not shown")
        return {}

    @app.worker(capabilities=[{"type": "class"}])
    class Class(Worker):
        def on_cleanup(self):
            raise RuntimeError("cleaning up\\nfails")

        def handle(self, request):
            return {}
"""

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def everything(instance: Instance) -> None:
    """Makes the instance and its workers log what they can."""
    with pytest.raises(InferenceError):
        instance.client.infer("fails", {})
    instance.client.infer("logs", {})
    assert instance.stop() == 0


def test_json_lines(tmp_path: Path) -> None:
    with serving(APP, directory=tmp_path) as instance:
        address = instance.address
        everything(instance)
    lines = [json.loads(line) for line in instance.lines]
    assert all(list(line)[:3] == ["time", "level", "event"] for line in lines)
    assert all(re.fullmatch(TIME, line["time"]) for line in lines)
    assert {line["level"] for line in lines} <= {"debug", "info", "warning", "error"}
    events = [line["event"] for line in lines]
    assert events.index("serving") < events.index("ready") < events.index("draining") < events.index("stopped")
    assert instance.logs("serving")[0]["address"] == address
    assert sorted(instance.logs("ready")[0]["capabilities"]) == ["{type: class}", "{type: fails}", "{type: logs}"]
    (failed,) = instance.logs("handler failed")
    assert failed["worker"] in {line["worker"] for line in instance.logs("worker started")}
    assert 'RuntimeError: first line\nsecond "quoted" line = 1' in failed["traceback"]
    assert instance.logs("a warning\nof two lines", logger="mine")
    assert instance.logs("loading\nthe app of mine")
    assert instance.logs("on_cleanup failed")
    assert not instance.logs("not shown")


def test_text_lines(tmp_path: Path) -> None:
    write_app(tmp_path, APP.replace(', extra={"odd": {("a", 1): b"x"}}', ""))
    with short_directory() as socket_dir:
        instance = Instance(
            "my_app:app", "--host=127.0.0.1", "--port=0", "--management-port=0", f"--socket-dir={socket_dir}",
            directory=tmp_path, socket_dir=socket_dir,
        )  # fmt: skip
        try:
            serving = wait_line(instance, "event=serving ")
            address = re.search(r"address=(\S+) management=(\S+)", serving)
            assert address
            wait_line(instance, "event=ready ")
            everything_by_text(address[1])
            assert instance.stop() == 0
        finally:
            instance.kill_all()
    line = re.compile(
        rf'{TIME} (DEBUG|INFO|WARNING|ERROR) +event=("[^\n]*?"|[^ ]+)( [a-z_]+=("([^"\\]|\\.)*"|[^ "]+))*'
    )
    assert [text for text in instance.lines if not line.fullmatch(text)] == []
    assert any('"a warning\\nof two lines"' in text for text in instance.lines)


def wait_line(instance: Instance, part: str) -> str:
    found = eventually(lambda: [line for line in tuple(instance.lines) if part in line], part)
    return found[0]


def everything_by_text(address: str) -> None:
    with AnyserveClient(address) as client:
        with pytest.raises(InferenceError):
            client.infer("fails", {})
        client.infer("logs", {})


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", True), ("warning", False), ("error", False)])
def test_log_level(tmp_path: Path, level: str, shown: bool) -> None:
    source = "from anyserve import AnyServe\napp = AnyServe()\napp.capability(type='x')(lambda request: {})\n"
    write_app(tmp_path, source)
    with short_directory() as socket_dir:
        instance = Instance(
            "my_app:app", "--host=127.0.0.1", "--port=0", "--management-port=0", "--log-format=json",
            f"--socket-dir={socket_dir}", f"--log-level={level}", directory=tmp_path, socket_dir=socket_dir,
        )  # fmt: skip
        try:
            if shown:
                instance.wait_log("ready")
            else:
                eventually(instance.sockets, "the worker listens")
            assert instance.stop() == 0
        finally:
            instance.kill_all()
    assert bool(instance.logs("serving")) == shown
    assert shown or instance.lines == []


def test_output_of_handlers_goes_to_standard_output(tmp_path: Path) -> None:
    source = """
        from anyserve import AnyServe

        app = AnyServe()

        @app.capability(type="prints")
        def prints(request):
            print("printed by a handler")
            return {}
    """
    with serving(source, directory=tmp_path) as instance:
        instance.client.infer("prints", {})
    assert instance.printed == ["printed by a handler"]
