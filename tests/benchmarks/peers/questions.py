"""What every server is asked, in the form that it takes: gRPC by KServe v2, or HTTP/1.1."""

from __future__ import annotations

import base64
import http.client
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from anyserve._proto import grpc_predict_v2_pb2 as kserve
from benchmarks.load import Load
from benchmarks.prepared import ask, prepare
from benchmarks.subjects import ROOT

__all__ = ["Ask", "Form", "Question", "WrongAnswer", "file_type", "http_base64", "http_octets", "kserve_grpc", "tensor"]

LABEL = "python"
"""What the model says of `FILE`."""
FILE = ROOT / "examples" / "file_type" / "app.py"
FRAMING = 5
"""Bytes before a gRPC message."""
PATIENCE = 60.0


class WrongAnswer(Exception):
    """A server answered otherwise than it should."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Args:
        model: `echo`: `content` is a tensor of FP32, and comes back; `magika`: it is a file, and its kind comes back.
        content: see `model`.
    """

    model: str
    content: bytes


def tensor(size: int) -> Question:
    """A tensor of that many bytes, all of them different from their neighbours."""
    return Question("echo", struct.pack(f"<{size // 4}f", *range(size // 4)))


def file_type() -> Question:
    """A small file of source code."""
    return Question("magika", FILE.read_bytes())


@dataclass(frozen=True, slots=True)
class Ask:
    """A question in the form of one server.

    Args:
        load: what h2load sends, with one request at a time.
        once: sends it to a port and checks what the answer says; returns the bytes of its body.
    """

    load: Load
    once: Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Form:
    """How a server is asked.

    Args:
        said: for the table.
        build: a question, and a directory for its body's file.
        http1: requests at once take a connection each.
    """

    said: str
    build: Callable[[Question, Path], Ask]
    http1: bool = False


def kserve_grpc(*, batch_axis: bool = False) -> Form:
    """ModelInfer with raw contents; `batch_axis`: shapes begin with a batch of one."""

    def build(question: Question, directory: Path) -> Ask:
        echo = question.model == "echo"
        content = question.content if echo else struct.pack("<I", len(question.content)) + question.content
        shape = [len(content) // 4] if echo else [1]
        request = kserve.ModelInferRequest(model_name=question.model, id="1", raw_input_contents=[content])
        name, datatype = ("x", "FP32") if echo else ("content", "BYTES")
        request.inputs.add(name=name, datatype=datatype, shape=[1, *shape] if batch_axis else shape)
        prepared = prepare(directory, "ModelInfer", request.SerializeToString())

        def once(port: int) -> int:
            replies = ask(port, prepared)
            if isinstance(replies, grpc.StatusCode):
                raise WrongAnswer(replies.name)
            _expect(question, _first_output(kserve.ModelInferResponse.FromString(replies[0])))
            return len(replies[0]) + FRAMING

        return Ask(Load(prepared.path, prepared.body), once)

    return Form("gRPC, KServe v2, raw contents", build)


def http_octets(path: str) -> Form:
    """The content as the body of a POST, and the answer as that of the response."""

    def build(question: Question, directory: Path) -> Ask:
        return _posted(question, directory, path, question.content, "application/octet-stream")

    return Form("HTTP/1.1, raw bytes", build, http1=True)


def http_base64() -> Form:
    """`{"x": "…"}`, the content in base64, posted to the model's name; the answer is raw bytes."""

    def build(question: Question, directory: Path) -> Ask:
        body = json.dumps({"x": base64.b64encode(question.content).decode()}).encode()
        return _posted(question, directory, f"/{question.model}", body, "application/json")

    return Form("HTTP/1.1, base64 in JSON there, raw bytes back", build, http1=True)


def _posted(question: Question, directory: Path, path: str, body: bytes, media_type: str) -> Ask:
    file = directory / f"{question.model}-{len(list(directory.iterdir()))}.body"
    file.write_bytes(body)

    def once(port: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("POST", path, body, {"content-type": media_type})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise WrongAnswer(f"{response.status} {answer[:200].decode(errors='replace')}")
        _expect(question, answer if question.model == "echo" else json.loads(answer)["label"].encode())
        return len(answer)

    return Ask(Load(path, file, headers=(f"content-type: {media_type}",), http1=True), once)


def _first_output(response: kserve.ModelInferResponse) -> bytes:
    """The content of the first output, raw or typed; of a BYTES tensor its only element."""
    output = response.outputs[0]
    if response.raw_output_contents:
        raw = response.raw_output_contents[0]
        return raw[4:] if output.datatype == "BYTES" else raw
    if output.datatype == "BYTES":
        return output.contents.bytes_contents[0]
    values = output.contents.fp32_contents
    return struct.pack(f"<{len(values)}f", *values)


def _expect(question: Question, found: bytes) -> None:
    expected = question.content if question.model == "echo" else LABEL.encode()
    if found != expected:
        raise WrongAnswer(f"{len(found)} bytes, {found[:40]!r}…, not {len(expected)}, {expected[:40]!r}…")
