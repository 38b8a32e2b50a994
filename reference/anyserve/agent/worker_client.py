"""Connections to workers and the exchanges on them.

A `WorkerClient` keeps the connections to one worker's socket; an `Exchange` is one
request frame and its reply frames on one of them. Which worker gets a request,
and what its replies mean, is decided elsewhere. Rules: spec `frame.*`, wire.md
section 4.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import cast

from anyserve.agent.shared_memory import Lent
from anyserve.framing import BadReference, FrameDecoder, FrameTooLong, encode_header, encode_reference
from anyserve.sockets import untrusted_peer

__all__ = ["Exchange", "NotTaken", "ProtocolViolation", "Unreachable", "WorkerClient", "WorkerGone"]

# Reply frames that wait for the client to take them; beyond either, the socket is not read.
READ_AHEAD_FRAMES = 16
READ_AHEAD_BYTES = 1 << 20
CONNECT_RETRY_INTERVAL = 0.005


class Unreachable(Exception):
    """No connection could be made; nothing was sent.

    Attributes:
        refused: nobody listens at the worker's address (any more).
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        self.refused = refused
        super().__init__(reason)


class NotTaken(Exception):
    """The worker closed before it took the whole request frame: sending it elsewhere is safe."""


class WorkerGone(Exception):
    """The worker closed after it took the request and before its reply was complete."""


class ProtocolViolation(Exception):
    """The worker broke the framing; the message says how."""


