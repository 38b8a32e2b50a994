"""The settings of an agent, with their defaults and limits. One option of the command line each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MAX_IO_THREADS", "AgentConfig", "PortInUse", "TlsFileError", "UnknownLimit"]

MAX_IO_THREADS = 64


class PortInUse(OSError):
    """An address cannot be listened on; the message names it."""


class TlsFileError(Exception):
    """A file cannot be used; the message names its option, the file and what is wrong (`serving.tls.files`)."""


class UnknownLimit(ValueError):
    """The agent has no limit or setting of that name, or not of that size; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Settings of an agent.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """

    host: str = "0.0.0.0"  # noqa: S104 (a server for the network; the management port is not)
    """Client side, KServe v2 gRPC: an address, a name, or `unix:/path`, which has no port."""
    port: int = 8000
    """Of the client side; 0 takes a free port."""
    tls_cert: str | None = None
    """PEM file of the client side's certificate, and of those between it and its root; None: no TLS."""
    tls_key: str | None = None
    """PEM file of its private key, without a passphrase."""
    tls_client_ca: str | None = None
    """PEM file of those whose certificates clients have to show (mTLS); None: they need none."""
    private_socket: str | None = None
    """A Unix socket in a directory of this user alone, where the client side is served too, and without TLS: for the
    instance's own workers. No option: the instance chooses it."""
    management_host: str = "127.0.0.1"
    management_port: int = 9000
    """Workers and operators; 0 takes a free port."""
    management_token: str | None = None
    """When set, management calls need `authorization: Bearer <token>`."""

    http2_limits: tuple[tuple[str, float], ...] = ()
    """Limits of HTTP/2 on the client side by name, as docs/spec/serving.md lists them: bytes, counts, seconds."""

    io_threads: int = 1
    """Threads that serve clients and talk to workers, of the native agent; the reference agent has one."""

    max_message_bytes: int = 64 << 20
    """The greatest request or reply, on both sides."""
    shared_memory_threshold: int = 64 << 10
    """Payloads from so many bytes on go to and from workers by shared memory, if they take it; 0: none do."""
    shared_memory_bytes: int = 512 << 20
    """Memory for such payloads in all; beyond it they go inline."""
    max_concurrent_rpcs: int = 10_000
    """Client calls under way at once, over all connections."""
    max_stream_requests: int = 64
    """Requests of one ModelStreamInfer call that run at once; the next is read when one has ended."""
    queue_size: int = 1024
    """Requests that wait in one queue."""

    default_max_concurrency: int = 10
    """Exchanges at once over all registrations of a worker that state no number."""
    max_workers: int = 1024
    max_registrations: int = 10_000
    max_watchers: int = 64
    """WatchEvents calls under way at once."""

    connect_timeout: float = 1.0
    """Seconds to wait for room in a worker's accept backlog."""
    heartbeat_timeout: float = 10.0
    """Seconds without a heartbeat after which a worker that has sent some is dropped."""

    @property
    def unix_path(self) -> str | None:
        """Where the client side listens if that is a Unix socket."""
        return self.host.removeprefix("unix:") if self.host.startswith("unix:") else None

    def __post_init__(self) -> None:
        if self.unix_path is not None and not self.unix_path.startswith("/"):
            raise ValueError(f"--host must be unix: and an absolute path, as in unix:/run/anyserve, got {self.host!r}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key must be given together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
        for name in ("port", "management_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} must be 0 to 65535, got {getattr(self, name)}")
        for name in (
            "max_message_bytes",
            "max_concurrent_rpcs",
            "max_stream_requests",
            "default_max_concurrency",
            "max_workers",
            "max_registrations",
            "max_watchers",
            "connect_timeout",
            "heartbeat_timeout",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 1 <= self.io_threads <= MAX_IO_THREADS:
            raise ValueError(f"io_threads must be 1 to {MAX_IO_THREADS}, got {self.io_threads}")
        for name in ("queue_size", "shared_memory_threshold", "shared_memory_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.max_message_bytes > (1 << 31) - 1:
            raise ValueError(f"max_message_bytes must be below 2 GiB, as protobuf has it, got {self.max_message_bytes}")
