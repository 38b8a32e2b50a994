"""Workers that use none of anyserve's code, behind an agent: what their users, and whoever runs them, see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from live import LIMIT, Instance, Worker, eventually, parameters, request

from anyserve import AnyserveClient, Code, InferenceError

# Of the test that builds the worker, on a machine that has more to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]


@pytest.mark.usefixtures("worker")
def test_echo(instance: Instance) -> None:
    with AnyserveClient(instance.address) as client:
        reply = client.infer("echo", {"a": [[1.5, -2.0]], "text": ["é", ""]}, datatypes={"a": "FP32"})
    assert reply.tensors()["a"].tolist() == [[1.5, -2.0]]
    assert reply.tensors()["text"].tolist() == ["é".encode(), b""]


@pytest.mark.usefixtures("worker")
def test_echo_of_typed_contents(instance: Instance) -> None:
    message = request("echo")
    message.id = "7"
    tensor = message.inputs.add(name="big", datatype="INT64", shape=[2])
    tensor.contents.int64_contents.extend([2**63 - 1, -(2**63)])
    reply = instance.infer(message)
    (output,) = reply.outputs
    assert (reply.model_name, reply.id) == ("echo", "7")
    assert (output.name, output.datatype, output.shape) == ("big", "INT64", [2])
    assert output.contents.int64_contents == [2**63 - 1, -(2**63)]


@pytest.mark.usefixtures("worker")
def test_a_failure_has_its_code_and_message(instance: Instance) -> None:
    with AnyserveClient(instance.address) as client, pytest.raises(InferenceError) as failed:
        client.infer("fail", {}, parameters={"code": 9, "message": "nö"})
    assert (failed.value.code, failed.value.message) == (Code.FAILED_PRECONDITION, "nö")


@pytest.mark.usefixtures("worker")
def test_broken_tensors_are_refused_in_the_models_form(instance: Instance) -> None:
    """The agent does not look into tensors. A stream has to end all the same, or its client would wait for ever."""
    broken = b"\x2a\x05\xff\xff\xff\xff\xff"
    channel = grpc.insecure_channel(instance.address)
    with channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as failed:
            infer(request("echo").SerializeToString() + broken, timeout=LIMIT)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        (reply,) = stream(iter([request("count").SerializeToString() + broken]), timeout=LIMIT)
    assert b"cannot be parsed" in reply


@pytest.mark.usefixtures("worker")
def test_a_stream_comes_in_order(instance: Instance) -> None:
    replies = list(instance.stream(request("count", n=20, size=3)))
    assert [parameters(reply.infer_response)["i"] for reply in replies] == list(range(20))
    assert {reply.infer_response.raw_output_contents[0] for reply in replies} == {bytes(3)}


@pytest.mark.usefixtures("worker")
def test_a_stream_fails_in_the_middle(instance: Instance) -> None:
    replies = list(instance.stream(request("count", n=5, fail_at=2), request("count", n=0)))
    assert [reply.error_message for reply in replies] == ["", "", "as asked"]
    assert parameters(replies[2].infer_response) == {"anyserve_error_code": Code.INTERNAL}


@pytest.mark.usefixtures("worker")
def test_a_cancelled_call_stops_its_handler(instance: Instance) -> None:
    call = instance.under_way(request("wait", ms=600_000))
    eventually(lambda: parameters(instance.infer(request("wait")))["running"] == 2, "the start of the handler")
    call.cancel()
    eventually(lambda: parameters(instance.infer(request("wait")))["running"] == 1, "the end of the handler")


@pytest.mark.usefixtures("worker")
def test_a_client_that_does_not_read_stops_the_handler(instance: Instance) -> None:
    def produced() -> int:
        return parameters(instance.infer(request("wait")))["produced"]

    call = instance.stream(request("count", n=100_000, size=100_000))
    assert next(call).error_message == ""
    eventually(
        lambda: produced() == parameters(instance.infer(request("wait", ms=300)))["produced"], "a handler at rest"
    )
    assert produced() < 1000  # 100 MB: far above what lies in buffers
    before = produced()
    for _ in range(200):
        next(call)
    assert produced() > before
    call.cancel()


def test_another_worker_comes_after_a_crash(
    instance: Instance, worker: Worker, start_worker: Callable[..., Worker]
) -> None:
    call = instance.under_way(request("wait", ms=600_000))
    eventually(lambda: instance.workers()[0].in_flight, "the request")
    worker.kill()
    assert call.exception(LIMIT).code() is grpc.StatusCode.UNAVAILABLE
    start_worker(instance)
    eventually(lambda: _answers(instance), "an answer")


def test_sigterm_drains(instance: Instance, worker: Worker) -> None:
    call = instance.under_way(request("wait", ms=5_000))
    eventually(lambda: instance.workers()[0].in_flight, "the request")
    worker.terminate()
    eventually(lambda: not instance.workers(), "the leave")
    assert not call.done()
    assert parameters(call.result(LIMIT))["running"] == 1
    assert worker.wait() == 0, worker.output
    assert worker.sockets() == []


def test_it_registers_again_when_the_agent_has_restarted(instance: Instance, worker: Worker) -> None:
    before = instance.served()
    instance.restart()
    assert eventually(instance.served, "the worker's return") == before
    assert _answers(instance)
    worker.terminate()
    assert worker.wait() == 0, worker.output


def test_a_token_opens_the_management_port(
    start_instance: Callable[..., Instance], start_worker: Callable[..., Worker]
) -> None:
    instance = start_instance(management_token="let me in")
    assert start_worker(instance, ANYSERVE_MANAGEMENT_TOKEN="wrong").wait() > 0
    refused = start_worker(instance)
    assert refused.wait() > 0
    assert refused.sockets() == []
    start_worker(instance, ANYSERVE_MANAGEMENT_TOKEN="let me in")
    eventually(lambda: _answers(instance), "an answer")


def test_it_ends_without_an_agent(instance: Instance, start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(instance, ANYSERVE_ORPHAN_TIMEOUT="1.5")
    eventually(instance.served, "the registration")
    instance.stop()
    assert worker.wait() == 0, worker.output
    assert worker.sockets() == []


def _answers(instance: Instance) -> bool:
    """Whether a request is served; it is not while no worker is registered."""
    try:
        return bool(instance.infer(request("echo")).model_name == "echo")
    except grpc.RpcError as error:
        if error.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE}:
            return False
        raise
