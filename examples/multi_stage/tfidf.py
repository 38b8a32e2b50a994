"""TF-IDF over a small corpus: text to terms, terms to unit vectors, vectors to the nearest documents."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_WORD = re.compile(r"[a-z]+")
_STOP = frozenset("a and are at by can each for from in is it its of off on or so that the then to while with".split())  # noqa: SIM905


def terms_of(text: str) -> list[str]:
    """The words of a text that carry meaning, in lower case, without a plural's s."""
    words = _WORD.findall(text.lower())
    return [word.removesuffix("s") if len(word) > 3 else word for word in words if word not in _STOP]


@dataclass(frozen=True)
class Corpus:
    """Documents with the weights and the vectors that follow from them."""

    titles: Sequence[str]
    column: dict[str, int]  # term -> its place in a vector
    idf: np.ndarray  # FP32 [terms]
    vectors: np.ndarray  # FP32 [documents, terms], each of length 1

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        titles, texts = zip(*(line.split(" | ") for line in path.read_text("utf-8").splitlines()), strict=True)
        documents = [terms_of(f"{title} {text}") for title, text in zip(titles, texts, strict=True)]
        seen_in = Counter(term for document in documents for term in set(document))
        column = {term: place for place, term in enumerate(sorted(seen_in))}
        idf = np.log(len(documents) / np.array([seen_in[term] for term in column], dtype=np.float32)) + 1
        return cls(titles, column, idf, embed(documents, column, idf))

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents of the highest cosine: indices and scores, [queries, count], best first."""
        scores = queries @ self.vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return best, np.take_along_axis(scores, best, axis=1)


def embed(documents: Sequence[Iterable[str]], column: dict[str, int], idf: np.ndarray) -> np.ndarray:
    """One vector of length 1 a document, or zeros where no term is known."""
    vectors = np.zeros((len(documents), len(column)), dtype=np.float32)
    for row, document in enumerate(documents):
        for term, count in Counter(document).items():
            if term in column:
                vectors[row, column[term]] = count * idf[column[term]]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.divide(vectors, lengths, out=vectors, where=lengths > 0)
    return vectors
