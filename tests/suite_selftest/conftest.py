"""Modules of this directory are imported by their names. Writes the kill table where reports are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (kept := os.environ.get("CONFORMANCE_REPORTS")) is None or hasattr(session.config, "workerinput"):
        return
    notes = Path(kept, "mutants", "notes")
    if notes.is_dir():
        from kill_table import write_table

        write_table(notes, notes.parent)
