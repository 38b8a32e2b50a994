"""Each vector of annotations.json and errors.json through the reference agent, from the call to the socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.agent.grpc_calls import status_message
from anyserve.agent.worker_client import Unreachable
from anyserve.errors import Code
from anyserve.framing import encode_header
from anyserve_conformance.vectors import Vector, as_bytes, as_text, load
from support.vector_bench import EMPTY_FRAME, Bench, Call, Wire, frame, metadata_of, named, outcome, run

ANNOTATIONS, ERRORS = load("annotations"), load("errors")

CONNECT = {
    "refused": Unreachable("Connection refused", refused=True),
    "missing": Unreachable("No such file or directory", refused=True),
    "backlog-full": Unreachable("its accept backlog is full"),
    "other-user": Unreachable("its socket belongs to uid 1, neither ours nor root's"),
}


@named(ANNOTATIONS, "request")
def test_annotations_of_a_request(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    request, sent = as_bytes(vector["request"]), []

    def behave(wire: Wire) -> None:
        sent.append(wire.sent)
        wire.see({"bytes": EMPTY_FRAME.hex()})

    async def main() -> None:
        bench = Bench(monkeypatch, behave)
        bench.register(vector["registration"])
        metadata = metadata_of(vector.get("query")) + [("traceparent", v) for v in vector.get("traceparent", ())]
        left = vector.get("seconds_left")
        status, message = await outcome(bench.infer(request, Call(metadata, left)))
        assert status == ("OK" if left is None or left > 0 else "DEADLINE_EXCEEDED"), message

    run(main())
    payload = request + as_bytes(vector["appended"])
    assert [frame.hex(" ") for frame in sent] == [(encode_header(len(payload)) + payload).hex(" ")]


@named(ANNOTATIONS, "reply")
def test_what_is_filled_in_in_a_reply(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bench = Bench(monkeypatch, lambda wire: wire.see({"bytes": frame(vector["reply"]).hex()}))
        bench.register(vector["registration"])
        response = await bench.infer(as_bytes(vector["request"]), Call(metadata_of(vector.get("query"))))
        assert response is not None
        assert response.hex(" ") == as_bytes(vector["response"]).hex(" ")

    run(main())


@named(ANNOTATIONS, "stream")
def test_replies_of_a_stream(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = b"".join(map(frame, vector["replies"]))
    if vector["registration"].get("stream"):
        replies += EMPTY_FRAME

    async def main() -> None:
        bench = Bench(monkeypatch, lambda wire: wire.see({"bytes": replies.hex()}))
        bench.register(vector["registration"])
        call = Call(metadata_of(vector.get("query")))
        await bench.infer(as_bytes(vector["request"]), call, "ModelStreamInfer")
        assert [r.hex(" ") for r in call.written] == [as_bytes(r).hex(" ") for r in vector["responses"]]

    run(main())


MODEL = {"worker": "a", "model_name": "m"}
REQUEST = pb.ModelInferRequest(model_name="m").SerializeToString()


@named(ERRORS, "reply")
def test_status_of_a_reply(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bench = Bench(monkeypatch, lambda wire: wire.see({"bytes": frame(vector["reply"]).hex()}))
        bench.register(MODEL)
        status, message = await outcome(bench.infer(REQUEST, Call()))
        assert status == vector["status"]
        if "message" in vector:
            assert message == vector["message"]
        else:
            assert bool(message) == (status != "OK")

    run(main())


@named(ERRORS, "request")
def test_status_of_a_request(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def behave(wire: Wire) -> None:
        sent.append(wire.worker)
        wire.see({"bytes": EMPTY_FRAME.hex()})

    async def main() -> None:
        bench = Bench(monkeypatch, behave)
        for registration in vector["registrations"]:
            bench.register(registration)
        if vector.get("draining"):
            bench.service.begin_drain()
        call = Call((key, value) for key, value in vector.get("metadata", ()))
        status, message = await outcome(bench.infer(as_bytes(vector["bytes"]), call, vector.get("call", "ModelInfer")))
        assert status == vector["status"], message
        assert bool(message) == (status != "OK")
        assert bool(sent) == (status == "OK")
        assert call.written == []

    run(main())


@named(ERRORS, "exchange")
def test_attempts_of_an_exchange(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, tried = list(vector["attempts"]), list[str]()
    warming = bool(attempts[0].get("kept"))

    def attempt(worker: str) -> Mapping[str, Any]:
        tried.append(worker)
        now: Mapping[str, Any] = attempts.pop(0)
        assert now["worker"] == worker, "another match was tried"
        return now

    def refuse(worker: str) -> None:
        if not warming and attempts and "connect" in attempts[0]:
            raise CONNECT[attempt(worker)["connect"]]

    def behave(wire: Wire) -> None:
        if warming:
            wire.see({"bytes": EMPTY_FRAME.hex()})
            return
        now = attempt(wire.worker)
        wire.unwritten = {"all": 0, "part": 1}[now["written"]]
        for what in now["sees"]:
            wire.see(what)

    async def main() -> None:
        nonlocal warming
        bench = Bench(monkeypatch, behave)
        bench.refuse = refuse
        workers = list(dict.fromkeys(each["worker"] for each in vector["attempts"]))
        for n, worker in enumerate(workers):  # of falling priority: tried in this order
            bench.register({"worker": worker, "model_name": "m", "priority": -n})
        if warming:
            assert (await outcome(bench.infer(REQUEST, Call())))[0] == "OK"
            warming = False
        status, message = await outcome(bench.infer(REQUEST, Call()))
        assert (status, tried) == (vector["status"], vector["tried"]), message

    run(main())


@named(ERRORS, "stream")
def test_failures_in_a_stream(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(wire: Wire) -> None:
        for what in vector["sees"]:
            wire.see(what)

    async def main() -> None:
        bench = Bench(monkeypatch, behave)
        if vector.get("registered", True):
            bench.register({**MODEL, "stream": vector["stream"]})
        call = Call()
        await bench.infer(as_bytes(vector["bytes"]), call, "ModelStreamInfer")
        assert len(call.written) == len(vector["responses"])
        for written, wanted in zip(call.written, vector["responses"], strict=True):
            check_response(written, wanted)

    run(main())


def check_response(written: bytes, wanted: Mapping[str, Any]) -> None:
    if "reply" in wanted:
        assert written.hex(" ") == as_bytes(wanted["reply"]).hex(" ")
        return
    message = pb.ModelStreamInferResponse.FromString(written)
    assert message.error_message == wanted.get("message", message.error_message) != ""
    parameters = pb.ModelInferResponse().parameters
    parameters["anyserve_error_code"].int64_param = Code[wanted["error"]]
    if "final" in wanted:
        parameters["triton_final_response"].bool_param = wanted["final"]
    assert message.infer_response == pb.ModelInferResponse(id=wanted.get("id", ""), parameters=parameters)


@named(ERRORS, "status-message")
def test_message_of_a_status(vector: Vector) -> None:
    whole = as_text(vector["message"])
    assert encoded_size(whole) == vector["encoded_bytes"]
    sent = status_message(whole)
    if vector["sent"] == "whole":
        assert sent == whole
    else:
        assert vector["sent"] == "cut"
        assert sent.endswith("...")
        assert whole.startswith(sent[:-3])
        assert encoded_size(sent) <= 4096
        assert encoded_size(sent[:-3] + whole[len(sent) - 3]) + 3 > 4096  # no shorter than it has to be


def encoded_size(text: str) -> int:
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())
