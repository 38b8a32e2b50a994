"""examples/file_type: a real model on real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from anyserve import Code, InferenceError, ModelInferRequest

Run = Callable[..., CompletedProcess[str]]

pytest.importorskip("magika", reason="pip install 'anyserve[examples]'")


def labels_of(output: str) -> list[tuple[str, str]]:
    """(file name, label) of each answer line."""
    rows = [line.split() for line in output.splitlines() if line.startswith("answer")]
    assert all(0 < float(score) <= 1 for _, _, score, _ in rows)
    return [(name, label) for _, label, _, name in rows]


def test_run_example_knows_files_of_this_repository(run_example: Run) -> None:
    assert labels_of(run_example("file_type").stdout) == [
        ("pyproject.toml", "toml"),
        ("worker_management.proto", "proto"),
        ("app.py", "python"),
        ("LICENSE", "txt"),
        ("sample.wav", "wav"),
    ]


def test_run_example_takes_files(run_example: Run, tmp_path: Path) -> None:
    """By content: the names say nothing, or lie."""
    contents = {
        "a.txt": Path(__file__).read_bytes(),
        "b": b'{"capability": {"type": "echo"}, "n": [1, 2, 3]}',
        "c": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    result = run_example("file_type", *contents, cwd=tmp_path)
    assert labels_of(result.stdout) == [("a.txt", "python"), ("b", "json"), ("c", "empty")]
    assert result.stdout.startswith("request  3 files, ")


def test_a_file_that_is_not_there_is_one_line(run_example: Run, tmp_path: Path) -> None:
    result = run_example("file_type", "nothing-here", cwd=tmp_path, status=2)
    assert "No such file or directory: 'nothing-here'" in result.stderr.splitlines()[-1]


def test_handler_answers_a_batch_in_order() -> None:
    from examples.file_type.app import FileType

    worker = FileType()
    worker.on_start()
    request = ModelInferRequest()
    request.set_tensors(
        {
            "content": np.array(
                [b"#!/bin/sh\nexit 0\n", b'{\n  "n": [\n    1,\n    2\n  ],\n  "of": {\n    "type": "echo"\n  }\n}\n'],
                dtype=object,
            )
        }
    )
    answer = worker.handle(request).tensors()
    assert answer["label"].tolist() == [b"shell", b"json"]
    assert answer["score"].dtype == np.float32

    request.set_tensors({"content": np.zeros(3, dtype=np.float32)})
    with pytest.raises(InferenceError, match="one BYTES tensor `content`") as raised:
        worker.handle(request)
    assert raised.value.code is Code.INVALID_ARGUMENT
