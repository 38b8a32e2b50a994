"""A worker that does what a test says, good or bad, and records every byte it gets.

It listens on a Unix socket and works on bare sockets: it reads nothing and writes
nothing that was not asked for, so a test decides what lies unread and when.
Three ways to use it:

- `await worker.exchange()` hands out the next request; the test answers it;
- `ScriptedWorker(path, answer=...)` answers each request by a function;
- `ScriptedWorker(path, script=...)` leaves each connection to a coroutine.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from google.protobuf.message import Message

from support.waiting import eventually, within
from support.wire import frame, raw_bytes

__all__ = ["Answer", "Connection", "Exchange", "Script", "ScriptedWorker", "silent"]

CHUNK = 1 << 18
MOST_DESCRIPTORS = 8
AGENT_CLOSED = (ConnectionResetError, BrokenPipeError)

Answer = Callable[[bytes], bytes | Message]
"""Request payload to reply payload."""


class Connection:
    """One connection that an agent opened, as the worker's end of it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._serving: asyncio.Task[None] | None = None
        self.received = bytearray()
        """Every byte that was read."""
        self.sent = 0
        """How many bytes the agent's end has accepted."""
        self.descriptors: list[int] = []
        """Those that came and that nobody has taken; closed with the connection."""
        self.ended = asyncio.Event()
        """The agent was seen to close: end of stream, or a reset."""

    def serve(self, script: Awaitable[None]) -> None:
        """Runs the connection's script; it ends with the connection."""

        async def run() -> None:
            with suppress(EOFError, *AGENT_CLOSED):
                await script

        self._serving = asyncio.ensure_future(run())

    async def read(self, size: int = CHUNK) -> bytes:
        """At most `size` bytes; none once the agent has closed."""
        data = b""
        with suppress(*AGENT_CLOSED):
            data = await self._read_some(size)
        self.received += data
        if not data:
            self.ended.set()
        return data

    async def _read_some(self, size: int) -> bytes:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, size, MOST_DESCRIPTORS)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            else:
                self.descriptors += descriptors
                return data

    async def read_exactly(self, size: int) -> bytes:
        """`size` bytes.

        Raises:
            EOFError: the agent closed before them.
        """
        data = bytearray()
        while len(data) < size:
            chunk = await self.read(min(CHUNK, size - len(data)))
            if not chunk:
                raise EOFError(f"the agent closed after {len(data)} of {size} bytes")
            data += chunk
        return bytes(data)

    async def read_frame(self) -> bytes:
        """The payload of the next frame.

        Raises:
            EOFError: the agent closed before its end.
        """
        (length,) = struct.unpack(">I", await self.read_exactly(4))
        return await self.read_exactly(length)

    async def send(self, data: bytes) -> None:
        """Writes bytes as they are; waits while the agent does not take them."""
        view = memoryview(data)
        while view:
            taken = await self._send_some(view)
            self.sent += taken
            view = view[taken:]

    async def _send_some(self, data: memoryview) -> int:
        while True:
            try:
                return self._socket.send(data)
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)

    async def _ready(self, add: Callable[..., None], remove: Callable[[socket.socket], bool]) -> None:
        ready = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        add(self._socket, wake)
        try:
            await ready
        finally:
            remove(self._socket)

    @property
    def is_open(self) -> bool:
        """The worker has not closed it."""
        return self._socket.fileno() >= 0

    def half_close(self) -> None:
        """Ends the direction to the agent; reading goes on."""
        self._socket.shutdown(socket.SHUT_WR)

    def refuse_bytes(self) -> None:
        """Ends the direction from the agent: its next write gets EPIPE, and nothing tells it before."""
        self._socket.shutdown(socket.SHUT_RD)

    async def close(self) -> None:
        """Closes; bytes left unread make it a reset for the agent."""
        task, self._serving = self._serving, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


