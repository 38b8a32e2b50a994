"""Programs that the suite starts: agents and workers under test."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from anyserve_conformance.patience import LONG, Patience

__all__ = ["CannotStart", "Program", "environment_of", "reserved_ports"]

OUTPUT_LINES = 12


class CannotStart(Exception):
    """A subject did not come up; the message says what it printed."""


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """TCP ports on 127.0.0.1 that nobody listens on, and that no other run of the suite gets meanwhile.

    Until the subject listens there, a UDP socket of the same number tells other runs that the port is taken.
    """
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            sign = held.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            sign.bind(("127.0.0.1", 0))
            port: int = sign.getsockname()[1]
            # Linux gives even ports to connections first: an odd one will still be free in a moment.
            if port % 2 and _is_free(port):
                ports.append(port)
        yield ports


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def environment_of(options: Mapping[str, object]) -> dict[str, str]:
    """Options of the specification as environment variables: `queue-size` is ANYSERVE_QUEUE_SIZE."""
    return {f"ANYSERVE_{name.upper().replace('-', '_')}": str(value) for name, value in options.items()}


class Program:
    """One process and its output; `close` ends it and all that it has started.

    Args:
        command: split as a shell would; no shell is used.
        options: handed over in the environment.

    Raises:
        CannotStart: there is no such program.
    """

    def __init__(self, command: str, patience: Patience, options: Mapping[str, object] | None = None) -> None:
        self.command = command
        self._patience = patience
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        environment = {**os.environ, **environment_of(options or {})}
        try:
            self.process = subprocess.Popen(
                shlex.split(command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._output.close()
            raise CannotStart(f"cannot start {command!r}: {error}") from None

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self.process.poll() is None

    def output(self) -> str:
        """The last lines that it has printed."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 16_384))
        lines = self._output.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-OUTPUT_LINES:])

    def signal(self, number: int) -> None:
        """Sends a signal to the process."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.signal(signal.SIGTERM)

    def wait(self, within: float = LONG) -> int:
        """Its exit status.

        Raises:
            AssertionError: it did not end.
        """
        try:
            return self.process.wait(self._patience(within))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process did not end within {self._patience(within):g} s") from None

    def children(self) -> list[int]:
        """The ids of the processes in its session, without itself: what it has started and that still runs."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                with suppress(OSError, IndexError, ValueError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.process.pid and fields[0] != "Z":
                        found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Kills what is left of it."""
        for pid in [*self.children(), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(self._patience())
        self._output.close()
