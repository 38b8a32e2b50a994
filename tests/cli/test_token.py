"""`--management-token` from end to end: the instance's own workers pass, others must know it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from anyserve import AnyserveClient, Code, InferenceError
from support.command import run, serving
from support.processes import Running

APP = """
    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="echo")
    def echo(request):
        return {"n": [1]}
"""
TOKEN = "s3cret token"


@pytest.mark.parametrize("by", ["option", "environment"])
def test_token(tmp_path: Path, by: str) -> None:
    options = [f"--management-token={TOKEN}"] if by == "option" else []
    env = {"ANYSERVE_MANAGEMENT_TOKEN": TOKEN} if by == "environment" else {}
    with serving(APP, *options, directory=tmp_path, env=env) as instance:
        assert instance.client.infer("echo", {}).tensors()["n"].tolist() == [1]  # clients need no token
        address = f"--management-address={instance.management}"
        for extra in ([], ["--management-token=wrong"]):
            done = run("workers", address, *extra, directory=tmp_path)
            assert done.status == 1
            assert "UNAUTHENTICATED" in done.stderr
            assert TOKEN not in done.stderr
        known = run("workers", address, directory=tmp_path, env={"ANYSERVE_MANAGEMENT_TOKEN": TOKEN})
        assert known.status == 0
        assert "echo" in known.stdout
        with AnyserveClient(instance.address, management_address=instance.management, management_token=TOKEN) as client:
            assert len(client.workers()) == 1
        worker = Path(f"/proc/{instance.worker_pid()}/cmdline").read_bytes()
        assert TOKEN.encode() not in worker  # command lines are everybody's to read
    assert TOKEN not in instance.stderr


def test_worker_by_hand_without_the_token_is_told(tmp_path: Path) -> None:
    with serving(APP, f"--management-token={TOKEN}", directory=tmp_path) as instance:
        command = [sys.executable, "-m", "anyserve.worker", "my_app:app", f"--management={instance.management}"]
        worker = Running([*command, f"--socket-dir={instance.socket_dir}", "--log-format=json"], cwd=tmp_path)
        try:
            assert worker.wait(15) == 1
            assert "authorization" in worker.logs("leaving")[0]["reason"]
        finally:
            worker.kill_all()
        with pytest.raises(InferenceError) as caught:
            AnyserveClient(instance.address, management_address=instance.management).workers()
        assert caught.value.code is Code.UNAUTHENTICATED
