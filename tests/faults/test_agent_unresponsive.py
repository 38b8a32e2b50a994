"""An agent that lives but does not answer its workers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.command import started, write_app
from support.processes import eventually

APP = """
    import time
    from pathlib import Path

    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="it")
    def it(request):
        return {}

    Path("loading").touch()
    while not Path("go-on").exists():
        time.sleep(0.01)
"""


@pytest.mark.slow
def test_agent_that_is_stopped_while_the_app_loads(tmp_path: Path) -> None:
    """A worker that gave up before it had registered is the reason that its instance gives for the failed start."""
    write_app(tmp_path, APP)
    with started("my_app:app", "--orphan-timeout=0.5", directory=tmp_path) as instance:
        eventually((tmp_path / "loading").exists, "loading")
        instance.signal(signal.SIGSTOP)
        (tmp_path / "go-on").touch()
        instance.wait_log("leaving", reason="no agent has answered for 0.5 s")
        instance.signal(signal.SIGCONT)
        assert instance.wait() == 1
        assert instance.noise() == ["anyserve: error: no agent has answered for 0.5 s"]
