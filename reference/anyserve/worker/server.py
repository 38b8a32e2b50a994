"""Serves exchanges on the worker's Unix socket: frames in, handlers called, frames out.

The other end is `agent/worker_client.py`. Sync handlers run in threads, async ones
on the loop. Rules: spec `frame.*` and `stream.*`, wire.md section 4.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from anyserve.framing import FrameDecoder, FrameTooLong, encode_header
from anyserve.sockets import BACKLOG, listen_privately, untrusted_peer

if TYPE_CHECKING:
    from anyserve.worker.exchange import Exchanges

__all__ = ["Connection", "WorkerServer"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 1024
# Requests that come before their turn are kept up to either, which is about what one read brings; beyond it the
# connection is closed (`frame.connections.early`). It is read all the time, to see when the agent closes it.
EARLY_FRAMES = 16
EARLY_BYTES = 1 << 18
CUT_OFF = 1.0
"""Seconds for handlers on the event loop to end when they are cancelled."""


class Connection(asyncio.Protocol):
    """One connection of an agent. One task serves its exchanges, one after the other."""

    def __init__(self, server: WorkerServer) -> None:
        self._server = server
        self._decoder = FrameDecoder(server.max_frame_bytes)
        self._frames: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before the first use
        self.task: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Serves the exchanges; done when the connection is."""
        self._outbox: Outbox | None = None
        self.busy = False
        """An exchange is under way."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.admit(self):
            self._transport.abort()
            return
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        try:
            self._frames.extend(self._decoder.feed(data))
        except FrameTooLong as error:
            log.warning("closing a connection", extra={"reason": str(error)})
            self._transport.abort()
        if len(self._frames) > EARLY_FRAMES or self._early_bytes > EARLY_BYTES:
            log.warning("closing a connection", extra={"reason": "requests came before their turn"})
            self._transport.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.lost(self)
        if self._outbox is not None:
            self._outbox.close()
        self._writable.set()
        self.task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._outbox is not None:
            self._outbox.resume()

    @property
    def idle(self) -> bool:
        """No exchange is under way and no part of a request has come."""
        return not self.busy and not self._frames and not self._decoder.unfinished

    @property
    def _early_bytes(self) -> int:
        """What has come behind the request whose exchange is under way, or is the next."""
        if not (self.busy or self._frames):
            return 0
        next_one = 0 if self.busy else len(self._frames[0])
        return sum(map(len, self._frames)) - next_one + self._decoder.held

    @property
    def writable(self) -> bool:
        """The agent takes what is written."""
        return self._writable.is_set()

    @property
    def closing(self) -> bool:
        """What is written would be dropped."""
        return self._transport.is_closing()

    def write(self, payload: bytes) -> None:
        """Writes one frame."""
        self._transport.writelines((encode_header(len(payload)), payload))

    @contextmanager
    def stream_outbox(self) -> Iterator[Outbox]:
        """Where the replies of one streaming exchange go while it lasts; what comes later is refused."""
        self._outbox = outbox = Outbox(self)
        try:
            yield outbox
        finally:
            outbox.close()
            self._outbox = None

    async def drained(self) -> None:
        """Waits until the agent takes more."""
        await self._writable.wait()

    def close(self) -> None:
        """Closes after what was written has been sent."""
        self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        self._transport.abort()

    async def _serve(self) -> None:
        try:
            while True:
                while not self._frames:
                    self._server.became_idle()
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
                self.busy = True
                await self._server.exchanges.run(self._frames.popleft(), self)
                self.busy = False
                if self.closing:  # and the handler has swallowed its cancellation
                    return
        except asyncio.CancelledError:
            pass  # the connection is lost
        except Exception:
            log.exception("closing a connection")
            self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Outbox:
    """Reply frames from the event loop or from a handler's thread, held up while the agent takes no more."""

    WRITE_AHEAD = 16

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._places = threading.Semaphore(self.WRITE_AHEAD)
        self._owed = 0  # places to give back when the connection is writable again
        self._closed = False

    def put_from_thread(self, payload: bytes) -> bool:
        """Writes a frame; blocks while the agent is behind. False if the exchange is over."""
        self._places.acquire()
        if self._closed:
            self._places.release()
            return False
        self._loop.call_soon_threadsafe(self._write, payload)
        return True

    async def put(self, payload: bytes) -> bool:
        """Writes a frame, once the agent takes it; False if the exchange is over."""
        await self._connection.drained()
        await asyncio.sleep(0)  # a handler that never waits for anything must not keep the loop from all others
        if self._closed or self._connection.closing:
            return False
        self._connection.write(payload)
        return True

    def encoded(self, arrays: Mapping[str, Any]) -> None:
        """There is no faster way than by a message."""

    def resume(self) -> None:
        """The agent takes more again."""
        if self._owed:
            owed, self._owed = self._owed, 0
            self._places.release(owed)

    def close(self) -> None:
        """The exchange is over: threads that wait here go on."""
        self._closed = True
        self._places.release()  # one wakes, and its release wakes the next

    def _write(self, payload: bytes) -> None:
        if not (self._closed or self._connection.closing):
            self._connection.write(payload)
        if self._connection.writable:
            self._places.release()
        else:
            self._owed += 1


