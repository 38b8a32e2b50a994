"""examples/multi_stage: the front stage reaches the others by capability, under load too."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from anyserve import Code, InferenceError

Run = Callable[..., CompletedProcess[str]]
Shown = Callable[[str, str, str], bool]

APP = "examples.multi_stage.app:app"


def query(*texts: str, count: int = 1) -> dict[str, np.ndarray]:
    return {
        "query": np.array([text.encode() for text in texts], dtype=object),
        "count": np.array([count], dtype=np.int32),
    }


def test_run_example_finds_documents(run_example: Run, shown_in_readme: Shown) -> None:
    output = run_example("multi_stage").stdout
    assert shown_in_readme("multi_stage", "python examples/multi_stage/run_example.py", output)
    lines = output.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("  ")] == [
        "Migration",
        *("Beer", "Bread", "Tides"),
        *("Glass", "Steel"),
    ]
    assert lines[-1].startswith("tokenize alone: how do bird find")


def test_run_example_takes_questions(run_example: Run) -> None:
    lines = run_example("multi_stage", "--count", "1", "pendulum", "lava and ash").stdout.splitlines()
    assert [line.split()[-1] for line in lines[:4]] == ["pendulum", "Clock", "ash", "Volcano"]


def test_many_searches_at_once_and_errors_of_inner_stages() -> None:
    from examples._running import client_of

    with client_of(APP, None) as client, ThreadPoolExecutor(32) as pool:
        # Each search holds its place while two more calls go through the same worker.
        calls = [pool.submit(client.infer, "search", query("honey and wax"), timeout=30.0) for _ in range(64)]
        assert {call.result().tensors()["title"][0, 0] for call in calls} == {b"Bees"}

        with pytest.raises(InferenceError, match="count must be from 1 to 16, not 99") as raised:
            client.infer("search", query("honey", count=99))
        assert raised.value.code is Code.INVALID_ARGUMENT


def test_terms_and_vectors() -> None:
    from examples.multi_stage import tfidf

    assert tfidf.terms_of("The Bees, and THE honey of a bus!") == ["bee", "honey", "bus"]
    corpus = tfidf.Corpus.load(Path(tfidf.__file__).with_name("documents.txt"))
    np.testing.assert_allclose(np.linalg.norm(corpus.vectors, axis=1), 1, rtol=1e-5)
    index, score = corpus.nearest(corpus.vectors, 1)  # each document is nearest to itself
    assert index[:, 0].tolist() == list(range(len(corpus.titles)))
    np.testing.assert_allclose(score, 1, rtol=1e-5)
    unknown = tfidf.embed([["zebra"], []], corpus.column, corpus.idf)
    assert not unknown.any()
