"""Reads the golden vectors: `vectors/*.json`, described in `vectors/README.md`.

Needs the standard library alone, so that unit tests can load it from its path. A
key that the format does not name is an error here, so that no reader passes over
part of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FILES", "Vector", "VectorError", "as_bytes", "as_text", "directory", "load"]

MAX_EXPANDED = 1 << 24
"""Bytes or characters that one `repeat` may make: a slip in `times` fails instead of filling the memory."""

Keys = tuple[frozenset[str], frozenset[str]]
"""The keys that an object must have, and those that it may have."""


class VectorError(ValueError):
    """A file of vectors breaks its format; the message says where."""


@dataclass(frozen=True)
class Vector:
    """One golden vector; `vector["key"]` and `vector.get("key")` read its fields."""

    name: str
    kind: str
    requirement: str
    why: str
    fields: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    def __contains__(self, key: str) -> bool:
        return key in self.fields

    def get(self, key: str, default: Any = None) -> Any:
        """The field `key`, or `default` if the vector does not have it."""
        return self.fields.get(key, default)


def _keys(required: str, optional: str = "") -> Keys:
    return frozenset(required.split()), frozenset(optional.split())


HEAD = _keys("name requirement why")
REGISTRATION = _keys(
    "worker", "label model_name model_version capability capability_pairs stream priority max_concurrency"
)
REQUEST = _keys("", "model_name model_version query call")
READ = _keys("", "model_name model_version id parameters")
STREAM_READ = _keys("", "error_message infer_response")
ATTEMPT = _keys("worker", "connect kept written sees")
RESPONSE = _keys("", "reply error message id final")
EVENTS: Mapping[str, Keys] = {
    "arrive": _keys("arrive then", "model_name model_version query deadline call"),
    "reply": _keys("reply then"),
    "not_taken": _keys("not_taken then"),
    "register": _keys("register then"),
    "unregister_model": _keys("unregister_model then"),
    "unregister_worker": _keys("unregister_worker then"),
    "cancel": _keys("cancel then"),
    "time": _keys("time then"),
    "drain": _keys("drain then"),
}

# File -> kind of vector -> its keys beside name, requirement and why. A file with one kind does not state it.
FILES: Mapping[str, Mapping[str, Keys]] = {
    "frames": {"": _keys("limit bytes payloads state", "needs violation_at")},
    "shared": {
        "request": _keys("body room inline frame descriptors"),
        "reply": _keys("limit room bytes", "placed inline refused"),
    },
    "scan": {
        "request": _keys("bytes", "malformed fields whole_at"),
        "reply": _keys("bytes", "malformed fields whole_at"),
        "stream-reply": _keys("bytes", "malformed fields whole_at"),
    },
    "annotations": {
        "request": _keys("request registration appended", "query seconds_left traceparent"),
        "reply": _keys("request registration reply response", "query"),
        "stream": _keys("request registration replies responses", "query"),
    },
    "capabilities": {"": _keys("capability", "encoded refused")},
    "patterns": {
        "decode": _keys("value", "pattern refused"),
        "match": _keys("pattern", "exact satisfied not_satisfied refused"),
        "query": _keys("query", "capability exact_keys match refused"),
    },
    "routing": {"": _keys("registrations request", "groups status")},
    "queues": {"": _keys("registrations events", "queue_size default_max_concurrency waiting")},
    "errors": {
        "reply": _keys("reply status", "message"),
        "request": _keys("registrations bytes status", "metadata draining call"),
        "exchange": _keys("attempts status tried"),
        "stream": _keys("bytes responses", "stream sees registered"),
        "status-message": _keys("message encoded_bytes sent"),
    },
}


def directory() -> Path:
    """Where the vectors are: inside the installed package, or beside it in the sources."""
    inside = Path(__file__).parent / "vectors"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "vectors"


def load(file: str) -> list[Vector]:
    """Reads one file of vectors, such as `load("frames")`, and checks its keys.

    Raises:
        VectorError: a vector lacks a key, has one that its kind does not have, or a name stands twice.
    """
    with (directory() / f"{file}.json").open(encoding="utf-8") as source:
        content = json.load(source, object_pairs_hook=_without_duplicates)
    _check(content, _keys("about vectors"), f"{file}.json")
    vectors = [_vector(file, each) for each in content["vectors"]]
    names = [vector.name for vector in vectors]
    for name in names:
        if names.count(name) > 1:
            raise VectorError(f"{file}.json has the name {name!r} twice")
    return vectors


def as_bytes(value: Any) -> bytes:
    """The bytes that a value writes: hex digits, `{"repeat": hex, "times": n}`, or a list of such parts."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    if isinstance(value, list):
        return b"".join(map(as_bytes, value))
    part, times = _repeat(value)
    return bytes.fromhex(part) * times


