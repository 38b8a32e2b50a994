"""Texts and bytes from strangers, made fit to be shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup, escape

# Control characters, what reorders or hides text (bidirectional marks, zero width, tags), what UTF-8 or XML lacks.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffc\ufffe\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)

ROW = 8


def visible(text: str) -> str:
    """The text with each character that has no honest shape on a page written as an escape such as `\\u202e`."""
    return _UNSHOWN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shorten(text: str, limit: int) -> str:
    """The text, or its beginning and how much is left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def prose(text: str, keyword: str = "") -> Markup:
    """A sentence of the spec as HTML: what stands in backticks as code, the keyword emphasized."""
    parts = visible(text).split("`")
    if len(parts) % 2 == 0:
        parts = ["`".join(parts)]
    html = [
        Markup("<code>{}</code>").format(part) if i % 2 else _emphasize(part, keyword) for i, part in enumerate(parts)
    ]
    return Markup("").join(html)


def _emphasize(text: str, keyword: str) -> Markup:
    if not keyword:
        return escape(text)
    parts = re.split(rf"\b({keyword}(?: NOT)?)\b", text)
    return Markup("").join(
        Markup('<strong class="keyword">{}</strong>').format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )


def breakable(name: str) -> Markup:
    """A dotted name as HTML that may be broken behind its dots."""
    return Markup(".<wbr>").join(visible(name).split("."))


@dataclass(frozen=True)
class HexRow:
    offset: str
    hex: str
    ascii: str


def hex_rows(data: bytes) -> Iterator[HexRow]:
    for at in range(0, len(data), ROW):
        row = data[at : at + ROW]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in row)
        yield HexRow(offset=f"{at:04x}", hex=row.hex(" "), ascii=shown)


def size(count: int) -> str:
    if count < 10_000:
        return f"{count:,} byte{'' if count == 1 else 's'}"
    return f"{count / 1024:,.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):,.1f} MiB"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
