"""Structured logs, one line each, as text (`key=value`) or JSON, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

__all__ = ["FORMATS", "LEVELS", "configure"]

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(format_: str, level: str, **common: Any) -> None:
    """Sends the logs of anyserve, and warnings of everything else, to standard error.

    Args:
        format_: `text` or `json`.
        level: the least severity that is shown, e.g. `info`.
        **common: fields that every line carries, e.g. `worker=...`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(common) if format_ == "json" else _TextFormatter(common))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("anyserve").setLevel(level.upper())


class _Formatter(logging.Formatter):
    def __init__(self, common: dict[str, Any]) -> None:
        super().__init__()
        self._common = common

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if not record.name.startswith("anyserve"):
            fields["logger"] = record.name
        fields.update(self._common)
        fields.update((k, v) for k, v in vars(record).items() if k not in _PLAIN)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return fields


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        try:
            return json.dumps(fields, default=str)
        except (TypeError, ValueError):  # e.g. a tuple as a key: whatever it is, a line of JSON comes out
            return json.dumps({key: str(value) for key, value in fields.items()})


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        start = f"{fields.pop('time')} {fields.pop('level').upper():<7}"
        return " ".join((start, *(f"{key}={_quoted(value)}" for key, value in fields.items())))


def _quoted(value: Any) -> str:
    text = str(value)
    # JSON's quoting keeps a line one line, whatever the text has in it.
    return json.dumps(text) if not text or any(c in ' "=\\' or not c.isprintable() for c in text) else text
