"""The pure parts of each implementation under the same names: what both must do is tested once, over both.

The native ones are `anyserve._native.policy`, which has the reference's names and signatures but for what is adapted
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from anyserve import capability, framing, scan
from anyserve.agent import queues, registry
from anyserve.control.agents import available_implementations

__all__ = ["POLICIES", "Policy"]


class Policy:
    """What one implementation has: `policy.Registry`, `policy.scan_message`, ….

    Args:
        name: of the implementation.
        parts: by their names in the reference.
    """

    def __init__(self, name: str, parts: Mapping[str, Any]) -> None:
        self.name = name
        self.__dict__ |= parts

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the {self.name} implementation has no {name}")

    def __repr__(self) -> str:
        return self.name


Granted = Callable[[Any], None]


def _reference() -> Policy:
    def ticket(registry: Any, target: Any, granted: Granted, excluded: Iterable[Any] = ()) -> Any:
        """A ticket for what a target means in a registry; the registrations `excluded` were tried in vain."""
        return queues.Ticket(lambda: registry.resolve(target), granted, {registration.key for registration in excluded})

    def decoder(limit: int) -> Any:
        return _WithoutRoom(framing.FrameDecoder(limit))

    modules = (capability, framing, queues, registry, scan)
    parts = {name: getattr(module, name) for module in modules for name in module.__all__}
    return Policy("reference", parts | {"ticket": ticket, "decoder": decoder})


class _WithoutRoom:
    """The reference's decoder, which has no room into which its caller could read."""

    def __init__(self, decoder: framing.FrameDecoder) -> None:
        self._decoder = decoder

    def feed(self, data: bytes, *, by_room: bool = False) -> list[bytes]:
        return self._decoder.feed(data)

    @property
    def unfinished(self) -> bool:
        return self._decoder.unfinished


def _native() -> Policy:
    from anyserve._native import policy  # type: ignore[import-untyped,unused-ignore]

    def ticket(registry: Any, target: Any, granted: Granted, excluded: Iterable[Any] = ()) -> Any:
        made = policy.Ticket(registry, target, granted)
        for registration in excluded:
            made.exclude(registration)
        return made

    def head(fields: tuple[Any, ...]) -> scan.MessageHead:
        return scan.MessageHead(*fields)

    def scan_message(data: bytes, *, fields: int = scan.RESPONSE_FIELDS) -> scan.MessageHead:
        return head(policy.scan_message(data, fields))

    def scan_stream_reply(data: bytes) -> scan.StreamReply:
        error_message, response, parts = policy.scan_stream_reply(data)
        return scan.StreamReply(error_message, response and head(response), parts)

    def extend_response(data: bytes, reply: scan.StreamReply, fields: bytes) -> bytes:
        extended: bytes = policy.extend_response(data, reply.parts, fields)
        return extended

    parts = {name: part for name, part in vars(policy).items() if not name.startswith("_")}
    adapted = (scan_message, scan_stream_reply, extend_response, ticket)
    return Policy("native", parts | {each.__name__: each for each in adapted} | {"decoder": policy.FrameDecoder})


_MAKERS: Mapping[str, Callable[[], Policy]] = {"reference": _reference, "native": _native}

POLICIES: Mapping[str, Policy] = {name: _MAKERS[name]() for name in available_implementations()}
"""Name -> parts, of the implementations that this installation has."""
