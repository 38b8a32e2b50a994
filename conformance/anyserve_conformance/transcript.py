"""What went over the wire in one case, for the report of a failure."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Entry", "Transcript"]

MAX_ENTRIES = 200
MAX_BYTES = 2_048
MAX_TEXT = 8_192


@dataclass(frozen=True)
class Entry:
    """One thing that was sent, received or noticed; `at` in seconds from the case's start."""

    at: float
    who: str
    event: str
    what: str
    decoded: str
    hex: str
    size: int
    cut: bool


class Transcript:
    """A bounded record: the first and the last entries are kept, each with its first bytes. Threads may share it."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._left_out = 0

    def sent(self, who: str, what: str, data: bytes = b"", decoded: str = "") -> None:
        """Bytes that one of the suite's roles sent."""
        self._add(who, "sent", what, data, decoded)

    def received(self, who: str, what: str, data: bytes = b"", decoded: str = "") -> None:
        """Bytes that one of the suite's roles received."""
        self._add(who, "received", what, data, decoded)

    def note(self, who: str, what: str) -> None:
        """Something that is no bytes: a connection closed, a status."""
        self._add(who, "note", what, b"", "")

    def _add(self, who: str, event: str, what: str, data: bytes, decoded: str) -> None:
        at = round(time.monotonic() - self._start, 4)
        cut = len(data) > MAX_BYTES or len(decoded) > MAX_TEXT
        entry = Entry(at, who, event, what, decoded[:MAX_TEXT], data[:MAX_BYTES].hex(" "), len(data), cut)
        with self._lock:
            self._entries.append(entry)
            if len(self._entries) > MAX_ENTRIES:
                del self._entries[MAX_ENTRIES // 2]
                self._left_out += 1

    def entries(self) -> list[dict[str, Any]]:
        """The entries as JSON has them."""
        with self._lock:
            found = [asdict(entry) for entry in self._entries]
            if self._left_out:
                half = MAX_ENTRIES // 2
                gap = Entry(found[half]["at"], "suite", "note", f"{self._left_out} entries left out", "", "", 0, True)
                found.insert(half, asdict(gap))
        return found
