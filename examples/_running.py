"""What every run_example.py shares: start the server of an example, hand out a client, stop the server.

The server is the real command line in a process of its own, so an example shows what a
user of `anyserve APP` gets. With --address nothing is started: a running server is asked.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from anyserve import AnyserveClient, InferenceError

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 60.0
STOP_SECONDS = 40.0  # a little more than the server's own grace


def require(*modules: str) -> None:
    """Ends the program with one line when a package of the `examples` extra is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"this example needs {' and '.join(missing)}: pip install 'anyserve[examples]'")


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what all examples take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--address", metavar="HOST:PORT", help="use this running server instead of starting one")
    return parser


def run(main: Callable[[], None]) -> None:
    """Runs an example: an error of the server becomes one line, and a signal that ends it stops the server too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except InferenceError as error:
        raise SystemExit(f"the server answered {error.code.name}: {error.message}") from error


@contextlib.contextmanager
def client_of(app: str, address: str | None) -> Iterator[AnyserveClient]:
    """A client of the server at `address`, else of one started for `app` and stopped at the end."""
    if address is not None:
        with AnyserveClient(address) as client:
            try:
                client.wait_ready(timeout=10.0)
            except TimeoutError:
                raise SystemExit(f"no anyserve server is ready at {address}") from None
            yield client
        return
    with Server(app) as server, AnyserveClient(server.address, management_address=server.management) as client:
        yield client


class Server:
    """One `python -m anyserve APP` on free ports, ready inside the with block."""

    def __init__(self, app: str) -> None:
        command = [sys.executable, "-m", "anyserve", app, "--host", "127.0.0.1", "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--management-port", "0", "--log-format", "json"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # Reads to the end, or a full pipe would stop the server in the middle of a log line.
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        self.address = ""
        self.management = ""

    def __enter__(self) -> Server:
        try:
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        status = self._stop()
        if status != 0 and kind is None:
            raise SystemExit(f"the server ended with status {status}:\n{self._rest()}")

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._lines.put(line)
        self._lines.put(None)

    def _wait_ready(self) -> None:
        seen = ""
        limit = time.monotonic() + READY_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                raise SystemExit(f"the server was not ready after {READY_SECONDS:.0f} s:\n{seen}") from None
            if line is None:
                raise SystemExit(f"the server ended with status {self._process.wait()}:\n{seen}")
            seen += line
            event = _event(line)
            if event.get("event") == "serving":
                self.address, self.management = event["address"], event["management"]
            elif event.get("event") == "ready":
                return

    def _stop(self) -> int:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join(STOP_SECONDS)
        return status

    def _rest(self) -> str:
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get() or "")  # None: the end of the output
        return "".join(lines)


def _event(line: str) -> dict[str, Any]:
    """The log line as a mapping; empty for a line that is none (a warning of a library, say)."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
