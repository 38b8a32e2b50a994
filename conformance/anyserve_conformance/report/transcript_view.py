"""Transcripts cut to what a page can hold: 500 failing cases must still load at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anyserve_conformance.report import text
from anyserve_conformance.report.model import Event

PAGE_BUDGET = 12 << 20
CASE_BUDGET = 96 << 10
"""Characters of HTML, about: for all transcripts together and for one."""

ROW_COST = 80
EVENT_COST = 400


@dataclass(frozen=True)
class Limits:
    events: int
    characters: int
    bytes: int


# The first that keeps a transcript within its budget is taken; the last always.
LIMITS = (Limits(80, 4000, 1024), Limits(60, 1500, 256), Limits(40, 500, 96), Limits(24, 240, 48), Limits(10, 80, 16))

FOLD_CHARACTERS = 700
FOLD_LINES = 12
FOLD_BYTES = 64


@dataclass(frozen=True)
class ShownEvent:
    event: Event
    decoded: str
    rows: list[text.HexRow]
    bytes_left_out: int

    @property
    def fold(self) -> bool:
        return (
            len(self.decoded) > FOLD_CHARACTERS
            or self.decoded.count("\n") >= FOLD_LINES
            or len(self.rows) * text.ROW > FOLD_BYTES
        )


@dataclass(frozen=True)
class ShownTranscript:
    """The beginning and the end of a conversation, and how many events between them are not shown."""

    head: list[ShownEvent]
    left_out: int
    tail: list[ShownEvent]


def show_transcripts(transcripts: Sequence[Sequence[Event]]) -> Iterator[ShownTranscript]:
    budget = min(CASE_BUDGET, PAGE_BUDGET // max(1, len(transcripts)))
    return (_show(transcript, budget) for transcript in transcripts)


def _show(events: Sequence[Event], budget: int) -> ShownTranscript:
    limits = next((limits for limits in LIMITS if _cost(events, limits) <= budget), LIMITS[-1])
    if len(events) <= limits.events:
        return ShownTranscript(head=[_event(event, limits) for event in events], left_out=0, tail=[])
    # What a case complains of is mostly at the end.
    first = limits.events // 2
    last = limits.events - first
    return ShownTranscript(
        head=[_event(event, limits) for event in events[:first]],
        left_out=len(events) - limits.events,
        tail=[_event(event, limits) for event in events[-last:]],
    )


def _cost(events: Sequence[Event], limits: Limits) -> int:
    costs = (
        EVENT_COST
        + min(len(event.decoded), limits.characters)
        + min(len(event.data), limits.bytes) // text.ROW * ROW_COST
        for event in events
    )
    return sum(costs)


def _event(event: Event, limits: Limits) -> ShownEvent:
    return ShownEvent(
        event=event,
        decoded=text.shorten(event.decoded, limits.characters),
        rows=list(text.hex_rows(event.data[: limits.bytes])),
        bytes_left_out=max(event.size, len(event.data)) - min(len(event.data), limits.bytes),
    )
