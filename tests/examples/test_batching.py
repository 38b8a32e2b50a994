"""examples/batching: embeddings of many requests at once, and errors of one of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from subprocess import CompletedProcess

import numpy as np

from anyserve import Code, InferenceError, ModelInferRequest

Run = Callable[..., CompletedProcess[str]]


def test_run_example_with_and_without_batches(run_example: Run) -> None:
    lines = run_example("batching", "--requests", "64", "--threads", "16").stdout.splitlines()
    assert lines[0].startswith("nearest  Where is the library?  ->  Could you tell me where the library is?  (0.")
    assert lines[1] == "error    INVALID_ARGUMENT: `nearest` takes a text and others to choose from"
    for line, model in zip(lines[2:], ("embed-alone", "embed"), strict=True):
        assert re.fullmatch(rf"{model} +\d+ requests/s from 16 threads", line)


def asking(*texts: str) -> ModelInferRequest:
    request = ModelInferRequest()
    request.set_tensors({"text": np.array([text.encode() for text in texts], object)})
    return request


def test_each_request_has_its_own_answer_or_error() -> None:
    from examples.batching.app import nearest

    near, alone, empty = nearest([asking("one word", "two words", "one  word"), asking("alone"), ModelInferRequest()])
    assert isinstance(near, dict)
    assert near["text"].tolist() == [b"one  word"]
    for error in (alone, empty):
        assert isinstance(error, InferenceError)
        assert error.code is Code.INVALID_ARGUMENT


def test_rows_do_not_depend_on_their_company() -> None:
    from examples.batching.app import SIZE, embed

    texts = np.array([b"one", b"two", b"three"], object)
    together = embed(texts)
    assert together.shape == (3, SIZE)
    for row, text in zip(together, texts, strict=True):
        np.testing.assert_allclose(embed(np.array([text], object))[0], row, rtol=1e-4, atol=1e-5)