class _Connection(asyncio.Protocol):
    """One socket to a worker. Between `begin` and `end` it carries an exchange, else it is idle."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._decoder = FrameDecoder(client.max_frame_bytes)
        self._frames: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._busy = False
        self._replied = False  # a byte of a reply has come in this exchange
        self._dropped = False  # the agent gave the worker up
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._lent: Lent | None = None
        self._sender: socket.socket | None = None  # the same socket: the transport passes no descriptors
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before the first use

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client.opened(self)

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self._violation("bytes without a request")
            return
        if self._transport.get_write_buffer_size():
            self._violation("a reply before the whole request was sent")
            return
        self._replied = True
        try:
            frames = self._decoder.feed(data)
        except (FrameTooLong, BadReference) as error:
            self._violation(str(error))
            return
        if frames and self._decoder.placed is not None and self._lent is not None and self._lent.room is not None:
            frames[0] = self._lent.room.read(self._decoder.placed) + frames[0]
        self._frames.extend(frames)
        self._buffered += sum(map(len, frames))
        if len(self._frames) >= READ_AHEAD_FRAMES or self._buffered >= READ_AHEAD_BYTES:
            self._transport.pause_reading()
            self._paused = True
        self._wake()

    def eof_received(self) -> bool:
        self._fail(self._why_closed(None))
        self._transport.abort()  # not `close`: that would wait for a peer that may never read the rest
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)
        if self._sender is not None:
            self._sender.close()
        self._fail(self._why_closed(exc))

    # What an exchange calls.

    def begin(self, parts: Iterable[bytes], lent: Lent | None) -> None:
        """Sends a request frame made of `parts`, by reference if there is memory for it."""
        parts = tuple(parts)
        self._busy = True
        self._replied = False
        self._lent = lent
        self._decoder.offer_room(lent.room.size if lent is not None and lent.room is not None else 0)
        if lent is not None and self._sent_by_reference(parts, lent):
            return
        self._decoder.offer_room(0)
        self._transport.writelines((encode_header(sum(map(len, parts))), *parts))

    def _sent_by_reference(self, parts: tuple[bytes, ...], lent: Lent) -> bool:
        """Sends a frame by reference; False if the socket does not take it now: then it goes inline."""
        inline = b"".join(parts if lent.body is None else parts[1:])
        body = 0 if lent.body is None else len(parts[0])
        room = 0 if lent.room is None else lent.room.size
        frame = encode_reference(len(inline), body, room) + inline
        try:
            if self._sender is None:
                self._sender = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
            # On an idle connection the transport has nothing to write: this cannot overtake anything.
            for memory in lent.all:
                memory.lend()
            sent = socket.send_fds(self._sender, [frame], [memory.descriptor for memory in lent.all])
        except OSError:
            return False
        if sent < len(frame):
            self._transport.write(frame[sent:])
        return True

    async def receive(self) -> bytes:
        """The next reply frame."""
        while not self._frames:
            if self._failure is not None:
                raise self._failure
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        frame = self._frames.popleft()
        self._buffered -= len(frame)
        if self._paused and not self._frames:
            self._paused = False
            self._transport.resume_reading()
        return frame

    def end(self) -> None:
        """The exchange is over: what came beyond its last frame is a violation.

        Raises:
            ProtocolViolation: bytes came after the reply.
        """
        self._busy = False
        if self._frames or self._decoder.unfinished:
            violation = ProtocolViolation("bytes after the reply")
            if self._failure is None:
                self._fail(violation)
            else:  # it was closed behind them, which is a lesser fault
                self._client.violated(violation)
            self._transport.abort()
            raise violation
        if self._failure is None:
            self._client.idle(self)

    def abort(self) -> None:
        """Closes at once; a worker in the middle of an exchange sees it as cancelled."""
        self._transport.abort()

    def drop(self) -> None:
        """Closes at once because the worker is lost."""
        if self._transport.get_write_buffer_size() and not self._replied:
            self._fail(NotTaken("the worker was lost before it took the whole request"))
        self._dropped = True
        self._transport.abort()

    def read_out(self) -> None:
        """What the worker has sent is still read, then the connection ends, whoever holds the other end of it."""
        if not self._transport.is_closing():
            self._transport.get_extra_info("socket").shutdown(socket.SHUT_RD)

    @property
    def closed(self) -> bool:
        """True once the connection is of no more use."""
        return self._failure is not None or self._transport.is_closing()

    def _why_closed(self, exc: Exception | None) -> Exception:
        if self._dropped:
            return WorkerGone("the worker was lost")
        if self._decoder.unfinished:
            return ProtocolViolation("a reply frame was cut off")
        if not self._replied and (isinstance(exc, OSError) or self._transport.get_write_buffer_size()):
            # EPIPE, or ECONNRESET because bytes were left unread: the whole request was not taken.
            return NotTaken("the worker closed without reading the request")
        return WorkerGone("the worker closed the connection before its reply was complete")

    def _violation(self, what: str) -> None:
        self._fail(ProtocolViolation(what))
        self._transport.abort()

    def _fail(self, failure: Exception) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        if isinstance(failure, ProtocolViolation):
            self._client.violated(failure)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Exchange:
    """One request and its replies. Ends with `finish` after the last reply; in any case with `leave`."""

    def __init__(self, connection: _Connection, first: bytes, lent: Lent | None) -> None:
        self._connection = connection
        self._first: bytes | None = first
        self._lent = lent
        self._finished = False

    async def next_reply(self) -> bytes:
        """The payload of the next reply frame.

        Raises:
            WorkerGone: the worker closed first.
            ProtocolViolation: the worker broke the framing.
        """
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._connection.receive()

    def finish(self) -> None:
        """Ends the exchange after its last reply and keeps the connection for the next.

        Raises:
            ProtocolViolation: bytes came after the reply.
        """
        self._finished = True
        ended_well = False
        try:
            self._connection.end()
            ended_well = True
        finally:
            self._return_memory(ended_well=ended_well)

    def leave(self) -> None:
        """Ends an exchange that was not finished by closing the connection, which tells the worker to stop."""
        if not self._finished:
            self._finished = True
            self._connection.abort()
            self._return_memory(ended_well=False)

    def _return_memory(self, *, ended_well: bool) -> None:
        if self._lent is not None:
            self._lent.close(ended_well=ended_well)


_NUMBERS = itertools.count(1)


class WorkerClient:
    """The connections to one worker.

    The number of connections never exceeds the exchanges that run at once, which
    the caller bounds (`Admission`); idle ones are reused, last used first.

    Args:
        path: the worker's socket.
        max_frame_bytes: the greatest reply frame that is accepted.
        connect_timeout: seconds to wait for room in the worker's accept backlog.
        on_violation: called each time the worker breaks the framing.
    """

    def __init__(
        self, path: str, *, max_frame_bytes: int, connect_timeout: float, on_violation: Callable[[Exception], None]
    ) -> None:
        self.path = path
        self.number = next(_NUMBERS)
        """No other has or had it."""
        self.max_frame_bytes = max_frame_bytes
        self.violated = on_violation
        self._connect_timeout = connect_timeout
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._retired = False
        self._lost = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    async def start(self, parts: tuple[bytes, ...], lent: Lent | None = None) -> Exchange:
        """Sends a request frame made of `parts` and waits for the first reply frame.

        `lent` has the first part's bytes in shared memory, or room for the reply; from now on it is ours to close.

        Raises:
            Unreachable: no connection could be made.
            NotTaken: the worker closed before it had taken the whole frame.
            WorkerGone: the worker took the frame and closed without a reply.
            ProtocolViolation: the worker broke the framing.
        """
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    try:
                        return await self._start_on(connection, parts, lent)
                    except NotTaken:
                        lent = lent.without_room() if lent is not None else None
                        break  # the worker may close a kept connection at any time: once more on a new one
            return await self._start_on(await self._connect(), parts, lent)
        except BaseException:
            if lent is not None:
                lent.close(ended_well=False)
            raise

    async def _start_on(self, connection: _Connection, parts: tuple[bytes, ...], lent: Lent | None) -> Exchange:
        try:
            connection.begin(parts, lent)
            return Exchange(connection, await connection.receive(), lent)
        except BaseException:
            connection.abort()
            raise

    async def _connect(self) -> _Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await self._connect_socket(sock)
            self._check_peer(sock)
            _, connection = await asyncio.get_running_loop().create_unix_connection(
                lambda: _Connection(self), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        if self._lost:  # meanwhile; its socket may still take connections
            connection.abort()
            raise Unreachable("it was lost")
        return connection

    async def _connect_socket(self, sock: socket.socket) -> None:
        """Connects a non-blocking socket.

        Not by the event loop: with a full backlog, connect(2) of a Unix socket fails with
        EAGAIN, which the loop takes for a connection under way. No event tells when there
        is room again, hence the retries.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._connect_timeout
        while True:
            try:
                sock.connect(self.path)
            except BlockingIOError:
                if loop.time() >= give_up:
                    raise Unreachable("its accept backlog is full") from None
                await asyncio.sleep(CONNECT_RETRY_INTERVAL)
            except OSError as error:
                refused = isinstance(error, ConnectionRefusedError | FileNotFoundError)
                raise Unreachable(error.strerror or str(error), refused=refused) from error
            else:
                return

    @staticmethod
    def _check_peer(sock: socket.socket) -> None:
        if (uid := untrusted_peer(sock)) is not None:
            raise Unreachable(f"its socket belongs to uid {uid}, neither ours nor root's")

    def close(self) -> None:
        """Closes every connection; exchanges under way end with `WorkerGone`."""
        self._lost = True
        for connection in tuple(self._open):
            connection.drop()

    def read_out(self) -> None:
        """The worker's process has ended: exchanges under way still get what it has sent, and then its end."""
        self._lost = True
        for connection in tuple(self._open):
            connection.read_out()

    def retire(self) -> None:
        """Closes the connections that carry no exchange now, and each of the others when its exchange has ended."""
        self._retired = True
        for connection in tuple(self._idle):
            connection.abort()
        self._idle.clear()

    def opened(self, connection: _Connection) -> None:
        """A connection is made."""
        self._open.add(connection)

    def idle(self, connection: _Connection) -> None:
        """A connection has ended its exchange and may carry the next."""
        if self._retired:
            connection.abort()
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection is closed."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
