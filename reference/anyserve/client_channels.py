"""Where a client's calls go: addresses, channels, gRPC's errors as ours, and waiting for a server to be ready."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from anyserve import rpc
from anyserve.client_calls import Call
from anyserve.errors import Code, InferenceError

__all__ = ["Channels", "ReadyWait", "channel_credentials", "host_of", "inference_error", "inference_errors"]

# A server tells nobody that it became ready, so `wait_ready` has to ask again: soon at first, because
# most servers start within a second, then seldom enough to cost the server nothing.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.5
# gRPC's own pause between connection attempts grows to two minutes; `wait_ready` would sit it out.
CHANNEL_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))
# gRPC would ask $http_proxy for this very machine.
NO_PROXY = (("grpc.enable_http_proxy", 0),)
# A Unix socket has no name that a certificate could be for.
NAME_OF_UNIX = (("grpc.ssl_target_name_override", "localhost"),)

# `stream` sends one request. Said as a stream of one, grpc.aio may lose the status of a server that refuses
# at once (grpc issue 36066).
_SINGLE_REQUEST = frozenset({"ModelStreamInfer"})
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]):(?P<port>[0-9]{1,5})")
_LOCAL = re.compile(r"localhost:|127\.|\[::1\]:|unix:")


def host_of(address: str) -> str | None:
    """Checks an address; gives its host, or None for a Unix socket."""
    if address.startswith("unix:") and len(address) > len("unix:"):
        return None
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(
            f"{address!r} is not an address: write HOST:PORT without a scheme, e.g. localhost:8000 or [::1]:8000, "
            "or unix:/path/of/socket"
        )
    return match["host"]


def channel_credentials(ca: str | None, cert: str | None, key: str | None) -> grpc.ChannelCredentials | None:
    """What TLS needs, from PEM files; None if `ca` is: no TLS."""
    if (cert is None) != (key is None):
        raise ValueError("tls_cert and tls_key must be given together")
    if ca is None:
        if cert is not None:
            raise ValueError("tls_cert and tls_key need tls_ca")
        return None
    roots, chain, private_key = (path and Path(path).read_bytes() for path in (ca, cert, key))
    return grpc.ssl_channel_credentials(roots or b"", private_key or None, chain or None)


@contextmanager
def inference_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise inference_error(error) from error


def inference_error(error: Any) -> InferenceError:
    """What a failed call of grpc means."""
    return InferenceError(error.code(), error.details() or "the server gave no message")


class Channels:
    """The channels of one client, each opened when first needed; threads may share it.

    Args:
        open_channel: opens a channel to a service, by the service's name.
        addresses: of the services, by their names; None: there is none.
        limit: bytes of a message.
    """

    def __init__(
        self, open_channel: Mapping[str, Callable[..., Any]], addresses: Mapping[str, str | None], limit: int
    ) -> None:
        self._open_channel = open_channel
        self._addresses = addresses
        self._options = [*CHANNEL_OPTIONS, *((f"grpc.max_{way}_message_length", limit) for way in ("receive", "send"))]
        self._lock = threading.Lock()  # of two threads that come first, one opens the channel
        self._channels: dict[str, Any] = {}
        self._callables: dict[str, dict[str, Callable[..., Any]]] = {}
        self.closed = False

    def callable(self, call: Call[Any]) -> Callable[..., Any]:
        """Finds what sends `call`.

        Raises:
            RuntimeError: the client is closed.
            ValueError: the service has no address.
        """
        service = call.service
        with self._lock:
            if self.closed:
                raise RuntimeError("the client is closed")
            if service.name not in self._channels:
                address = self._addresses[service.name]
                if address is None:
                    raise ValueError("a Unix socket has no default management port; give management_address")
                options = [*self._options, *(NO_PROXY if _LOCAL.match(address) else ())]
                options += NAME_OF_UNIX if address.startswith("unix:") else ()
                channel = self._channels[service.name] = self._open_channel[service.name](address, options=options)
                self._callables[service.name] = rpc.callables(channel, service, single_request=_SINGLE_REQUEST)
            return self._callables[service.name][call.method]

    def close(self) -> list[Any]:
        """Lets no call start any more, and gives the channels to close."""
        with self._lock:
            self.closed = True
            return list(self._channels.values())


class ReadyWait:
    """The decisions of `wait_ready`: when to ask, what to put up with, when to give up."""

    def __init__(self, address: str, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        self._deadline = time.monotonic() + timeout
        self._pause = FIRST_PAUSE
        self._failure: InferenceError | None = None

    def left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            reason = self._failure or "it answers that it is not ready yet"
            raise TimeoutError(f"{self._address} was not ready within {self._timeout:g} s: {reason}") from self._failure
        return left

    @contextmanager
    def attempt(self) -> Iterator[None]:
        try:
            yield
            self._failure = None
        except InferenceError as error:
            if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                raise
            # An earlier "connection refused" says more than the deadline that ended the last attempt.
            self._failure = self._failure if self._failure and error.code is Code.DEADLINE_EXCEEDED else error

    def pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return max(0.0, min(pause, self._deadline - time.monotonic()))
