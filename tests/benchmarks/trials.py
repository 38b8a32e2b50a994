"""A load of one request again and again, after a look at what it brings."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from benchmarks.load import Load
from benchmarks.measuring import Trial
from benchmarks.prepared import Prepared, ask
from benchmarks.subjects import FILE_BYTES, Subject

__all__ = ["trial"]

FRAMING = 5
"""Bytes before a gRPC message."""


def trial(
    subject: Subject,
    request: Prepared,
    *,
    connections: int = 1,
    streams: int = 1,
    metadata: Mapping[str, str] | None = None,
    status: grpc.StatusCode | None = None,
    units: int = 1,
    per_second: float | None = None,
) -> Trial:
    """A load of one request again and again, after a look at what it brings.

    Args:
        subject: who gets it; nghttpd gets a GET of its file in its place.
        request: what to send.
        connections: client connections.
        streams: requests at once on each.
        metadata: of the call.
        status: of the failure that it must bring.
        units: responses to each request; more than one: a stream.
        per_second: see `Load`.
    """
    if subject.name == "nghttpd":
        return Trial(subject, Load("/file", None, connections, streams, per_second=per_second), FILE_BYTES)
    metadata = metadata or {}
    replies = ask(subject.port, request, metadata=metadata.items(), stream=units > 1)
    if status is not None:
        assert replies == status
        data_bytes = 0
    else:
        assert isinstance(replies, list), f"{subject.name}: {replies}"
        assert len(replies) == units
        data_bytes = sum(len(reply) + FRAMING for reply in replies)
    headers = tuple(f"{key}: {value}" for key, value in metadata.items())
    load = Load(request.path, request.body, connections, streams, headers, per_second)
    return Trial(subject, load, data_bytes, units)
