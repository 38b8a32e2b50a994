"""Many client connections that have each made one call and then say nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.subjects import Subject

__all__ = ["open_connections"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD = 9
DATA, HEADERS, SETTINGS = 0x0, 0x1, 0x4
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
SERVER_LIVE = "/inference.GRPCInferenceService/ServerLive"
FILE = "/file"


@contextmanager
def open_connections(subject: Subject, count: int, *, grpc: bool = True) -> Iterator[None]:
    """Opens connections one after the other, each with one call that is answered; closes them at the end.

    Args:
        subject: where.
        count: how many.
        grpc: the call is ServerLive, else a GET of nghttpd's file.
    """
    with ExitStack() as held:
        for _ in range(count):
            _call(held.enter_context(socket.create_connection(("127.0.0.1", subject.port), timeout=60)), grpc)
        yield


def _call(sock: socket.socket, grpc: bool) -> None:
    last = 0 if grpc else END_STREAM
    sock.sendall(PREFACE + _frame(SETTINGS, 0, 0) + _frame(HEADERS, END_HEADERS | last, 1, _headers(grpc)))
    if grpc:
        sock.sendall(_frame(DATA, END_STREAM, 1, bytes(5)))
    received = sock.makefile("rb", buffering=0)
    while True:
        head = _exactly(received, FRAME_HEAD)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big")
        _exactly(received, int.from_bytes(head[:3], "big"))
        if kind == SETTINGS and not flags & ACK:
            sock.sendall(_frame(SETTINGS, ACK, 0))
        if stream == 1 and flags & END_STREAM and kind in (DATA, HEADERS):
            return


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _headers(grpc: bool) -> bytes:
    """HPACK without a dynamic table (RFC 7541, 6.1 and 6.2.2; names by their index in appendix A)."""
    path = _text(SERVER_LIVE if grpc else FILE)
    method = b"\x83" if grpc else b"\x82"
    rest = b"\x0f\x10" + _text("application/grpc") + b"\x00" + _text("te") + _text("trailers") if grpc else b""
    return method + b"\x86" + b"\x04" + path + b"\x01" + _text("localhost") + rest


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _exactly(stream: socket.SocketIO, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = stream.read(size - len(found))
        assert piece, "the subject closed the connection"
        found += piece
    return found
