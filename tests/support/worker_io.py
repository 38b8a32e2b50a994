"""The native worker loop without a worker: a test sends requests by a socket, gets the exchanges, and reads replies."""

from __future__ import annotations

import select
import socket
from typing import Any

import numpy as np

from anyserve.sockets import listen_privately
from anyserve.tensors import RAW_DATATYPES
from support.processes import PATIENCE

__all__ = ["WorkerLoop"]

REQUEST = 0  # of `take_notices`
LIMIT = 1 << 26


class WorkerLoop:
    """A `WorkerIo` that this thread runs, and one connection to it.

    Args:
        path: where it listens.
    """

    def __init__(self, path: str) -> None:
        from anyserve import _native

        self.io = _native.WorkerIo(
            [("type=m", "m", "", 1, False, False)],
            max_request_bytes=LIMIT,
            max_reply_bytes=LIMIT,
            ndarray=np.ndarray,
            datatypes=dict(RAW_DATATYPES),
            start_thread=lambda: False,
            threads=False,
        )
        self._path = path
        self.io.listen(listen_privately(path).detach())
        self.io.poll()
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(self._path)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()
        self.io.close()
        self.io.poll()

    def request(self, payload: bytes) -> Any:
        """The exchange of a request; None if the loop has closed the connection instead."""
        self._send(len(payload).to_bytes(4, "big") + payload)
        while True:
            self._turn()
            for event, what in self.io.take_notices():
                if event == REQUEST:
                    return what
            try:
                ended = self._socket.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                continue
            assert ended, "a reply without a handler"
            self._socket.close()
            self._connect()
            return None

    def reply(self) -> bytes:
        """The payload of the next reply frame."""
        length = int.from_bytes(self._receive(4), "big")
        return self._receive(length)

    def _turn(self, seconds: float = PATIENCE) -> None:
        select.select([self.io.descriptor()], [], [], seconds)
        self.io.poll()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self.io.poll()

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                more = self._socket.recv(size - len(data))
            except BlockingIOError:
                self.io.poll()
                continue
            assert more, "closed within a frame"
            data += more
        return bytes(data)
