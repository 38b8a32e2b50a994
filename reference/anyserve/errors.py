"""The errors of an inference request: a gRPC status code and a message for the client.

This room knows nothing of sockets or gRPC; `agent/kserve_service.py` and the
worker runtime turn these values into what the wire says.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

__all__ = ["Code", "InferenceError"]


class Code(IntEnum):
    """gRPC status codes, by the numbers that go over the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class _NamedStatus(Protocol):
    """What `grpc.StatusCode` offers; named here so that grpc need not be imported."""

    @property
    def name(self) -> str: ...


class InferenceError(Exception):
    """Fails a request with a status of the handler's choice.

    Args:
        code: a `Code`, its number or name, or a `grpc.StatusCode`; not OK.
        message: what was wrong and what to do, as the client shall read it.

    Raises:
        ValueError: `code` is no gRPC error status.
    """

    def __init__(self, code: Code | int | str | _NamedStatus, message: str) -> None:
        self.code = _code(code)
        self.message = str(message)  # exceptions are passed as they are, too
        super().__init__(f"{self.code.name}: {self.message}")


def _code(code: Code | int | str | _NamedStatus) -> Code:
    try:
        name = code if isinstance(code, str) else getattr(code, "name", "")
        found = Code(code) if isinstance(code, int) else Code[name.upper()]
    except (ValueError, KeyError):
        raise ValueError(f"{code!r} is not a gRPC status code; use one of {', '.join(c.name for c in Code)}") from None
    if found is Code.OK:
        raise ValueError("OK is not an error status")
    return found
