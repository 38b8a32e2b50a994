"""Plain grpcio with stubs generated from the protocol's file, as it is and with ModelStreamInfer server-streaming.

Generated here, run in a process of its own: its messages would clash with those of
other clients in one descriptor pool.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")

BIDIRECTIONAL = "rpc ModelStreamInfer(stream ModelInferRequest) returns (stream ModelStreamInferResponse);"
SERVER_STREAMING = "rpc ModelStreamInfer(ModelInferRequest) returns (stream ModelStreamInferResponse);"


def run(*command: object, **env: str) -> str:
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def results_of(
    address: str, proto_dir: Path, scripts_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """What a client that was generated from the one or the other definition got."""

    @cache
    def generate_and_run(definition: str) -> dict[str, Any]:
        generated = tmp_path_factory.mktemp("generated")
        text = (proto_dir / "grpc_predict_v2.proto").read_text()
        assert text.count(BIDIRECTIONAL) == 1
        source = generated / "grpc_predict_v2.proto"
        source.write_text(text if definition == "bidirectional" else text.replace(BIDIRECTIONAL, SERVER_STREAMING))
        outputs = [f"--{kind}_out={generated}" for kind in ("python", "grpc_python")]
        run("-m", "grpc_tools.protoc", f"-I{generated}", *outputs, source)
        printed = run(scripts_dir / "stub_client.py", address, definition, PYTHONPATH=str(generated))
        results: dict[str, Any] = json.loads(printed)
        return results

    return generate_and_run


@pytest.fixture(params=["bidirectional", "server-streaming"])
def results(request: pytest.FixtureRequest, results_of: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return results_of(request.param)


def test_questions(results):
    assert (results["live"], results["ready"], results["server"]) == (True, True, "anyserve")
    assert results["model"] == "numpy"


def test_typed_contents(results):
    got = results["typed"]
    assert (got["model"], got["id"], got["note"]) == ("echo", "1", "from the stub")
    assert got["outputs"] == {"x": ["FP32", [2]]}
    assert got["fp32"] == {"x": [1.5, -2.0]}
    assert got["raw"] == []


def test_raw_contents(results):
    assert results["raw"]["outputs"] == {"x": ["UINT8", [3]], "y": ["BOOL", [1]]}
    assert results["raw"]["raw"] == ["010203", "00"]


def test_metadata_chooses_by_capability(results):
    text = b"llama-7b"
    assert results["by capability"]["raw"] == [(struct.pack("<I", len(text)) + text).hex()]
    assert results["by capability"]["id"] == "2"


def test_errors(results):
    code, details = results["not found"]
    assert code == "NOT_FOUND"
    assert "no_such_model" in details
    assert results["deadline"][0] == "DEADLINE_EXCEEDED"


def test_a_bidirectional_stream(results_of):
    replies = results_of("bidirectional")["stream"]
    assert [r for r in replies if r[0] == "a"] == [["a", 0], ["a", 1], ["a", 2]]
    ((_, message),) = [r for r in replies if r[0] == "b"]
    assert "no_such_model" in message
    assert [r for r in replies if r[0] == "c"] == [["c", 0], ["c", "cannot count to -1"]]


def test_a_stream_with_a_server_streaming_definition(results_of):
    results = results_of("server-streaming")
    assert results["stream"] == [["a", 0], ["a", 1], ["a", 2]]
    ((request_id, message),) = results["stream of an unknown model"]
    assert request_id == "b"
    assert "no_such_model" in message
    assert results["stream failing late"] == [["c", 0], ["c", "cannot count to -1"]]
    assert results["first of many"] == ["d", 0]  # and then it was cancelled
