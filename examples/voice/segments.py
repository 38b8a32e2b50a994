"""From speech probabilities, one a window, to segments of speech: values in, values out."""

from dataclasses import dataclass

THRESHOLD = 0.5  # speech begins at this probability
RELEASE = 0.35  # and goes on down to this one, so that a segment does not flicker
MIN_SILENCE = 0.4  # seconds without speech that end a segment
MIN_SPEECH = 0.2  # seconds; what is shorter is a click


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech, in seconds from the start of the recording."""

    start: float
    end: float


class Segmenter:
    """Finds segments while windows arrive; `window` is the length of one in seconds."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._windows = 0
        self._start: float | None = None
        self._end = 0.0  # of the last window that held speech

    def feed(self, probability: float) -> Segment | None:
        """Takes the next window; gives the segment that it ended, if it ended one."""
        now = self._windows * self._window
        self._windows += 1
        if probability >= (THRESHOLD if self._start is None else RELEASE):
            if self._start is None:
                self._start = now
            self._end = now + self._window
        elif now + self._window - self._end >= MIN_SILENCE:
            return self.finish()
        return None

    def finish(self) -> Segment | None:
        """The segment that is still open, at the end of the recording."""
        start, self._start = self._start, None
        if start is None or self._end - start < MIN_SPEECH:
            return None
        return Segment(start, self._end)
