"""Capabilities, queries and how well one matches the other. Pure: no I/O, no clock.

A capability is a set of key -> value strings that a worker offers. A query is a
set of key -> pattern. The registry uses the functions here to choose among
registrations; rules: spec `route.*`, wire.md section 2.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from urllib.parse import quote, unquote_to_bytes

__all__ = [
    "Capability",
    "InvalidCapability",
    "InvalidQuery",
    "Match",
    "Pattern",
    "Query",
    "decimal",
    "decode_capability",
]

MAX_KEYS = 32
MAX_KEY_LENGTH = 64
MAX_VALUE_LENGTH = 256
MAX_PATTERN_LENGTH = 1024

# Keys travel as part of a metadata key (`x-cap-<key>`), which HTTP/2 wants in lower case,
# and whose values gRPC takes for binary if it ends in `-bin`.
_KEY = re.compile(r"(?!.*-bin$)[a-z0-9][a-z0-9_.-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class InvalidCapability(ValueError):
    """A registration's capability breaks the rules; the message names the key."""


class InvalidQuery(ValueError):
    """A client's query breaks the rules; the message names the key."""


class Capability(Mapping[str, str]):
    """An immutable set of key -> value strings, e.g. `{type: chat, model: llama-70b}`.

    Args:
        items: keys `[a-z0-9][a-z0-9_.-]*`, not ending in `-bin`, of at most 64 characters, at most 32
            of them; values of 1 to 256 characters without control characters.

    Raises:
        InvalidCapability: a rule is broken.
    """

    __slots__ = ("_items", "encoded")

    def __init__(self, items: Mapping[str, str]) -> None:
        if len(items) > MAX_KEYS:
            raise InvalidCapability(f"a capability has at most {MAX_KEYS} keys, got {len(items)}")
        for key, value in items.items():
            _check_item(key, value)
        self._items = dict(sorted(items.items()))
        self.encoded = ",".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in self._items.items())
        """`k=v,k=v`, keys sorted, percent-encoded: the value of `anyserve_capability`."""

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self.encoded)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Capability):
            return self.encoded == other.encoded
        return isinstance(other, Mapping) and self._items == dict(other)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{k}: {v}" for k, v in self._items.items()) + "}"


def _check_item(key: str, value: str) -> None:
    if not isinstance(key, str) or not isinstance(value, str):
        raise InvalidCapability(f"capability keys and values are strings, got {key!r}: {value!r}")
    if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        raise InvalidCapability(
            f"capability key {key[:80]!r} must match [a-z0-9][a-z0-9_.-]*, not end in -bin, and have at most "
            f"{MAX_KEY_LENGTH} characters"
        )
    if not 1 <= len(value) <= MAX_VALUE_LENGTH or _CONTROL.search(value):
        raise InvalidCapability(
            f"the value of capability key {key!r} must have 1 to {MAX_VALUE_LENGTH} characters, none of them control"
        )


def decode_capability(encoded: str) -> Capability:
    """Reads the `k=v,k=v` form of `anyserve_capability`.

    Raises:
        InvalidCapability: the text is not of that form.
    """
    items: dict[str, str] = {}
    for part in encoded.split(",") if encoded else ():
        key, equals, value = part.partition("=")
        key = _percent_decode(key, InvalidCapability)
        if not equals or key in items:
            raise InvalidCapability(f"{part[:80]!r} is not key=value, or its key stands twice")
        items[key] = _percent_decode(value, InvalidCapability)
    return Capability(items)


