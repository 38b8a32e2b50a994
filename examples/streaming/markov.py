"""A bigram model of a text: small, but it generates, so no two seeds give the same answer."""

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(r" ?(?:[\w'-]+|[^\w\s])")  # the space before a word belongs to it: joined tokens are the text
_START = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One generated token; `finish_reason` is "stop" or "length" on the last one, else empty."""

    token: str
    finish_reason: str


class Bigrams:
    """Which tokens followed which in the paragraphs of a text."""

    def __init__(self, text: str) -> None:
        self._next: dict[str, list[str | None]] = defaultdict(list)
        for paragraph in text.split("\n\n"):
            tokens = _TOKEN.findall(" ".join(paragraph.split()))
            for left, right in zip([_START, *tokens], [*tokens, None], strict=True):
                self._next[left].append(right)

    def generate(self, prompt: str, *, seed: int, max_tokens: int) -> Iterator[Chunk]:
        """Continues the prompt's last word if the text has it, else begins a paragraph."""
        choose = random.Random(seed).choice  # noqa: S311 -- a repeatable choice is the point
        token: str | None = choose([follows for follows in self._next[self._last_known(prompt)] if follows is not None])
        for count in range(1, max_tokens + 1):
            if token is None:
                return
            following = choose(self._next[token])
            reason = "stop" if following is None else "length" if count == max_tokens else ""
            yield Chunk(token, reason)
            token = following

    def _last_known(self, prompt: str) -> str:
        for word in _TOKEN.findall(" ".join(prompt.split()))[-1:]:
            for token in (str(word), f" {word}"):
                # A word that only ever ended a paragraph has nothing to continue with.
                if any(follows is not None for follows in self._next.get(token, ())):
                    return token
        return _START
