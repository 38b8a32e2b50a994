"""The worker's role: a Unix socket that does what a case says, good or bad, and records every byte.

Three ways to use one:

- `worker.exchange()` hands out the next request, and the case answers it;
- `answer=` answers each request by a function;
- `raw=True` leaves the connections alone: the case reads and writes them itself.
"""

from __future__ import annotations

import fcntl
import os
import queue
import select
import socket
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from anyserve_conformance import proto
from anyserve_conformance.patience import LONG, Patience
from anyserve_conformance.transcript import Transcript
from anyserve_conformance.wire import decoded, frame, raw_bytes

__all__ = ["Connection", "Exchange", "ScriptedWorker"]

CHUNK = 1 << 18
MOST_DESCRIPTORS = 16
Answer = Callable[[bytes], bytes | Message]
"""Request payload to reply payload."""


class Connection:
    """One connection between agent and worker, as the suite's end of it. Either side may be the suite's."""

    def __init__(self, sock: socket.socket, who: str, transcript: Transcript, patience: Patience) -> None:
        self.socket = sock
        self.who = who
        self.transcript = transcript
        self.patience = patience
        self.received = bytearray()
        """Every byte that was read."""
        self.descriptors: list[int] = []
        """Those that came with them, and that nobody has taken."""
        self.ended = threading.Event()
        """The other side was seen to close: end of stream, or a reset."""
        sock.settimeout(patience())

    def read(self, size: int = CHUNK, within: float = LONG) -> bytes:
        """At most `size` bytes; none once the other side has closed.

        Raises:
            AssertionError: nothing came.
        """
        self.socket.settimeout(self.patience(within))
        try:
            data, descriptors, _, _ = socket.recv_fds(self.socket, size, MOST_DESCRIPTORS)
        except TimeoutError:
            raise AssertionError(f"nothing came on the connection within {self.patience(within):g} s") from None
        except (ConnectionResetError, BrokenPipeError):
            self.transcript.note(self.who, "saw its connection reset")
            self.ended.set()
            return b""
        self.received += data
        self.descriptors += descriptors
        if not data and not self.ended.is_set():
            self.transcript.note(self.who, "saw its connection closed")
            self.ended.set()
        return data

    def read_exactly(self, size: int, within: float = LONG) -> bytes:
        """`size` bytes.

        Raises:
            EOFError: the other side closed before them.
            AssertionError: they did not come.
        """
        data = bytearray()
        while len(data) < size:
            chunk = self.read(min(CHUNK, size - len(data)), within)
            if not chunk:
                raise EOFError(f"the connection was closed after {len(data)} of {size} bytes")
            data += chunk
        return bytes(data)

    def read_frame(self, within: float = LONG) -> bytes:
        """The payload of the next frame.

        Raises:
            EOFError: the other side closed before its end.
            AssertionError: it did not come.
        """
        header = self.read_exactly(4, within)
        payload = self.read_exactly(int.from_bytes(header, "big"), within)
        self.transcript.received(self.who, "frame", header + payload, self.text(payload))
        return payload

    def text(self, payload: bytes) -> str:
        """A payload that came, for people."""
        return decoded(proto.ModelInferRequest, payload)

    def send(self, data: bytes, what: str = "bytes", text: str = "", within: float = LONG) -> None:
        """Writes bytes as they are.

        Raises:
            AssertionError: the other side did not take them.
            ConnectionError: it has closed.
        """
        self.transcript.sent(self.who, what, data, text)
        self.socket.settimeout(self.patience(within))
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise AssertionError(f"the other side did not read within {self.patience(within):g} s") from None

    def send_frame(self, message: bytes | Message = b"", within: float = LONG) -> None:
        """Writes one frame."""
        payload = raw_bytes(message)
        text = decoded(type(message), payload) if isinstance(message, Message) else ""
        self.send(frame(payload), "frame", text, within)

    def send_available(self, data: bytes | memoryview) -> int:
        """Writes as many bytes as are taken at once; their number."""
        self.socket.setblocking(False)
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def silent(self, for_: float = 0.15) -> bool:
        """Whether neither bytes nor the end come within a short time; bytes that come are lost."""
        if self.ended.is_set():
            return False
        self.socket.settimeout(for_)
        try:
            data = self.socket.recv(CHUNK)
        except TimeoutError:
            return True
        except ConnectionResetError:
            data = b""
        self.received += data
        if not data:
            self.ended.set()
        return False

    def expect_end(self, within: float = LONG) -> None:
        """Waits until the other side closes.

        Raises:
            AssertionError: it sent bytes instead, or nothing happened.
        """
        data = self.read(within=within)
        assert not data, f"{len(data)} bytes came instead of the end of the connection: {data[:64].hex(' ')}"

    def taken(self, within: float = LONG) -> None:
        """Waits until the other side has read all that was sent.

        Raises:
            AssertionError: it did not.
        """

        def nothing_left() -> bool:
            left = fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4))
            return not int.from_bytes(left, sys.byteorder)

        self.patience.until(nothing_left, "the other side to read what was sent to it", within=within)

    @property
    def hung_up(self) -> bool:
        """The other side has closed, whether or not there are bytes of it to read before."""
        if self.ended.is_set() or self.socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def half_close(self) -> None:
        """Ends the direction to the other side; reading goes on."""
        self.transcript.note(self.who, "half-closes its connection")
        self.socket.shutdown(socket.SHUT_WR)

    def refuse_bytes(self) -> None:
        """Ends the direction from the other side: its next write gets EPIPE, and nothing tells it before."""
        self.transcript.note(self.who, "stops reading: further writes to it fail")
        self.socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Closes; bytes left unread make it a reset for the other side."""
        if self.socket.fileno() >= 0:
            self.transcript.note(self.who, "closes its connection")
            self.socket.close()
        while self.descriptors:
            os.close(self.descriptors.pop())


class Exchange:
    """One request that a worker has read, to be answered by the case."""

    def __init__(self, worker: ScriptedWorker, connection: Connection, payload: bytes) -> None:
        self.worker = worker
        self.connection = connection
        self.payload = payload
        self.over = threading.Event()

    @property
    def request(self) -> Any:
        """The request as it came."""
        return proto.ModelInferRequest.FromString(self.payload)

    def answer(self, message: bytes | Message = b"") -> None:
        """The one reply of a unary exchange."""
        self.send(message)
        self.over.set()

    def send(self, message: bytes | Message) -> None:
        """One reply frame of several."""
        self.connection.send_frame(message)

    def end(self) -> None:
        """The empty frame that ends a streaming exchange."""
        self.answer(b"")

    def cancelled(self, within: float = LONG) -> None:
        """Waits until the agent closes the connection; it must send nothing before."""
        self.connection.expect_end(within)

    def close(self) -> None:
        """Closes the connection in the middle of the exchange."""
        self.connection.close()
        self.over.set()


class ScriptedWorker:
    """A worker's socket, its connections and the requests that came in.

    Args:
        directory: where the socket goes.
        worker_id: the name to register under.
        answer: answers each request; without it the case does, see `exchange`.
        raw: connections are only accepted; see `connection`.
        accept: False leaves connections in the backlog.
        backlog: the length of the backlog.
    """

    def __init__(
        self,
        directory: Path,
        worker_id: str,
        transcript: Transcript,
        patience: Patience,
        *,
        answer: Answer | None = None,
        raw: bool = False,
        accept: bool = True,
        backlog: int = 128,
    ) -> None:
        self.path = directory / f"{worker_id[-40:]}.sock"
        self.worker_id = worker_id
        self.answer = answer
        self.connections: list[Connection] = []
        """All that were ever accepted."""
        self.requests: list[bytes] = []
        """The payloads of all requests that were read whole, in order of arrival; not of `raw` workers."""
        self._transcript = transcript
        self._patience = patience
        self._raw = raw
        self._accept = accept
        self._backlog = backlog
        self._exchanges: queue.SimpleQueue[Exchange] = queue.SimpleQueue()
        self._accepted: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._fillers: list[socket.socket] = []
        self._closing = False
        self.listen()

    @property
    def address(self) -> str:
        """What a registration says of where the worker listens."""
        return f"unix://{self.path}"

    def listen(self) -> None:
        """Starts to take connections, also again after `refuse`."""
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(self._backlog)
        if self._accept:
            self.start_accepting()

    def start_accepting(self) -> None:
        """Takes the connections out of the backlog, from now on."""
        assert self._listener is not None
        self._run(self._accept_all, self._listener)

    def refuse(self) -> None:
        """Stops listening and leaves the socket's file: connect(2) is refused from now on."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def fill_backlog(self) -> None:
        """Takes every place in the backlog of a worker that does not accept."""
        while True:
            filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            filler.setblocking(False)
            self._fillers.append(filler)
            try:
                filler.connect(str(self.path))
            except BlockingIOError:
                return

    def exchange(self, within: float = LONG) -> Exchange:
        """The next request that came in on any connection.

        Raises:
            AssertionError: there was none.
        """
        try:
            return self._exchanges.get(timeout=self._patience(within))
        except queue.Empty:
            waited = self._patience(within)
            raise AssertionError(f"no request reached {self.worker_id} within {waited:g} s") from None

    def connection(self, within: float = LONG) -> Connection:
        """The next connection that was accepted.

        Raises:
            AssertionError: there was none.
        """
        try:
            return self._accepted.get(timeout=self._patience(within))
        except queue.Empty:
            waited = self._patience(within)
            raise AssertionError(f"no connection to {self.worker_id} within {waited:g} s") from None

    def no_exchange(self, for_: float = 0.15) -> None:
        """Watches that no request comes for a short time.

        Raises:
            AssertionError: one came.
        """
        try:
            exchange = self._exchanges.get(timeout=for_)
        except queue.Empty:
            return
        raise AssertionError(f"{self.worker_id} got a request: {exchange.payload[:64].hex(' ')}")

    def requested(self, count: int) -> None:
        """Waits until `count` requests have been read."""
        self._patience.until(lambda: len(self.requests) >= count, f"request {count} at {self.worker_id}")

    @property
    def open_connections(self) -> int:
        """How many connections neither side has been seen to close."""
        return sum(not c.ended.is_set() and c.socket.fileno() >= 0 for c in self.connections)

    def close(self) -> None:
        """Closes everything."""
        self._closing = True
        self.refuse()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            connection.socket.close()
        for filler in self._fillers:
            filler.close()
        while not self._exchanges.empty():
            self._exchanges.get().over.set()
        self.path.unlink(missing_ok=True)

    def _run(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # closed
                return
            who = f"{self.worker_id} connection {len(self.connections) + 1}"
            self._transcript.note(who, "accepted")
            connection = Connection(sock, who, self._transcript, self._patience)
            self.connections.append(connection)
            self._accepted.put(connection)
            if not self._raw:
                self._run(self._serve, connection)

    def _serve(self, connection: Connection) -> None:
        """Reads requests, one exchange at a time, until the agent closes."""
        with suppress(EOFError, OSError, AssertionError):
            while not self._closing:
                payload = self._next_request(connection)
                self.requests.append(payload)
                if self.answer is not None:
                    connection.send_frame(raw_bytes(self.answer(payload)))
                    continue
                exchange = Exchange(self, connection, payload)
                self._exchanges.put(exchange)
                exchange.over.wait()

    def _next_request(self, connection: Connection) -> bytes:
        """Waits as long as it takes: an idle connection is no failure."""
        connection.socket.settimeout(None)
        try:
            header = connection.socket.recv(4, socket.MSG_PEEK)
        except ConnectionResetError:
            header = b""
        if not header:
            connection.ended.set()
            raise EOFError
        return connection.read_frame()