def decimal(text: str) -> Decimal | None:
    """The number that `text` writes (`-?digits[.digits]`), or None."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def _percent_decode(text: str, error: type[ValueError]) -> str:
    if _BAD_PERCENT.search(text):
        raise error(f"{text[:80]!r} has a '%' that is not followed by two hex digits (write %25 for '%')")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise error(f"{text[:80]!r} does not decode to UTF-8") from None


def _glob(text: str) -> re.Pattern[str]:
    # fnmatch writes an expression that does not backtrack over several `*`: clients choose this text.
    return re.compile(fnmatch.translate(text.replace("[", "[[]")))


class Match(IntEnum):
    """How a value satisfies a pattern; higher ranks better."""

    NONE = 0
    PATTERN = 1
    EXACT = 2


_COMPARE: Mapping[str, Callable[[Decimal, Decimal], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Pattern:
    r"""One value pattern of a query: `parse` reads it, `match` applies it.

    | text | matches |
    | --- | --- |
    | `>=n` `<=n` `>n` `<n` | a decimal number that compares so |
    | `!=text` | every other value |
    | `a\|b` | any of the alternatives, each of them as below |
    | with `*` or `?` | a glob: any run of characters, any one character |
    | else | exactly this text |
    """

    text: str
    comparison: str = ""
    operand: str = ""
    literals: frozenset[str] = frozenset()
    globs: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Reads a pattern.

        Raises:
            InvalidQuery: empty, too long, an empty alternative, or no decimal
                number behind a comparison.
        """
        if not 1 <= len(text) <= MAX_PATTERN_LENGTH:
            raise InvalidQuery(f"a pattern has 1 to {MAX_PATTERN_LENGTH} characters, got {len(text)}")
        for comparison in (">=", "<=", "!=", ">", "<"):
            if text.startswith(comparison):
                operand = text[len(comparison) :]
                if comparison != "!=" and not _DECIMAL.fullmatch(operand):
                    raise InvalidQuery(f"pattern {text[:80]!r} needs a decimal number behind {comparison!r}")
                if not operand:
                    raise InvalidQuery("pattern '!=' needs a text behind it")
                return cls(text, comparison, operand)
        alternatives = text.split("|")
        if "" in alternatives:
            raise InvalidQuery(f"pattern {text[:80]!r} has an empty alternative")
        globs = [a for a in alternatives if "*" in a or "?" in a]
        return cls(text, literals=frozenset(alternatives) - set(globs), globs=tuple(_glob(g) for g in globs))

    def match(self, value: str) -> Match:
        """Tells whether `value` satisfies the pattern, and whether exactly."""
        if value in self.literals:
            return Match.EXACT
        if not self.comparison:
            satisfied = any(glob.match(value) for glob in self.globs)
        elif self.comparison == "!=":
            satisfied = value != self.operand
        else:
            number = decimal(value)
            satisfied = number is not None and _COMPARE[self.comparison](number, Decimal(self.operand))
        return Match.PATTERN if satisfied else Match.NONE


@dataclass(frozen=True, slots=True)
class Query:
    """A client's question: key -> pattern."""

    patterns: tuple[tuple[str, Pattern], ...]

    @classmethod
    def parse(cls, items: Mapping[str, str] | tuple[tuple[str, str], ...]) -> Query:
        """Reads patterns as they stand in `x-cap-*` metadata, percent-encoded.

        Raises:
            InvalidQuery: a malformed key or pattern, a key given twice, too many keys.
        """
        pairs = tuple(items.items()) if isinstance(items, Mapping) else items
        if len(pairs) > MAX_KEYS:
            raise InvalidQuery(f"a query has at most {MAX_KEYS} keys, got {len(pairs)}")
        patterns: dict[str, Pattern] = {}
        for key, text in pairs:
            if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key):
                raise InvalidQuery(f"x-cap-{key[:80]}: not a capability key")
            if key in patterns:
                raise InvalidQuery(f"x-cap-{key} is given twice; write alternatives as a|b in one value")
            try:
                patterns[key] = Pattern.parse(_percent_decode(text, InvalidQuery))
            except InvalidQuery as error:
                raise InvalidQuery(f"x-cap-{key}: {error}") from None
        return cls(tuple(patterns.items()))

    def exact_matches(self, capability: Mapping[str, str]) -> int | None:
        """How many keys `capability` matches exactly; None if it does not match the query."""
        exact = 0
        for key, pattern in self.patterns:
            value = capability.get(key)
            if value is None or (match := pattern.match(value)) is Match.NONE:
                return None
            exact += match is Match.EXACT
        return exact

    def __str__(self) -> str:
        return "{" + ", ".join(f"{key}: {pattern.text}" for key, pattern in self.patterns) + "}"
