"""What HTTP/2 allows a server to send: its windows, its header blocks; and frames in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hyperframe import frame as frames

from anyserve_conformance.raw_grpc import Header, error_name

__all__ = ["MAX_FRAME", "Http2Violation", "Windows", "check_block", "describe", "lines", "rule", "text_of"]

WINDOW = 65_535
MAX_FRAME = 16_384


class Http2Violation(AssertionError):
    """The server sent what HTTP/2 does not allow it to send."""


def rule(holds: bool, broken: str) -> None:
    if not holds:
        raise Http2Violation(f"the server broke HTTP/2: {broken}")


def check_block(pairs: list[tuple[str, str]], earlier: int, ends: bool) -> None:
    """RFC 9113, 8.1 and 8.2."""
    names = [name for name, _ in pairs]
    pseudo = [name for name in names if name.startswith(":")]
    rule(all(name == name.lower() for name in names), f"field names in upper case: {names}")
    rule(names[: len(pseudo)] == pseudo, f"pseudo-header fields after others: {names}")
    if earlier:
        rule(ends, "a second header block without END_STREAM")
        rule(not pseudo, f"pseudo-header fields in trailers: {pseudo}")
    else:
        rule(pseudo == [":status"], f"the pseudo-header fields of its response are {pseudo}")


class Windows:
    """Flow control in both directions. Stream 0 is the connection."""

    def __init__(self) -> None:
        self.initial_sending = WINDOW
        self._initial_receiving = WINDOW
        self._sending: dict[int, int] = {}
        self._receiving: dict[int, int] = {}
        self._unacknowledged: list[int | None] = []

    def left(self, stream: int) -> int:
        """How many bytes the client may send."""
        return min(WINDOW + self._sending.get(0, 0), self.initial_sending + self._sending.get(stream, 0))

    def spend(self, stream: int, size: int) -> None:
        for number in (0, stream):
            self._sending[number] = self._sending.get(number, 0) - size

    def granted(self, stream: int, increment: int) -> None:
        self._sending[stream] = self._sending.get(stream, 0) + increment

    def grant(self, stream: int, increment: int) -> None:
        self._receiving[stream] = self._receiving.get(stream, 0) + increment

    def announced(self, values: Mapping[int, int]) -> None:
        """A larger initial window may be used at once, a smaller one holds when it is acknowledged."""
        initial = values.get(4)
        self._unacknowledged.append(initial)
        if initial is not None:
            self._initial_receiving = max(self._initial_receiving, initial)

    def acknowledged(self) -> None:
        rule(bool(self._unacknowledged), "it acknowledged SETTINGS that were not sent")
        initial = self._unacknowledged.pop(0)
        if initial is not None and not any(later is not None for later in self._unacknowledged):
            self._initial_receiving = initial

    def take(self, stream: int, size: int) -> bool:
        """Counts bytes that came; false if they were too many."""
        for number in (0, stream):
            self._receiving[number] = self._receiving.get(number, 0) - size
        within = self._initial_receiving + self._receiving[stream] >= 0
        return size == 0 or (within and WINDOW + self._receiving[0] >= 0)


def text_of(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def lines(pairs: Iterable[Header]) -> str:
    return "\n".join(f"{text_of(name)}: {text_of(value)}" for name, value in pairs)


def describe(each: frames.Frame) -> str:
    """A frame in a few words."""
    name = type(each).__name__.removesuffix("Frame").upper()
    name = {"RSTSTREAM": "RST_STREAM", "WINDOWUPDATE": "WINDOW_UPDATE", "EXTENSION": "frame of another type"}.get(
        name, name
    )
    said = [name]
    if each.stream_id:
        said.append(f"on stream {each.stream_id}")
    said += sorted(each.flags)
    match each:
        case frames.DataFrame():
            said.append(f"{len(each.data)} bytes")
        case frames.RstStreamFrame() | frames.GoAwayFrame():
            said.append(error_name(each.error_code))
        case frames.WindowUpdateFrame():
            said.append(f"+{each.window_increment}")
        case frames.SettingsFrame() if each.settings:
            said.append(str(each.settings))
    return " ".join(said)