class WorkerServer:
    """Listens on a Unix socket and serves the agents that connect.

    Args:
        exchanges: what runs each exchange.
        max_frame_bytes: the greatest request frame that is accepted.
    """

    share_memory = None
    """It does not take payloads by shared memory."""

    def __init__(self, exchanges: Exchanges, *, max_frame_bytes: int) -> None:
        self.exchanges = exchanges
        self.max_frame_bytes = max_frame_bytes
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._idle = asyncio.Event()

    async def start(self, path: str) -> None:
        """Listens on `path`, which must not exist, for this user alone.

        Raises:
            OSError: the path cannot be listened on.
        """
        sock = listen_privately(path)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Connection(self), sock=sock, backlog=BACKLOG
        )

    async def keep_listening(self, path: str, interval: float) -> None:
        """Listens anew when the socket's file is gone, e.g. because somebody cleaned up; runs until cancelled."""
        while True:
            await asyncio.sleep(interval)
            if not os.path.exists(path):  # noqa: ASYNC240 (a stat of a local file)
                log.warning("listening anew", extra={"reason": "the file of the worker's socket was removed"})
                if self._server is not None:
                    self._server.close()
                await self.start(path)

    async def drain(self, grace: float) -> bool:
        """Takes no more connections, lets the exchanges under way end, and closes; False if some were cut off.

        What an agent had sent before it learned that the worker leaves is in the sockets already; it is served.
        """
        if self._server is not None:
            self._server.close()
        # Two turns of the loop: the first polls the sockets, the second runs what had arrived in them.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended = True
        try:
            async with asyncio.timeout(grace):
                while not all(connection.idle for connection in self._connections):
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            ended = False
        await self._close_all()
        return ended

    def close(self) -> None:
        """Starts no more handlers; those that run in threads are not waited for."""
        self.exchanges.close()

    async def _close_all(self) -> None:
        """Closes the connections; handlers that are cut off are told before this returns."""
        connections = tuple(self._connections)
        for connection in connections:
            if connection.idle:
                connection.close()
            else:
                connection.abort()
        if connections:
            await asyncio.wait([connection.task for connection in connections], timeout=CUT_OFF)

    def admit(self, connection: Connection) -> bool:
        """Whether a new connection may stay: there is room, and it is from this user or root."""
        sock = cast(socket.socket, connection._transport.get_extra_info("socket"))
        if (uid := untrusted_peer(sock)) is not None:
            log.warning("refused a connection", extra={"reason": f"it comes from uid {uid}"})
            return False
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("refused a connection", extra={"reason": f"{MAX_CONNECTIONS} are open"})
            return False
        self._connections.add(connection)
        return True

    def lost(self, connection: Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        self._idle.set()

    def became_idle(self) -> None:
        """A connection has ended its exchange."""
        self._idle.set()
