"""Which worker loop runs: `--worker-io`, its variable, what is taken without them, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from anyserve.worker.loops import WORKER_IO, available_worker_io
from support.command import Instance, serving, write_app
from support.processes import Running

APP = """
    import sys

    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="loop")
    def loop(request):
        return {"native": ["anyserve.worker.native_server" in sys.modules]}
"""

WITHOUT_NATIVE = """
import runpy, sys
sys.modules["anyserve._native"] = None  # as where it was built without a compiler
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def loop_of(instance: Instance) -> str:
    return WORKER_IO[int(instance.client.infer("loop", {}).tensors()["native"][0])]


@pytest.mark.parametrize("loop", available_worker_io())
def test_the_option(tmp_path: Path, loop: str) -> None:
    with serving(APP, f"--worker-io={loop}", directory=tmp_path) as instance:
        assert loop_of(instance) == loop


@pytest.mark.parametrize("loop", available_worker_io())
def test_the_variable(tmp_path: Path, loop: str) -> None:
    with serving(APP, directory=tmp_path, env={"ANYSERVE_WORKER_IO": loop}) as instance:
        assert loop_of(instance) == loop


def test_native_is_taken_where_it_is_there(tmp_path: Path) -> None:
    with serving(APP, directory=tmp_path) as instance:
        assert loop_of(instance) == available_worker_io()[-1]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("anyserve", ("my_app:app",)), ("anyserve.worker", ("my_app:app", "--management=127.0.0.1:1"))],
)
def test_native_that_is_not_installed_is_refused(tmp_path: Path, module: str, arguments: tuple[str, ...]) -> None:
    write_app(tmp_path, APP)
    command = [sys.executable, "-c", WITHOUT_NATIVE, module, *arguments, "--worker-io=native"]
    refused = Running(command, cwd=tmp_path)
    try:
        assert refused.wait() == 2
    finally:
        refused.kill_all()
    assert "--worker-io" in refused.stderr
    assert "the native loop is not in this installation: leave it out" in refused.stderr


def test_there_is_no_other(tmp_path: Path) -> None:
    refused = Running([sys.executable, "-m", "anyserve.worker", "my_app:app", "--worker-io=uring"], cwd=tmp_path)
    try:
        assert refused.wait() == 2
    finally:
        refused.kill_all()
    assert "'uring' is not one of 'python', 'native'" in refused.stderr
