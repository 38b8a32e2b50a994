"""The two worker loops: which of them this installation has."""

from __future__ import annotations

import importlib.util

__all__ = ["WORKER_IO", "available_worker_io"]

WORKER_IO = ("python", "native")
"""`server.py` and `native_server.py`."""


def available_worker_io() -> tuple[str, ...]:
    """The loops that are there, the fastest last."""
    return WORKER_IO if importlib.util.find_spec("anyserve._native") is not None else ("python",)