def as_text(value: Any) -> str:
    """The text that a value writes: itself, `{"repeat": text, "times": n}`, or a list of such parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(as_text, value))
    part, times = _repeat(value)
    return part * times


def _repeat(value: Any) -> tuple[str, int]:
    if not isinstance(value, dict) or set(value) != {"repeat", "times"}:
        raise VectorError(f"{value!r} is no text, list or object of repeat and times")
    part, times = value["repeat"], value["times"]
    if not isinstance(part, str) or not isinstance(times, int) or not 0 <= times * len(part) <= MAX_EXPANDED:
        raise VectorError(f"{value!r} does not repeat a text a sensible number of times")
    return part, times


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise VectorError(f"a key stands twice among {[key for key, _ in pairs]}")
    return made


def _vector(file: str, content: Any) -> Vector:
    where = f"{file}.json, {content.get('name', content) if isinstance(content, dict) else content!r}"
    if not isinstance(content, dict):
        raise VectorError(f"{where}: not an object")
    kinds = FILES[file]
    kind = content.get("kind", "")
    if kind not in kinds:
        raise VectorError(f"{where}: kind {kind!r} is none of {', '.join(kinds)}")
    required, optional = kinds[kind]
    head = {"kind"} if kind else set[str]()
    _check(content, (HEAD[0] | head | required, optional), where)
    fields = {key: value for key, value in content.items() if key not in HEAD[0] | {"kind"}}
    for key, value in fields.items():
        _check_parts(f"{where}, {key}", kind, key, value)
    return Vector(content["name"], kind, content["requirement"], content["why"], fields)


def _check(content: Any, keys: Keys, where: str) -> None:
    if not isinstance(content, dict):
        raise VectorError(f"{where}: {content!r} is not an object")
    required, optional = keys
    if missing := required - set(content):
        raise VectorError(f"{where}: lacks {', '.join(sorted(missing))}")
    if unknown := set(content) - required - optional:
        raise VectorError(f"{where}: unknown {', '.join(sorted(unknown))}")


def _check_parts(where: str, kind: str, key: str, value: Any) -> None:
    """Checks the objects within a vector that have keys of their own."""
    if key == "registrations":
        _check_all(value, REGISTRATION, where)
    elif key == "registration":
        _check(value, REGISTRATION, where)
    elif key == "request" and isinstance(value, dict):
        _check(value, REQUEST, where)
    elif key == "attempts":
        _check_all(value, ATTEMPT, where)
    elif key == "responses" and kind == "stream" and all(isinstance(each, dict) for each in value):
        _check_all([each for each in value if "repeat" not in each], RESPONSE, where)
    elif key == "fields":
        _check(value, STREAM_READ if kind == "stream-reply" else READ, where)
        if value.get("infer_response") is not None:
            _check(value["infer_response"], READ, where)
    elif key == "events":
        for each in value:
            _check_event(each, where)


def _check_all(values: list[Any], keys: Keys, where: str) -> None:
    for each in values:
        _check(each, keys, where)


def _check_event(event: Any, where: str) -> None:
    what = [name for name in EVENTS if name in event]
    if len(what) != 1:
        raise VectorError(f"{where}: {event!r} is not one event")
    _check(event, EVENTS[what[0]], where)
    if "register" in event:
        _check(event["register"], REGISTRATION, where)
