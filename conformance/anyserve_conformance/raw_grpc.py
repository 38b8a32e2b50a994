"""gRPC over HTTP/2 as values: the headers and messages of a call, and what came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

__all__ = [
    "ERRORS",
    "INFER",
    "LIVE",
    "GrpcAnswer",
    "Header",
    "Message",
    "error_name",
    "integer",
    "literal",
    "literals",
    "prefixed",
    "request_headers",
]

LIVE = "/inference.GRPCInferenceService/ServerLive"
INFER = "/inference.GRPCInferenceService/ModelInfer"
ERRORS = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED"),
    *("FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
"""Error codes of RST_STREAM and GOAWAY by number."""

Header = tuple[str | bytes, str | bytes]


def error_name(code: int) -> str:
    """The name of an error code of HTTP/2."""
    return ERRORS[code] if code < len(ERRORS) else f"error {code}"


def prefixed(payload: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message: flag, length (that of the payload unless another is given), payload."""
    return bytes([flag]) + (len(payload) if length is None else length).to_bytes(4, "big") + payload


def request_headers(
    path: str | None = LIVE,
    *,
    content_type: str | None = "application/grpc",
    te: str | None = "trailers",
    method: str | None = "POST",
    scheme: str | None = "http",
    authority: str | None = "conformance.test",
    timeout: str | None = None,
    extra: Sequence[Header] = (),
) -> list[Header]:
    """The headers of a call in the order that gRPC recommends; None leaves one out."""
    pairs = [(":method", method), (":scheme", scheme), (":path", path), (":authority", authority)]
    pairs += [("grpc-timeout", timeout), ("te", te), ("content-type", content_type)]
    return [(name, value) for name, value in pairs if value is not None] + list(extra)


def literal(name: str | bytes, value: str | bytes, *, form: int = 0x00) -> bytes:
    """A field without Huffman code; the form says whether the table takes it (RFC 7541, 6.2: only with 0x40)."""
    return bytes([form]) + _text_of_hpack(name) + _text_of_hpack(value)


def literals(pairs: Sequence[Header]) -> bytes:
    """A header block that touches no table."""
    return b"".join(literal(name, value) for name, value in pairs)


def _text_of_hpack(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return integer(len(data), 7) + data


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """An integer of HPACK (RFC 7541, 5.1) behind the high bits of its first byte."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    rest, value = bytearray([first | limit]), value - limit
    while value >= 128:
        rest.append(value & 127 | 128)
        value >>= 7
    return bytes(rest) + bytes([value])


@dataclass(frozen=True)
class Message:
    """A gRPC message as it came."""

    flag: int
    payload: bytes


@dataclass(repr=False)
class GrpcAnswer:
    """What has come on one stream. Its `repr` says in a line how the call went."""

    stream: int
    blocks: list[list[tuple[str, str]]] = field(default_factory=list)
    """The header blocks, in order."""
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    """END_STREAM has come."""
    ended_by_headers: bool = False
    reset: int | None = None
    """The error code of RST_STREAM."""
    lost: str = ""
    """How the connection ended, if it did before the stream."""

    @property
    def finished(self) -> bool:
        """Nothing more can come."""
        return self.ended or self.reset is not None or bool(self.lost)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The first header block."""
        return self.blocks[0] if self.blocks else []

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """The last header block if it ended the stream; of a trailers-only answer it is the first as well."""
        return self.blocks[-1] if self.blocks and self.ended_by_headers else []

    @property
    def trailers_only(self) -> bool:
        """One header block and no data."""
        return self.ended_by_headers and len(self.blocks) == 1 and not self.data

    @property
    def http_status(self) -> int | None:
        """`:status`."""
        status = self.values(":status")
        return int(status[0]) if len(status) == 1 and status[0].isdecimal() else None

    @property
    def status(self) -> int | None:
        """`grpc-status`, where there is exactly one."""
        found = [value for name, value in self.trailers if name == "grpc-status"]
        return int(found[0]) if len(found) == 1 and found[0].isdecimal() else None

    @property
    def raw_message(self) -> str | None:
        """`grpc-message` as it stands on the wire."""
        found = [value for name, value in self.trailers if name == "grpc-message"]
        return found[0] if found else None

    @property
    def message(self) -> str:
        """`grpc-message`, decoded."""
        return unquote(self.raw_message or "", errors="replace")

    @property
    def messages(self) -> list[Message]:
        """The complete messages."""
        found, rest = [], bytes(self.data)
        while len(rest) >= 5 and len(rest) >= (end := 5 + int.from_bytes(rest[1:5], "big")):
            found.append(Message(rest[0], rest[5:end]))
            rest = rest[end:]
        return found

    def values(self, name: str) -> list[str]:
        """The values of a field of the first header block."""
        return [value for key, value in self.headers if key == name]

    @property
    def ok(self) -> bool:
        """HTTP status 200 and `grpc-status` 0."""
        return self.http_status == 200 and self.status == 0

    def expect_ok(self, what: str = "the call") -> GrpcAnswer:
        """Itself.

        Raises:
            AssertionError: the call did not end with OK.
        """
        assert self.ok, f"{what} ended with {self}, not with OK"
        return self

    def expect_failed(self, what: str) -> GrpcAnswer:
        """Itself.

        Raises:
            AssertionError: the call has not ended, or with OK.
        """
        assert self.finished, f"{what} did not end"
        assert not self.ok, f"{what} ended with OK"
        return self

    def expect_status(self, status: int, what: str) -> GrpcAnswer:
        """Itself.

        Raises:
            AssertionError: the call did not end with this `grpc-status`.
        """
        assert self.status == status, f"{what} ended with {self}, not with grpc-status {status}"
        return self

    def __repr__(self) -> str:
        said = [f"HTTP {self.http_status}" if self.http_status is not None else ""]
        if self.status is not None:
            said.append(f"grpc-status {self.status}" + (f" ({self.message})" if self.raw_message else ""))
        elif self.ended:
            said.append("END_STREAM without one grpc-status")
        if self.reset is not None:
            said.append(f"RST_STREAM {error_name(self.reset)}")
        said.append(self.lost)
        if not self.finished:
            said.append("no end of the call")
        return ", ".join(filter(None, said))
