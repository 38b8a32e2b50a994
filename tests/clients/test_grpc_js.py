"""@grpc/grpc-js with @grpc/proto-loader, where Node is present: `grpc_js/client.js` reports what it got."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2

SOURCES = Path(__file__).resolve().parent / "grpc_js"
INSTALL_SECONDS = 100.0
MISSING = [program for program in ("node", "npm") if shutil.which(program) is None]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not on PATH: {', '.join(MISSING)}"),
    pytest.mark.slow,
    pytest.mark.timeout(INSTALL_SECONDS + 100),
]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory with client.js and what it needs: one for all of pytest-xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "grpc_js"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "installed").exists():
            shutil.copytree(SOURCES, directory, dirs_exist_ok=True)
            command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            ended = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            assert ended.returncode == 0, f"{' '.join(command)}:\n{ended.stdout}\n{ended.stderr}"
            (directory / "installed").touch()
    return directory


@pytest.fixture(scope="module")
def results(installed: Path, address: str, proto_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client got."""
    health = tmp_path_factory.mktemp("health") / "health.bin"
    descriptors = FileDescriptorSet()
    health_pb2.DESCRIPTOR.CopyToProto(descriptors.file.add())
    health.write_bytes(descriptors.SerializeToString())
    ended = subprocess.run(
        ["node", "client.js", address, str(proto_dir / "grpc_predict_v2.proto"), str(health)],
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    got: dict[str, Any] = json.loads(ended.stdout)
    return got


def test_questions(results):
    assert results["live"] == {"live": True}
    assert results["ready"] == {"ready": True}
    assert (results["metadata"]["platform"], results["metadata"]["versions"]) == ("numpy", ["2", "10"])
    assert results["metadata"]["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": ["-1"]}
    assert results["config"]["config"]["model_transaction_policy"] == {"decoupled": True}


def test_typed_contents(results):
    got = results["typed"]
    assert (got["model_name"], got["id"]) == ("echo", "é1")
    x, text, big = got["outputs"]
    assert (x["datatype"], x["shape"], x["contents"]["fp32_contents"]) == ("FP32", ["2"], [1.5, -2])
    assert bytes(text["contents"]["bytes_contents"][0]["data"]).decode() == "é"
    assert big["contents"]["int64_contents"] == [str(2**63 - 1)]
    assert got["parameters"]["note"]["string_param"] == "from node"
    assert got["parameters"]["big"]["uint64_param"] == str(2**64 - 1)


def test_raw_contents(results):
    assert results["raw"]["outputs"][0]["datatype"] == "INT16"
    assert results["raw"]["raw_output_contents"] == ["0100ffff"]


def test_metadata_chooses_by_capability(results):
    (text,) = results["byCapability"]["raw_output_contents"]
    assert bytes.fromhex(text)[4:] == b"llama-7b"


def test_errors(results):
    assert results["notFound"]["code"] == "NOT_FOUND"
    assert "no_such_model" in results["notFound"]["details"]
    assert results["failed"] == {"code": "INTERNAL", "details": "the model divided by zero"}


def test_a_deadline_reaches_the_handler(results):
    assert results["deadline"]["code"] == "DEADLINE_EXCEEDED"
    assert results["cancelled"]["model_name"] == "witness"  # it saw the handler stop


def test_stream(results):
    """protobuf.js keeps the last of two sub-messages where others merge them: nothing may come as two."""
    assert results["stream"]["status"] == "OK"
    replies = results["stream"]["replies"]
    assert [value for id_, value in replies if id_ == "a"] == ["0", "1", "2"]
    assert [value for id_, value in replies if id_ == "c"] == ["0", "cannot count to -1"]
    ((_, message),) = [r for r in replies if r[0] == "b"]
    assert "no_such_model" in message


def test_a_cancelled_stream(results):
    assert results["cancelledStream"]["status"] == "CANCELLED"
    assert results["cancelledStream"]["replies"][0] == ["d", "0"]


def test_health(results):
    assert results["health"] == {"status": "SERVING"}
    assert results["unknownHealth"]["code"] == "NOT_FOUND"
