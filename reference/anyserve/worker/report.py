"""What a worker process tells the supervisor that started it: JSON lines on a pipe.

Only about the process itself (what the app declares, why it failed); requests and
registrations never go this way.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from anyserve.app import Group

__all__ = ["Report"]


class Report:
    """Writes to the supervisor's pipe, or nowhere for a worker that was started by hand.

    Args:
        fd: the pipe's writing end, or None.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def loaded(self, groups: Sequence[Group]) -> None:
        """The app is imported: these groups are in it."""
        self._write(
            event="loaded",
            groups=[
                {"name": g.name, "gpus": g.gpus, "models": sorted({d.model_name for d in g.declarations})}
                for g in groups
            ],
            capabilities=[str(d.capability) for g in groups for d in g.declarations],
        )

    def registered(self) -> None:
        """The agent has taken all registrations of this worker."""
        self._write(event="registered")

    def failed(self, message: str) -> None:
        """The worker ends because of this; to a person where no supervisor listens."""
        if self._fd is None:
            print(f"anyserve.worker: error: {message}", file=sys.stderr)  # noqa: T201 (a command's own message)
        self._write(event="failed", message=message)

    def _write(self, **line: Any) -> None:
        if self._fd is not None:
            with suppress(BrokenPipeError):  # the supervisor is dead; the heartbeats tell what follows
                os.write(self._fd, json.dumps(line).encode() + b"\n")
