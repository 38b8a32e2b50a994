"""Processes that tests start: read line by line while they run, and none left over at the end.

Every process carries a mark in its environment that its children inherit, so that
`leftovers` finds whatever it started, also when it is dead itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

MARK = "SERVING_TEST_MARK"
PATIENCE = 30.0
"""Seconds that anything awaited here may take on a slow machine."""


Result = TypeVar("Result")


def eventually(condition: Callable[[], Result], what: str, *, timeout: float = PATIENCE) -> Result:
    """What `condition` returns once it is true; for what other processes do, of which nothing tells."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)
    return found


def environment(**changes: str) -> dict[str, str]:
    """The environment of this process, without what would change how anyserve runs."""
    # Which agent and which worker loop are tested may be told from outside (tox's `oldest`); nothing else of our own.
    told = ("ANYSERVE_IMPL", "ANYSERVE_WORKER_IO")
    hidden = {name for name in os.environ if name.startswith("ANYSERVE_") and name not in told}
    kept = {k: v for k, v in os.environ.items() if k not in hidden | {"XDG_RUNTIME_DIR"}}
    return {**kept, "PYTHONUNBUFFERED": "1", **changes}


def marked(mark: str) -> list[int]:
    """The living processes whose environment has `mark`."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            if wanted in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


@contextmanager
def short_directory() -> Iterator[str]:
    """A private directory whose path is short enough for sockets."""
    directory = tempfile.mkdtemp(prefix="as-", dir="/tmp")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Running:
    """A process under test.

    Args:
        command: what to run.
        cwd: where.
        env: changes to the environment.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.lines: list[str] = []
        """Standard error so far."""
        self.printed: list[str] = []
        """Standard output so far."""
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**{**(env or {}), MARK: self.mark}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self._process.stderr, self.lines), (self._process.stdout, self.printed))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    @property
    def stdout(self) -> str:
        return "\n".join(self.printed)

    @property
    def stderr(self) -> str:
        return "\n".join(self.lines)

    def logs(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The JSON log lines so far, or those of one event with these fields."""
        return [line for line in map(_parsed, tuple(self.lines)) if line and _fits(line, event, fields)]

    def noise(self) -> list[str]:
        """The lines of standard error that are no JSON log lines."""
        return [line for line in tuple(self.lines) if _parsed(line) is None]

    def wait_log(self, event: str, *, count: int = 1, timeout: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """The `count`th log line of an event with these fields (`...`: whatever is in them), once it has come."""
        deadline = time.monotonic() + timeout
        with self._news:
            while len(found := self.logs(event, **fields)) < count:
                ended = not self.running and not any(reader.is_alive() for reader in self._readers)
                left = deadline - time.monotonic()
                assert not ended, f"the process ended with {self._process.returncode} before {event!r}:\n{self.stderr}"
                assert left > 0, f"no {count}. {event!r} {fields} within {timeout} s:\n{self.stderr}"
                self._news.wait(min(left, 1.0))
        return found[count - 1]

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone."""
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status, once the process has ended and all that it wrote is read."""
        status = self._process.wait(timeout)
        if not marked(self.mark):  # else what it started may still hold its standard error
            for reader in self._readers:
                reader.join(timeout)
        return status

    def leftovers(self, timeout: float = 0.0) -> list[int]:
        """The processes started by this one, or itself, that still live after at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (found := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.05)  # they are not our children: nothing tells when they end
        return found

    def kill_all(self) -> None:
        """Kills the process and whatever it started."""
        while found := marked(self.mark):
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.leftovers(1.0)
        self.wait()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            print(line, end="", file=sys.stderr)  # shown with a failed test
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


def _parsed(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _fits(line: Mapping[str, Any], event: str | None, fields: Mapping[str, Any]) -> bool:
    return event in (None, line.get("event")) and all(
        key in line if value is ... else line.get(key) == value for key, value in fields.items()
    )