class Exchange:
    """One request that a worker has read, to be answered by the test."""

    def __init__(self, connection: Connection, payload: bytes) -> None:
        self.connection = connection
        self.payload = payload
        self.over = asyncio.Event()

    async def answer(self, message: bytes | Message = b"") -> None:
        """The one reply of a unary exchange."""
        await self.send(message)
        self.over.set()

    async def send(self, message: bytes | Message) -> None:
        """One reply frame of several."""
        await self.connection.send(frame(message))

    async def end(self) -> None:
        """The empty frame that ends a streaming exchange."""
        await self.answer(b"")

    async def cancelled(self) -> None:
        """Waits until the agent closes the connection; it must send nothing before."""
        assert await within(self.connection.read()) == b"", "bytes instead of the end of the stream"

    async def close(self) -> None:
        """Closes the connection in the middle of the exchange."""
        await self.connection.close()


Script = Callable[["ScriptedWorker", Connection], Awaitable[None]]


class ScriptedWorker:
    """A worker's socket, its connections and the requests that came in.

    Args:
        path: where to listen.
        worker_id: the name to register under.
        answer: answers each request; without it the test does, see `exchange`.
        script: is given each connection instead, and closes it or leaves it open.
        accept: False leaves connections in the backlog.
        backlog: the length of the backlog.
    """

    def __init__(
        self,
        path: str,
        *,
        worker_id: str = "worker",
        answer: Answer | None = None,
        script: Script | None = None,
        accept: bool = True,
        backlog: int = 128,
    ) -> None:
        self.path = path
        self.worker_id = worker_id
        self.answer = answer
        self.script = script
        self.connections: list[Connection] = []
        """All that were ever accepted."""
        self.requests: list[bytes] = []
        """The payloads of all requests that were read whole, in order of arrival."""
        self._accept = accept
        self._backlog = backlog
        self._exchanges: asyncio.Queue[Exchange] = asyncio.Queue()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._fillers: list[socket.socket] = []

    @property
    def address(self) -> str:
        """What a registration says of where the worker listens."""
        return f"unix://{self.path}"

    def listen(self) -> None:
        """Starts to take connections."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(self.path)
        self._listener.listen(self._backlog)
        if self._accept:
            self.start_accepting()

    def start_accepting(self) -> None:
        """Takes the connections out of the backlog, from now on."""
        assert self._listener is not None
        self._accepting = asyncio.ensure_future(self._accept_all(self._listener))

    async def refuse(self) -> None:
        """Stops listening and leaves the socket file: connect(2) is refused from now on."""
        if self._accepting is not None:
            self._accepting.cancel()
            with suppress(asyncio.CancelledError):
                await self._accepting
        if self._listener is not None:
            self._listener.close()

    def fill_backlog(self) -> None:
        """Takes every place in the backlog of a worker that does not accept."""
        while True:
            filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            filler.setblocking(False)
            self._fillers.append(filler)
            try:
                filler.connect(self.path)
            except BlockingIOError:
                return

    async def close(self) -> None:
        """Closes everything."""
        await self.refuse()
        for connection in self.connections:
            await connection.close()
        for filler in self._fillers:
            filler.close()

    async def exchange(self) -> Exchange:
        """The next request that came in on any connection."""
        return await within(self._exchanges.get())

    async def requested(self, count: int) -> None:
        """Waits until `count` requests have been read."""
        await eventually(lambda: len(self.requests) >= count, f"request {count} at {self.worker_id}")

    async def connected(self, count: int = 1) -> Connection:
        """Waits for the connection of that number, from 1."""
        await eventually(lambda: len(self.connections) >= count, f"connection {count} to {self.worker_id}")
        return self.connections[count - 1]

    @property
    def open_connections(self) -> int:
        """How many the agent has not been seen to close."""
        return sum(not connection.ended.is_set() for connection in self.connections)

    async def _accept_all(self, listener: socket.socket) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            connection = Connection(sock)
            self.connections.append(connection)
            connection.serve(self.script(self, connection) if self.script else self.serve(connection))

    async def serve(self, connection: Connection) -> None:
        """Reads requests, one exchange at a time, until the agent closes."""
        while True:
            payload = await connection.read_frame()
            self.requests.append(payload)
            if self.answer is not None:
                await connection.send(frame(raw_bytes(self.answer(payload))))
                continue
            exchange = Exchange(connection, payload)
            self._exchanges.put_nowait(exchange)
            await exchange.over.wait()


async def silent(_worker: ScriptedWorker, connection: Connection) -> None:
    """A script that reads nothing and says nothing."""
    await connection.ended.wait()
