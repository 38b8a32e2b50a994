"""Nothing of anyserve but its agent: a worker of forty lines that others wrote serves requests of tritonclient."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
from tritonclient.grpc import service_pb2  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

APP = None  # a bare agent: ready at once, it serves whatever registers
LIMIT = 20.0  # seconds that anything here may take

StartWorker = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def generated(proto_dir: Path, scripts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's own stubs."""
    directory = tmp_path_factory.mktemp("generated")
    sources = [proto_dir / "grpc_predict_v2.proto", scripts_dir / "minimal_management.proto"]
    includes = [f"-I{source.parent}" for source in sources]
    outputs = [f"--{kind}_out={directory}" for kind in ("python", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *includes, *outputs, *map(str, sources)], check=True, timeout=LIMIT
    )
    return directory


@pytest.fixture
def start(instance: Any, generated: Path, scripts_dir: Path) -> Iterator[StartWorker]:
    """start(worker_id, mode="close"): a worker that has registered."""
    sockets = Path(tempfile.mkdtemp(prefix="as-", dir="/tmp"))  # short: a Unix socket's path has at most 107 bytes
    running: list[subprocess.Popen[str]] = []

    def started(worker_id: str, mode: str = "close") -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [
                sys.executable,
                str(scripts_dir / "third_party_worker.py"),
                instance.management,
                str(sockets / f"{worker_id}.sock"),
                worker_id,
                mode,
            ],
            env={**os.environ, "PYTHONPATH": str(generated)},
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "registered\n"
        return worker

    yield started
    for worker in running:
        worker.kill()
        worker.communicate()
    shutil.rmtree(sockets)


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


def x() -> Any:
    return triton.InferInput("x", [3], "FP32").set_data_from_numpy(np.arange(3, dtype=np.float32))


def served_by(result: Any) -> str:
    worker: str = result.get_response().parameters["worker"].string_param
    return worker


def gone(client: Any) -> None:
    """What clients of the model get when the last worker has been killed: the first to find out drops it."""
    with pytest.raises(InferenceServerException) as raised:
        client.infer("theirs", [], client_timeout=LIMIT)
    assert raised.value.status() == "StatusCode.UNAVAILABLE"
    with pytest.raises(InferenceServerException) as raised:
        client.infer("theirs", [])
    assert raised.value.status() == "StatusCode.NOT_FOUND"
    assert not client.is_model_ready("theirs")


@pytest.mark.parametrize("mode", ["close", "keep"])
def test_it_gets_the_bytes_of_the_client_and_its_reply_comes_back(client, start, mode):
    worker = start(f"exact-{mode}", mode)
    assert client.is_model_ready("theirs")
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    result = client.infer("theirs", [x()], request_id="1", parameters={"k": "v"}, headers=headers, client_timeout=LIMIT)
    response = result.get_response()
    assert (response.model_name, response.id, served_by(result)) == ("theirs", "1", f"exact-{mode}")

    sent = service_pb2.ModelInferRequest.FromString(result.as_numpy("request").tobytes())
    assert set(sent.parameters) == {"k"}  # nothing was appended for a worker that registered without capability
    assert (sent.model_name, sent.id) == ("theirs", "1")
    assert sent.raw_input_contents[0] == np.arange(3, dtype=np.float32).tobytes()
    worker.kill()
    worker.wait()
    gone(client)


@pytest.mark.parametrize("mode", ["close", "keep"])
def test_many_requests_one_after_another(client, start, mode):
    """Whether the worker keeps the connection or closes it after each reply, no request is lost."""
    worker = start(f"many-{mode}", mode)
    for number in range(300):
        result = client.infer("theirs", [], request_id=str(number), client_timeout=LIMIT)
        assert result.get_response().id == str(number)
    worker.kill()
    worker.wait()
    gone(client)


def test_many_requests_at_once(client, start):
    """The worker takes one connection at a time; the others wait in its backlog."""
    start("busy")
    results: queue.Queue[Any] = queue.Queue()
    for number in range(100):
        client.async_infer("theirs", [], lambda result, error: results.put((result, error)), request_id=str(number))
    got = [results.get(timeout=LIMIT) for _ in range(100)]
    assert [error for _, error in got if error is not None] == []
    assert sorted(int(result.get_response().id) for result, _ in got) == list(range(100))


def test_replicas_share_and_replace_one_another(client, start):
    first, second = start("replica-1"), start("replica-2")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: client.infer("theirs", [], client_timeout=LIMIT), range(100)))
    assert {served_by(result) for result in results} == {"replica-1", "replica-2"}

    first.kill()
    first.wait()
    for _ in range(20):  # the socket of the dead one refuses, so its requests go to the other
        assert served_by(client.infer("theirs", [], client_timeout=LIMIT)) == "replica-2"
    second.kill()
    second.wait()
    gone(client)
    start("replica-3")
    assert served_by(client.infer("theirs", [], client_timeout=LIMIT)) == "replica-3"


def test_a_crash_in_the_middle_is_unavailable(client, start):
    worker = start("crashing")
    with pytest.raises(InferenceServerException) as raised:
        client.infer("theirs", [], model_version="crash", client_timeout=LIMIT)
    assert raised.value.status() == "StatusCode.UNAVAILABLE"
    assert worker.wait(LIMIT) == 1
    gone(client)


def test_an_unwanted_version_is_not_found(client, start):
    start("versions")
    with pytest.raises(InferenceServerException, match="versions there are: crash") as raised:
        client.infer("theirs", [], model_version="7")
    assert raised.value.status() == "StatusCode.NOT_FOUND"
