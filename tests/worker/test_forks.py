"""Handlers that start processes: it works, and nothing but log lines comes out of the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command import serving

APP = """
    import multiprocessing
    import os
    import subprocess

    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="subprocess")
    def run(request):
        done = subprocess.run(["echo", "7"], stdout=subprocess.PIPE, preexec_fn=os.getpid, check=True)
        return {"n": [int(done.stdout)]}

    @app.capability(type="multiprocessing")
    def fork(request):
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=queue.put, args=(7,))
        child.start()
        child.join()
        return {"n": [queue.get()]}

    @app.capability(type="asynchronous")
    async def fork_on_the_loop(request):
        child = os.fork()
        if child == 0:
            os._exit(7)
        return {"n": [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]}

    @app.capability(type="setting")
    def setting(request):
        return {"setting": [os.environ["GRPC_ENABLE_FORK_SUPPORT"]]}
"""


def test_forks_write_nothing(tmp_path: Path) -> None:
    with serving(APP, directory=tmp_path) as instance:  # checks in the end that all that was written is log lines
        for model in ("subprocess", "multiprocessing", "asynchronous"):
            assert instance.client.infer(model, {}).tensors()["n"].tolist() == [7], model


@pytest.mark.parametrize(("given", "found"), [({}, b"0"), ({"GRPC_ENABLE_FORK_SUPPORT": "1"}, b"1")])
def test_what_the_user_has_set_stays(tmp_path: Path, given: dict[str, str], found: bytes) -> None:
    with serving(APP, directory=tmp_path, env=given) as instance:
        assert instance.client.infer("setting", {}).tensors()["setting"].tolist() == [found]
