"""Names and limits that both ends of the wire share: agent, workers and clients. Constants, and nothing else.

Rules: spec `frame.*`, wire.md sections 1, 4 and 5.
"""

from __future__ import annotations

__all__ = [
    "CAPABILITY",
    "ERROR_CODE",
    "ERROR_MESSAGE",
    "INSTANCE_KEY",
    "MAX_CONCURRENCY",
    "MAX_SOCKET_PATH",
    "TIMEOUT_MS",
    "TRACEPARENT",
]

# Parameters that the agent appends to a request.
CAPABILITY = "anyserve_capability"
TIMEOUT_MS = "anyserve_timeout_ms"
TRACEPARENT = "traceparent"

# Parameters of a reply that is an error.
ERROR_CODE = "anyserve_error_code"
ERROR_MESSAGE = "anyserve_error_message"

INSTANCE_KEY = "anyserve-instance"
"""Metadata by which an instance's own workers show that a call is part of one under way."""

MAX_CONCURRENCY = 1024
"""The greatest `max_concurrency` of a registration."""
MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path: sun_path without its NUL."""
