"""The private directory of the workers' sockets, and what stale sockets in it are worth."""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

from anyserve.wire import MAX_SOCKET_PATH

__all__ = [
    "SocketDirectoryError",
    "default_socket_dir",
    "listen_privately",
    "prepare_socket_dir",
    "remove_if_stale",
    "remove_stale_sockets",
    "socket_path",
    "untrusted_peer",
]

WORKER_ID_BYTES = 64
BACKLOG = 128
PEERCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid


class SocketDirectoryError(Exception):
    """The directory cannot be used; the message says why and what to do."""


def default_socket_dir() -> str:
    """`$XDG_RUNTIME_DIR/anyserve`, or `/tmp/anyserve-<uid>`."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(runtime, "anyserve") if runtime else f"/tmp/anyserve-{os.getuid()}"  # noqa: S108 (0700, checked)


def prepare_socket_dir(path: str) -> str:
    """Creates the directory if need be, and checks that it is ours alone.

    Returns:
        Its absolute path.

    Raises:
        SocketDirectoryError: not a directory, not ours, open to others, or too long a path.
    """
    path = os.path.abspath(path)
    room = MAX_SOCKET_PATH - len(os.fsencode(path)) - 1
    if room < WORKER_ID_BYTES:
        raise SocketDirectoryError(
            f"socket directory {path} is {WORKER_ID_BYTES - room} bytes too long for Unix sockets: "
            "choose a shorter one with --socket-dir"
        )
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise SocketDirectoryError(f"cannot create the socket directory {path}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise SocketDirectoryError(f"{path} is not a directory: choose another with --socket-dir")
    if found.st_uid != os.getuid():
        raise SocketDirectoryError(f"{path} belongs to uid {found.st_uid}: choose another with --socket-dir")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SocketDirectoryError(f"{path} is open to other users: run `chmod 700 {path}`")
    return path


def socket_path(directory: str, worker_id: str) -> str:
    """Where a worker listens."""
    return os.path.join(directory, f"{worker_id}.sock")


def listen_privately(path: str) -> socket.socket:
    """A socket that listens on `path`, which must not exist, for this user alone.

    Raises:
        OSError: the path cannot be listened on.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def untrusted_peer(sock: socket.socket) -> int | None:
    """The uid at the other end of a Unix socket if it is neither ours nor root's, else None."""
    _, uid, _ = PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEERCRED.size))
    return None if uid in (os.getuid(), 0) else int(uid)


def remove_stale_sockets(directory: str) -> list[str]:
    """Removes the sockets that nobody listens on; returns their names."""
    return [entry.name for entry in Path(directory).glob("*.sock") if remove_if_stale(str(entry))]


def remove_if_stale(path: str) -> bool:
    """Removes a socket that nobody listens on; tells whether there was one."""
    if not (os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and _refused(path)):
        return False
    with suppress(FileNotFoundError):
        os.unlink(path)
    return True


def _refused(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:  # e.g. a full backlog: somebody is there
            return False
    return False
