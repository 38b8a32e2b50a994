"""Which bytes are a message, as `frame.scan.*` has it: slow, and plain enough to be seen to be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["REPLY", "REQUEST", "is_message"]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
TEXT, SKIPPED = "text", "skipped"

Fields = Mapping[int, tuple[int, Any]]
"""Field number -> wire type and, of a length-delimited field, what its bytes are."""

PARAMETER: Fields = {
    1: (VARINT, None), 2: (VARINT, None), 3: (LENGTH, TEXT), 4: (FIXED64, None), 5: (VARINT, None),
}  # fmt: skip
ENTRY: Fields = {1: (LENGTH, TEXT), 2: (LENGTH, PARAMETER)}
HEAD: Fields = {1: (LENGTH, TEXT), 2: (LENGTH, TEXT), 3: (LENGTH, TEXT), 4: (LENGTH, ENTRY)}
REQUEST: Fields = {**HEAD, 5: (LENGTH, SKIPPED), 6: (LENGTH, SKIPPED), 7: (LENGTH, SKIPPED)}
REPLY: Fields = {**HEAD, 5: (LENGTH, SKIPPED), 6: (LENGTH, SKIPPED)}


class Malformed(Exception):
    """The bytes are no message."""


def is_message(data: bytes, fields: Fields) -> bool:
    """Whether these bytes are a message with these fields."""
    try:
        _scan(data, fields)
    except Malformed:
        return False
    return True


def _scan(data: bytes, fields: Fields) -> None:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= 536_870_911:
            raise Malformed
        wanted, content = fields.get(number, (wire_type, SKIPPED))
        if wire_type != wanted:
            raise Malformed
        if wire_type == VARINT:
            _, at = _varint(data, at)
        elif wire_type == FIXED64:
            _, at = _bytes(data, at, 8)
        elif wire_type == FIXED32:
            _, at = _bytes(data, at, 4)
        elif wire_type == LENGTH:
            length, at = _varint(data, at)
            inner, at = _bytes(data, at, length)
            _check(inner, content)
        else:
            raise Malformed


def _check(data: bytes, content: Any) -> None:
    if content == TEXT:
        try:
            data.decode()
        except UnicodeDecodeError:
            raise Malformed from None
    elif content != SKIPPED:
        _scan(data, content)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(10):
        byte, at = _bytes(data, at, 1)
        value |= (byte[0] & 0x7F) << 7 * count
        if byte[0] < 0x80:
            break
    else:
        raise Malformed
    if value >= 1 << 64:
        raise Malformed
    return value, at


def _bytes(data: bytes, at: int, count: int) -> tuple[bytes, int]:
    if at + count > len(data):
        raise Malformed
    return data[at : at + count], at + count
