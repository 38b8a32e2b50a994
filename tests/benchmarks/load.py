"""Load by h2load, and what came of it. Bodies are prepared files: the same for every subject."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Load", "Outcome", "framed", "percentile", "run"]

FINISHED = re.compile(r"finished in ([\d.]+)(us|ms|s),")
REQUESTS = re.compile(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded")
TRAFFIC = re.compile(r"traffic: .* \((\d+)\) data")
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
STAGGERED_START = 1
"""Connections per millisecond that a paced load opens, so that they do not send in step."""


def framed(message: bytes) -> bytes:
    """A gRPC message as it stands in the body of a request."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@dataclass(frozen=True, slots=True)
class Load:
    """Who asks what, and how many at once.

    Args:
        path: of the URL.
        body: a file with the request's body; None: a GET.
        connections: client connections.
        streams: requests at once on each.
        headers: beside those of gRPC, `name: value`.
        per_second: requests per second over all connections; None: as fast as answers come.
        http1: by HTTP/1.1, and no headers of gRPC.
    """

    path: str
    body: Path | None = None
    connections: int = 1
    streams: int = 1
    headers: tuple[str, ...] = ()
    per_second: float | None = None
    http1: bool = False

    def command(self, port: int, requests: int, log: Path) -> list[str]:
        """The command line of h2load."""
        command = ["h2load", f"-c{self.connections}", f"-m{self.streams}", f"-n{requests}", f"--log-file={log}"]
        if self.body is not None:
            command.append(f"--data={self.body}")
            for header in self.headers if self.http1 else (*GRPC_HEADERS, *self.headers):
                command += ["-H", header]
        if self.http1:
            command.append("--h1")
        if self.per_second is not None:
            command += [f"--rps={self.per_second / self.connections:.3f}"]
            command += [f"--rate={STAGGERED_START}", "--rate-period=1ms"]
        return [*command, f"http://127.0.0.1:{port}{self.path}"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What h2load saw. Every request was answered with HTTP status 200."""

    requests: int
    seconds: float
    data_bytes: int
    """Of all bodies that came back."""
    latencies: list[int] = field(repr=False)
    """Microseconds, ascending."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run(port: int, load: Load, requests: int, *, skip: float = 0.0, timeout: float = 300.0) -> Outcome:
    """Sends that many requests and waits for the answers.

    Args:
        port: of the subject, on the loopback address.
        load: what to send.
        requests: how many.
        skip: seconds at the beginning whose latencies do not count.
        timeout: for all of it.

    Raises:
        AssertionError: a request was not answered, or not with 200.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        done = subprocess.run(
            load.command(port, requests, log), capture_output=True, text=True, timeout=timeout, check=True
        )
        rows = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    finished, counted, traffic = (pattern.search(done.stdout) for pattern in (FINISHED, REQUESTS, TRAFFIC))
    assert finished, done.stdout
    assert counted, done.stdout
    assert traffic, done.stdout
    assert {int(number) for number in counted.groups()} == {requests}, done.stdout
    begin = min(row[0] for row in rows) + skip * 1e6
    return Outcome(
        requests=requests,
        seconds=float(finished[1]) * SECONDS[finished[2]],
        data_bytes=int(traffic[1]),
        latencies=sorted(latency for started, _status, latency in rows if started >= begin),
    )


def percentile(ascending: list[int], percent: float) -> int:
    """The nearest-rank percentile."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * percent / 100))]
