"""Behind an HTTP proxy (`http_proxy` is set on many machines) what stays on this machine does not go through it."""

from __future__ import annotations

from pathlib import Path

from support.command import run, serving

APP = """
    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="inner")
    def inner(request):
        return {"n": [1]}

    @app.capability(type="outer")
    def outer(request, context):
        return context.call("inner", {})
"""
# Nobody listens on the port of `discard`.
PROXY = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")


def test_workers_reach_their_agent(tmp_path: Path) -> None:
    with serving(APP, "--orphan-timeout=3", directory=tmp_path, env=PROXY) as instance:
        assert instance.client.infer("outer", {}).tensors()["n"].tolist() == [1]


def test_commands_reach_an_instance_on_this_machine(tmp_path: Path) -> None:
    with serving(APP, directory=tmp_path) as instance:
        done = run("infer", "outer", f"--address={instance.address}", "--timeout=5", directory=tmp_path, env=PROXY)
        assert (done.status, done.stdout) == (0, "n: INT64 [1] [1]")
        done = run("workers", f"--management-address={instance.management}", directory=tmp_path, env=PROXY)
        assert done.status == 0
