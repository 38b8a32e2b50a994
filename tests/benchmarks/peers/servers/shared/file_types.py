"""The model `magika`, for servers that each run in an environment of their own: what kind of file some bytes are."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from magika import Magika
from magika.types import Seekable

__all__ = ["Answer", "FileTypes", "as_json"]

Answer = tuple[str, float]
"""The label, and its score from 0 to 1."""


class FileTypes:
    """Magika as it comes: onnxruntime on the CPU, with as many threads as it takes by default."""

    def __init__(self) -> None:
        self._magika = Magika()

    def one(self, content: bytes) -> Answer:
        result = self._magika.identify_bytes(content)
        return str(result.output.label), result.score

    def many(self, contents: Sequence[bytes]) -> list[Answer]:
        """The same for several by one run of the network.

        Magika does this publicly only for files on disk (`identify_paths`): these are the steps of that method. The
        contents are known by their numbers where it has paths.
        """
        found, waiting = {}, []
        for number, content in enumerate(contents):
            key = Path(str(number))
            result, features = self._magika._get_result_or_features_from_seekable(Seekable(io.BytesIO(content)), key)
            if features is None:
                found[str(key)] = result
            else:
                waiting.append((key, features))
        found.update(self._magika._get_results_from_features(waiting))
        results = [found[str(number)] for number in range(len(contents))]
        return [(str(result.output.label), result.score) for result in results]


def as_json(answer: Answer) -> bytes:
    """An answer as the body of an HTTP response; the score has few digits, so that all answers have one length."""
    label, score = answer
    return json.dumps({"label": label, "score": f"{score:.3f}"}).encode()
