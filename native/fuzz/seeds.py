"""Writes the corpora that fuzzing begins with, a directory for each target, most of them from the golden vectors.

Needs nothing but the standard library.

Usage: seeds.py VECTORS OUTPUT
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

MAX_SEED = 4096
"""Bytes: what longer inputs show beside the shorter ones is not worth the time that each run of them takes."""


def vectors(directory: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))["vectors"]
    return found


def as_bytes(written: Any) -> bytes:
    """Bytes as vectors write them: see conformance/vectors/README.md."""
    if isinstance(written, list):
        return b"".join(as_bytes(part) for part in written)
    if isinstance(written, dict):
        return as_bytes(written["repeat"]) * int(written["times"])
    return bytes.fromhex(written)


def as_text(written: Any) -> str:
    if isinstance(written, list):
        return "".join(as_text(part) for part in written)
    if isinstance(written, dict):
        return as_text(written["repeat"]) * int(written["times"])
    return str(written)


def encoded(pairs: list[tuple[str, str]]) -> str:
    return ",".join(f"{key}={quote(value, safe='')}" for key, value in sorted(pairs))


def framing(directory: Path) -> Iterator[bytes]:
    for vector in vectors(directory, "frames"):
        limit = struct.pack(">H", min(vector["limit"], 0xFFFF))
        for piece in (0, 4, 255):
            yield limit + bytes((piece,)) + as_bytes(vector["bytes"])


def scan(directory: Path) -> Iterator[bytes]:
    messages = [as_bytes(vector["bytes"]) for vector in vectors(directory, "scan")]
    for vector in vectors(directory, "annotations"):
        messages += [as_bytes(vector[key]) for key in ("request", "appended", "reply", "response") if key in vector]
        for key in ("replies", "responses"):
            messages += [as_bytes(message) for message in vector.get(key, [])]
    # So many parameters that they are no longer searched one by one, most of them several times.
    entry = "22 07 0a 01 {name:02x} 12 02 10 {value:02x}"
    for count in (17, 40, 120):
        for names in (1, 16, 17, 40):
            written = (entry.format(name=0x30 + i * 7 % names, value=i) for i in range(count))
            messages.append(bytes.fromhex("".join(written)))
    for parameters in messages[-6:]:
        parts = (parameters[:117], parameters[117:234], parameters[:117])  # thirteen entries each
        messages.append(b"".join(b"\x12\x75" + part for part in parts if len(part) == 117))
    for message in messages:
        yield struct.pack(">H", len(message) // 2) + message


def query(directory: Path) -> Iterator[bytes]:
    for vector in vectors(directory, "patterns"):
        if vector["kind"] == "decode":
            yield f"type:{as_text(vector['value'])}\ntype=a".encode()
        elif vector["kind"] == "match":
            pattern = quote(as_text(vector["pattern"]), safe="")
            for key in ("exact", "satisfied", "not_satisfied"):
                for value in vector.get(key, [])[:2]:
                    yield f"type:{pattern}\n{encoded([('type', as_text(value))])}".encode()
        else:
            lines = "".join(f"{as_text(key)}:{as_text(value)}\n" for key, value in vector["query"])
            pairs = [(key, as_text(value)) for key, value in vector.get("capability", {}).items()]
            yield f"{lines}{encoded(pairs)}".encode()


def capability(directory: Path) -> Iterator[bytes]:
    for vector in vectors(directory, "capabilities"):
        pairs = [(as_text(key), as_text(value)) for key, value in vector["capability"]]
        yield ",".join(f"{key}={value}" for key, value in pairs).encode()
        yield encoded(pairs).encode()


def message(payload: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message with its prefix, which may say another length."""
    return struct.pack(">BI", flag, len(payload) if length is None else length) + payload


def grpc_message(_: Path) -> Iterator[bytes]:
    bodies = (
        message(b"") + message(b"abc"),
        message(gzip.compress(b"abc" * 500, mtime=0), 1) + message(b"x"),
        message(b"x", 2),
        message(b"x", 0, 70_000),
        message(gzip.compress(bytes(9_000), mtime=0), 1),
    )
    for body in bodies:
        for encoding in range(4):
            yield bytes((encoding, 4)) + body


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def header(name: bytes, value: bytes) -> bytes:
    """A header that HPACK does not index."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def headers(path: bytes = b"/test.Service/Method", more: bytes = b"") -> bytes:
    return (
        header(b":method", b"POST")
        + header(b":scheme", b"http")
        + header(b":path", path)
        + header(b":authority", b"t")
        + header(b"te", b"trailers")
        + header(b"content-type", b"application/grpc")
        + more
    )


def call(stream: int, more: bytes = b"", *, path: bytes = b"/test.Service/Method", flags: int = 0) -> bytes:
    return frame(HEADERS, flags | END_HEADERS, stream, headers(path, more))


def last(stream: int, body: bytes) -> bytes:
    return frame(DATA, END_STREAM, stream, body)


def initial_window(size: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, size))


def http2_connection(_: Path) -> Iterator[bytes]:
    cancel = struct.pack(">I", 8)
    compressed = gzip.compress(b"hi" * 99, mtime=0)
    connections = (
        call(1) + last(1, message(b"hi")),
        call(1, header(b"grpc-encoding", b"gzip")) + last(1, message(compressed, 1)),
        call(1) + frame(DATA, 0, 1, message(b"a") + message(b"b")) + last(1, message(b"c" * 900)),
        call(1) + frame(RST_STREAM, 0, 1, cancel) + call(3) + last(3, message(b"z")),
        initial_window(0)
        + call(1)
        + last(1, message(b"x" * 9_000))
        + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 20_000)),
        call(1, header(b"grpc-timeout", b"10S") + header(b"x-bin", b"AAE=,AA"))
        + frame(PING, 0, 0, b"12345678")
        + frame(DATA, END_STREAM | PADDED, 1, b"\x03" + message(b"") + bytes(3)),
        frame(HEADERS, 0, 1, headers()[:30])
        + frame(CONTINUATION, END_HEADERS, 1, headers()[30:])
        + last(1, message(b"q")),
        call(1, path=b"/xxxxxxx") + call(3, flags=END_STREAM) + frame(GOAWAY, 0, 0, bytes(8)),
        initial_window(10)
        + call(1)
        + last(1, message(b"y" * 2_000))
        + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)) * 5
        + frame(RST_STREAM, 0, 1, cancel),
    )
    for connection in connections:
        for behaviour in (0x40, 0xC0, 5, 0x85):  # whole or in pieces, unary or a stream
            yield bytes((behaviour,)) + connection


TARGETS = {
    "capability": capability,
    "framing": framing,
    "grpc_message": grpc_message,
    "http2_connection": http2_connection,
    "query": query,
    "scan": scan,
}


def main(directory: Path, output: Path) -> None:
    for name, seeds in TARGETS.items():
        target = output / name
        target.mkdir(parents=True, exist_ok=True)
        for seed in seeds(directory):
            if len(seed) <= MAX_SEED or name == "http2_connection":
                digest = hashlib.sha256(seed).hexdigest()[:16]  # as libFuzzer names what it finds: no seed twice
                (target / digest).write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
