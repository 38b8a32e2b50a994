"""grpc-go and grpc-java, where Go and Maven are present: programs that send bytes and report what came back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anyserve._proto import grpc_predict_v2_pb2 as pb

HERE = Path(__file__).resolve().parent
BUILD_SECONDS = 400
SERVICE = "/inference.GRPCInferenceService/"
LONG = 30_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILD_SECONDS + 60)]


def _go(directory: Path) -> list[str]:
    _run(directory, "go", "mod", "tidy")
    _run(directory, "go", "build", "-o", "client", ".")
    return [str(directory / "client")]


def _java(directory: Path) -> list[str]:
    _run(directory, "mvn", "-q", "-B", "package", "dependency:copy-dependencies")
    return ["java", "-cp", f"{directory}/target/classes:{directory}/target/dependency/*", "Client"]


CLIENTS = {"go": ("go", "grpc_go", _go), "java": ("mvn", "grpc_java", _java)}


def _run(directory: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"


@dataclass
class Answer:
    code: str
    message: str
    replies: list[bytes]


class RawClient:
    """A program under its own gRPC, asked call by call."""

    def __init__(self, command: list[str], address: str) -> None:
        self.process = subprocess.Popen(
            [*command, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def call(self, kind: str, method: str, *requests: Any, timeout_ms: int = LONG, metadata: str = "") -> Answer:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        sent = ",".join(request.SerializeToString().hex() for request in requests)
        self.process.stdin.write("\t".join((kind, SERVICE + method, str(timeout_ms), metadata, sent)) + "\n")
        code, message, replies = self.process.stdout.readline().rstrip("\n").split("\t")
        received = [bytes.fromhex(reply) for reply in replies.split(",")] if replies else []
        return Answer(code.replace("_", "").lower(), bytes.fromhex(message).decode(), received)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0


@pytest.fixture(scope="module", params=sorted(CLIENTS))
def client(
    request: pytest.FixtureRequest, address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RawClient]:
    tool, sources, build = CLIENTS[request.param]
    if shutil.which(tool) is None:
        pytest.skip(f"not on PATH: {tool}")
    directory = tmp_path_factory.mktemp(sources)
    shutil.copytree(HERE / sources, directory, dirs_exist_ok=True)
    running = RawClient(build(directory), address)
    yield running
    running.close()


def request(model: str, **tensors: list[int]) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model, id="é")
    for name, values in tensors.items():
        tensor = made.inputs.add(name=name, datatype="INT64", shape=[len(values)])
        tensor.contents.int64_contents.extend(values)
    return made


def test_unary(client: RawClient) -> None:
    asked = pb.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(3_000_000)])
    asked.inputs.add(name="x", datatype="UINT8", shape=[3_000_000])
    answer = client.call("unary", "ModelInfer", asked)
    assert answer.code == "ok"
    reply = pb.ModelInferResponse.FromString(answer.replies[0])
    assert (reply.model_name, reply.raw_output_contents[0]) == ("echo", bytes(3_000_000))


def test_errors(client: RawClient) -> None:
    answer = client.call("unary", "ModelInfer", request("nö"))
    assert answer.code == "notfound"
    assert "nö" in answer.message
    assert client.call("unary", "NoSuchMethod", request("echo")).code == "unimplemented"


def test_a_deadline(client: RawClient) -> None:
    assert client.call("unary", "ModelInfer", request("wait"), timeout_ms=300).code == "deadlineexceeded"


def test_a_capability_query(client: RawClient) -> None:
    asked = pb.ModelInferRequest(id="by capability")
    answer = client.call("unary", "ModelInfer", asked, metadata="x-cap-type=chat,x-cap-model=llama-7*")
    (text,) = pb.ModelInferResponse.FromString(answer.replies[0]).raw_output_contents
    assert text[4:] in (b"llama-7b", b"llama-70b")


def test_stream(client: RawClient) -> None:
    answer = client.call("stream", "ModelStreamInfer", request("count", to=[3]), request("nobody"))
    assert answer.code == "ok"
    replies = [pb.ModelStreamInferResponse.FromString(reply) for reply in answer.replies]
    assert sum(not reply.error_message for reply in replies) == 3
    (error,) = [reply.error_message for reply in replies if reply.error_message]
    assert "nobody" in error
