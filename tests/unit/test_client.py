"""Both clients and `rpc`, against a small scripted server in both of grpc's kinds that records what it got.

What a client must do is one test, run over blocking and asyncio client; the blocking
one works in a thread, so that a server on the test's loop can answer it.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from anyserve import rpc
from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve._proto import worker_management_pb2 as management
from anyserve.client import AnyserveClient, AsyncAnyserveClient
from anyserve.client_calls import encode_pattern, infer_request, request_metadata
from anyserve.client_channels import ReadyWait
from anyserve.errors import Code, InferenceError
from anyserve.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

LIMIT = 10.0  # seconds that anything here may take
SERVING = kserve.DESCRIPTOR.services_by_name["GRPCInferenceService"]
MANAGEMENT = management.DESCRIPTOR.services_by_name["WorkerManagement"]
HANG = object()  # in a script: wait until the RPC is cancelled


class Refused(Exception):
    def __init__(self, code: Code, message: str) -> None:
        self.status = next(status for status in grpc.StatusCode if status.value[0] == code)
        self.message = message


@dataclass
class Got:
    method: str
    request: Any
    metadata: dict[str, str]
    time_remaining: float | None


class Server:
    """Answers each method with the messages of `script`, whose exceptions it turns into statuses."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.script: dict[str, Callable[[Any], list[Any]]] = {}
        self.started = threading.Event()  # a HANG was reached
        self.cancelled = threading.Event()  # and its RPC is over
        self.address = ""

    def answers(self, method: str, *messages: Any) -> None:
        self.script[method] = lambda _request: list(messages)

    def steps(self, method: str, request: Any, context: Any) -> Iterator[Any]:
        metadata = dict(context.invocation_metadata())
        self.got.append(Got(method, request, metadata, context.time_remaining()))
        steps = self.script[method](request)
        watch = getattr(context, "add_done_callback", None) or context.add_callback
        if any(step is HANG for step in steps):  # such a script ends only with the RPC
            watch(lambda *_: self.cancelled.set())
        yield from steps

    def handlers(self, blocking: bool) -> list[grpc.GenericRpcHandler]:
        make = self._blocking if blocking else self._async
        return [
            rpc.handler(SERVING, {m: make(m, m == "ModelStreamInfer") for m in SERVING.methods_by_name}),
            rpc.handler(MANAGEMENT, {"ListWorkers": make("ListWorkers", False)}),
        ]

    def _blocking(self, method: str, streams: bool) -> Callable[..., Any]:
        def serve(request: Any, context: Any) -> Iterator[Any]:
            for step in self.steps(method, next(request) if streams else request, context):
                if isinstance(step, Refused):
                    context.abort(step.status, step.message)
                elif step is HANG:
                    self.started.set()
                    assert self.cancelled.wait(LIMIT)
                    return
                else:
                    yield step

        return serve if streams else lambda request, context: next(serve(request, context), None)

    def _async(self, method: str, streams: bool) -> Callable[..., Any]:
        async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
            for step in self.steps(method, await anext(aiter(request)) if streams else request, context):
                if isinstance(step, Refused):
                    await context.abort(step.status, step.message)
                elif step is HANG:
                    self.started.set()
                    await asyncio.Event().wait()
                else:
                    yield step

        async def serve_one(request: Any, context: Any) -> Any:
            return await anext(serve(request, context))

        return serve if streams else serve_one


@asynccontextmanager
async def serving(
    kind: str, handlers: list[grpc.GenericRpcHandler], address: str = "127.0.0.1:0"
) -> AsyncIterator[str]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    started: Any
    if kind == "aio server":
        started = grpc.aio.server(handlers=handlers, options=options)
        port = started.add_insecure_port(address)
        await started.start()
    else:
        started = grpc.server(ThreadPoolExecutor(8), handlers=handlers, options=options)
        port = started.add_insecure_port(address)
        started.start()
    yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
    if kind == "aio server":
        await started.stop(None)
    else:
        await asyncio.to_thread(started.stop(None).wait, LIMIT)


@pytest.fixture(params=["sync server", "aio server"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    scripted = Server()
    async with serving(request.param, scripted.handlers(request.param == "sync server")) as scripted.address:
        yield scripted


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    def outcome() -> tuple[Any, Exception | None]:
        try:
            return function(*args, **kwargs), None
        except Exception as error:  # raised below, by itself: asyncio would copy a TimeoutError
            return None, error

    result, error = await asyncio.to_thread(outcome)
    if error is not None:
        raise error
    return result


class InThread:
    """The blocking client with the face of the asyncio one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.blocking = AnyserveClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: in_thread(getattr(self.blocking, name), *args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> InThreadIterator:
        return InThreadIterator(self.blocking.stream(*args, **kwargs))


class InThreadIterator:
    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __aiter__(self) -> InThreadIterator:
        return self

    async def __anext__(self) -> Any:
        item = await in_thread(next, self.iterator, HANG)
        if item is HANG:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        await asyncio.to_thread(self.iterator.close)


@pytest.fixture(params=[InThread, AsyncAnyserveClient], ids=["sync client", "async client"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    made = []

    def make(*args: Any, **kwargs: Any) -> Any:
        made.append(request.param(*args, **kwargs))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def client(server: Server, make: Callable[..., Any]) -> Any:
    return make(server.address, management_address=server.address, management_token="s3cret")


async def happens(event: threading.Event) -> bool:
    return await asyncio.to_thread(event.wait, LIMIT)


async def collect(stream: Any) -> list[str]:
    return [response.id async for response in stream]


def message(name: str, error: str = "", code: int | None = None) -> ModelStreamInferResponse:
    made = ModelStreamInferResponse(error_message=error, infer_response=ModelInferResponse(id=name))
    if code is not None:
        made.infer_response.parameters["anyserve_error_code"].int64_param = code
    return made


class TestInfer:
    async def test_arrays_go_out_and_come_back(self, server: Server, client: Any) -> None:
        def double(request: Any) -> list[Any]:
            response = ModelInferResponse(model_name="double", id=request.id)
            response.set_tensors({"y": request.tensors()["x"] * 2})
            return [response]

        server.script["ModelInfer"] = double
        response = await client.infer(
            "double",
            {"x": [1, 2], "w": np.ones(1)},
            version="3",
            request_id="r1",
            parameters={"top": True},
            metadata={"Traceparent": "00-ab"},
            datatypes={"x": "INT16"},
        )
        assert response.tensors()["y"].tolist() == [2, 4]
        assert response.id == "r1"
        got = server.got[0]
        assert (got.request.model_name, got.request.model_version) == ("double", "3")
        assert [(t.name, t.datatype) for t in got.request.inputs] == [("x", "INT16"), ("w", "FP64")]
        assert got.request.parameters["top"].bool_param is True
        assert got.metadata["traceparent"] == "00-ab"
        assert "authorization" not in got.metadata

    async def test_a_query_goes_out_as_metadata(self, server: Server, client: Any) -> None:
        server.answers("ModelInfer", ModelInferResponse())
        await client.infer({"type": "chat", "model": "llama-*|100% größe", "size": ">=7"}, ModelInferRequest())
        got = server.got[0]
        caps = {key: value for key, value in got.metadata.items() if key.startswith("x-cap-")}
        assert caps == {"x-cap-type": "chat", "x-cap-model": "llama-*|100%25 gr%C3%B6%C3%9Fe", "x-cap-size": ">=7"}
        assert got.request.model_name == ""

    async def test_a_ready_request_is_copied_and_completed(self, server: Server, client: Any) -> None:
        server.answers("ModelInfer", ModelInferResponse())
        ready = ModelInferRequest(id="mine", raw_input_contents=[b"x"])
        ready.parameters["kept"].string_param = "k"
        before = ready.SerializeToString(deterministic=True)
        await client.infer("m", ready, version="1", parameters={"added": 1})
        assert ready.SerializeToString(deterministic=True) == before
        sent = server.got[0].request
        assert (sent.model_name, sent.model_version, sent.id) == ("m", "1", "mine")
        assert sent.raw_input_contents == [b"x"]
        assert set(sent.parameters) == {"kept", "added"}

    async def test_every_status_becomes_an_inference_error(self, server: Server, client: Any) -> None:
        for code in set(Code) - {Code.OK}:
            server.answers("ModelInfer", Refused(code, f"it is {code.name}: ö"))
            with pytest.raises(InferenceError) as raised:
                await client.infer("m", {})
            assert (raised.value.code, raised.value.message) == (code, f"it is {code.name}: ö")
            assert isinstance(raised.value.__cause__, grpc.RpcError)

    async def test_timeouts(self, server: Server, make: Callable[..., Any]) -> None:
        server.answers("ModelInfer", ModelInferResponse())
        for default, given_timeout in ((60.0, None), (30.0, None), (30.0, 5.0), (None, None)):
            await make(server.address, timeout=default).infer("m", {}, timeout=given_timeout)
        await make(server.address).infer("m", {})
        seen = [got.time_remaining for got in server.got]
        unlimited = seen.pop(3)
        assert unlimited is None or unlimited > 1e6  # grpc's two servers say "no deadline" in two ways
        for value, expected in zip(seen, (60.0, 30.0, 5.0, 60.0), strict=True):
            assert value is not None
            assert expected - LIMIT < value < expected + 1  # grpc rounds a timeout up

    async def test_a_deadline_that_passes_cancels_the_request(self, server: Server, client: Any) -> None:
        server.answers("ModelInfer", HANG)
        with pytest.raises(InferenceError) as raised:
            await client.infer("m", {}, timeout=0.3)
        assert raised.value.code is Code.DEADLINE_EXCEEDED
        assert await happens(server.cancelled)

    async def test_no_server(self, make: Callable[..., Any]) -> None:
        with tempfile.TemporaryDirectory() as folder, pytest.raises(InferenceError) as raised:
            await make(f"unix:{folder}/none").infer("m", {})
        assert raised.value.code is Code.UNAVAILABLE
        assert raised.value.message

    async def test_message_size(self, server: Server, make: Callable[..., Any]) -> None:
        server.script["ModelInfer"] = lambda request: [
            ModelInferResponse(raw_output_contents=request.raw_input_contents)
        ]
        large = ModelInferRequest(raw_input_contents=[bytes(5 << 20)])  # grpc's own limit is 4 MiB
        response = await make(server.address).infer("m", large)
        assert len(response.raw_output_contents[0]) == 5 << 20
        small = make(server.address, max_message_bytes=1000)
        server.answers("ModelInfer", ModelInferResponse(id="x" * 1001))
        for request in (large, ModelInferRequest()):
            with pytest.raises(InferenceError) as raised:
                await small.infer("m", request)
            assert raised.value.code is Code.RESOURCE_EXHAUSTED
        assert len(server.got) == 2  # the large one stayed at home


class TestStream:
    async def test_responses_in_order(self, server: Server, client: Any) -> None:
        server.answers("ModelStreamInfer", *(message(str(i)) for i in range(50)))
        stream = client.stream({"type": "chat"}, {"x": np.zeros(2)}, request_id="r", parameters={"p": "v"})
        assert await collect(stream) == [str(i) for i in range(50)]
        (got,) = server.got
        assert got.request.id == "r"
        assert got.request.parameters["p"].string_param == "v"
        assert got.metadata["x-cap-type"] == "chat"

    @pytest.mark.parametrize(
        ("parameter", "code"), [(None, Code.UNKNOWN), (3, Code.INVALID_ARGUMENT), (0, Code.UNKNOWN), (77, Code.UNKNOWN)]
    )
    async def test_an_in_band_error(self, server: Server, client: Any, parameter: int | None, code: Code) -> None:
        server.answers("ModelStreamInfer", message("1"), message("", "no such token", parameter), HANG)
        stream = client.stream("m", {})
        assert (await anext(stream)).id == "1"
        with pytest.raises(InferenceError) as raised:
            await anext(stream)
        assert (raised.value.code, raised.value.message) == (code, "no such token")
        assert await happens(server.cancelled)

    async def test_a_status_in_the_middle(self, server: Server, client: Any) -> None:
        server.answers("ModelStreamInfer", message("1"), Refused(Code.UNAVAILABLE, "the worker died"))
        stream = client.stream("m", {})
        assert (await anext(stream)).id == "1"
        with pytest.raises(InferenceError) as raised:
            await anext(stream)
        assert (raised.value.code, raised.value.message) == (Code.UNAVAILABLE, "the worker died")

    @pytest.mark.parametrize("last", [message("", "no such token"), Refused(Code.UNAVAILABLE, "it died")])
    async def test_an_error_keeps_no_call_alive(self, server: Server, last: Any) -> None:
        """What grpc collects when the interpreter ends may wait for ever: `anyserve infer --stream` hung so."""
        server.answers("ModelStreamInfer", message("1"), last)

        def ask() -> InferenceError:
            with AnyserveClient(server.address) as client:
                try:
                    list(client.stream("m", {}))
                except InferenceError as error:
                    return error
            raise AssertionError("the call did not fail")

        gc.collect()  # what other tests have left
        before = {id(kept) for kept in gc.get_objects() if isinstance(kept, grpc.Call)}
        error = await asyncio.to_thread(ask)
        assert error.__traceback__ is not None
        assert [kept for kept in gc.get_objects() if isinstance(kept, grpc.Call) and id(kept) not in before] == []

    async def test_refusals_at_once_keep_their_status(self, server: Server, client: Any) -> None:
        server.answers("ModelStreamInfer", Refused(Code.NOT_FOUND, "no model"))
        for _ in range(50):  # grpc.aio loses it now and then where the request is sent as a stream
            with pytest.raises(InferenceError) as raised:
                await collect(client.stream("m", {}))
            assert (raised.value.code, raised.value.message) == (Code.NOT_FOUND, "no model")

    async def test_closing_early_cancels_the_rpc(self, server: Server, client: Any) -> None:
        server.answers("ModelStreamInfer", message("1"), HANG)
        stream = client.stream("m", {})
        assert (await anext(stream)).id == "1"
        assert await happens(server.started)
        assert not server.cancelled.is_set()
        await stream.aclose()
        assert await happens(server.cancelled)
        assert await collect(stream) == []

    async def test_a_deadline_holds_for_the_stream(self, server: Server, client: Any) -> None:
        server.answers("ModelStreamInfer", message("1"), HANG)
        with pytest.raises(InferenceError) as raised:
            await collect(client.stream("m", {}, timeout=0.3))
        assert raised.value.code is Code.DEADLINE_EXCEEDED
        assert await happens(server.cancelled)

    async def test_bad_arguments_raise_at_the_call(self, server: Server, client: Any) -> None:
        with pytest.raises(ValueError, match="empty capability query"):
            client.stream({}, {})
        assert server.got == []

    async def test_leaving_a_for_loop_cancels(self, server: Server) -> None:
        server.answers("ModelStreamInfer", message("1"), HANG)
        with AnyserveClient(server.address) as client:

            def leave() -> None:
                for _response in client.stream("m", {}):
                    break

            await asyncio.to_thread(leave)
            assert await happens(server.cancelled)


class TestQuestions:
    async def test_server_and_model(self, server: Server, client: Any) -> None:
        metadata = kserve.ServerMetadataResponse(name="anyserve", version="1", extensions=["e"])
        model = kserve.ModelMetadataResponse(name="m", versions=["1", "2"])
        server.answers("ServerMetadata", metadata)
        server.answers("ModelMetadata", model)
        for answer in (True, False):
            server.answers("ServerLive", kserve.ServerLiveResponse(live=answer))
            server.answers("ServerReady", kserve.ServerReadyResponse(ready=answer))
            server.answers("ModelReady", kserve.ModelReadyResponse(ready=answer))
            assert await client.server_live() is answer
            assert await client.server_ready() is answer
            assert await client.model_ready("m", "2") is answer
        assert await client.server_metadata() == metadata
        assert await client.model_metadata("m", "1") == model
        asked = {got.method: got.request for got in server.got}
        assert asked["ModelReady"] == kserve.ModelReadyRequest(name="m", version="2")
        assert asked["ModelMetadata"] == kserve.ModelMetadataRequest(name="m", version="1")

    async def test_errors(self, server: Server, client: Any) -> None:
        server.answers("ModelMetadata", Refused(Code.NOT_FOUND, "no model"))
        with pytest.raises(InferenceError) as raised:
            await client.model_metadata("m")
        assert raised.value.code is Code.NOT_FOUND

    async def test_workers(self, server: Server, client: Any, make: Callable[..., Any]) -> None:
        workers = [management.Worker(worker_id="a"), management.Worker(worker_id="b", in_flight=1)]
        server.answers("ListWorkers", management.ListWorkersResponse(workers=workers))
        assert await client.workers() == workers
        assert await make(server.address, management_address=server.address).workers() == workers
        assert [got.metadata.get("authorization") for got in server.got] == ["Bearer s3cret", None]


class TestWaitReady:
    async def test_asks_until_it_is_ready(self, server: Server, client: Any) -> None:
        answers = iter(
            [Refused(Code.UNAVAILABLE, "starting"), *(kserve.ServerReadyResponse(ready=r) for r in (False, True))]
        )
        server.script["ServerReady"] = lambda _request: [next(answers)]
        await client.wait_ready(LIMIT)
        assert len(server.got) == 3

    async def test_a_server_that_starts_later(self, make: Callable[..., Any]) -> None:
        scripted = Server()
        scripted.answers("ServerReady", kserve.ServerReadyResponse(ready=True))
        with tempfile.TemporaryDirectory() as folder:
            client = make(f"unix:{folder}/s")
            with pytest.raises(InferenceError):  # nobody listens
                await client.server_ready()
            waiting = asyncio.create_task(client.wait_ready(LIMIT))
            async with serving("aio server", scripted.handlers(False), f"unix:{folder}/s"):
                await waiting
                assert scripted.got

    async def test_never_ready(self, server: Server, client: Any, make: Callable[..., Any]) -> None:
        server.answers("ServerReady", kserve.ServerReadyResponse(ready=False))
        with pytest.raises(TimeoutError, match=r"not ready within 2 s: .*not ready yet"):
            await client.wait_ready(2)
        assert server.got
        with tempfile.TemporaryDirectory() as folder, pytest.raises(TimeoutError, match="UNAVAILABLE") as raised:
            await make(f"unix:{folder}/none").wait_ready(0.2)
        assert isinstance(raised.value.__cause__, InferenceError)

    async def test_the_last_reason_is_told(self, server: Server, client: Any) -> None:
        answers = iter([Refused(Code.UNAVAILABLE, "starting")])
        server.script["ServerReady"] = lambda _request: [next(answers, kserve.ServerReadyResponse(ready=False))]
        with pytest.raises(TimeoutError, match="not ready yet"):
            await client.wait_ready(0.3)
        assert len(server.got) > 1

    async def test_no_answer(self, server: Server, client: Any) -> None:
        server.answers("ServerReady", HANG)
        with pytest.raises(TimeoutError, match="DEADLINE_EXCEEDED"):
            await client.wait_ready(0.2)

    async def test_a_server_of_another_kind(self, server: Server, client: Any) -> None:
        server.answers("ServerReady", Refused(Code.UNIMPLEMENTED, "what?"))
        with pytest.raises(InferenceError, match="what"):
            await client.wait_ready(LIMIT)
        assert len(server.got) == 1

    def test_pauses_double_up_to_half_a_second(self) -> None:
        wait = ReadyWait("a:1", 1000.0)
        assert [wait.pause() for _ in range(6)] == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]
        assert ReadyWait("a:1", 0.01).pause() <= 0.01


class TestClosing:
    async def test_nothing_goes_out_after_close(self, server: Server, client: Any) -> None:
        server.answers("ServerLive", kserve.ServerLiveResponse(live=True))
        assert await client.server_live()
        await client.close()
        await client.close()
        for call in (client.server_live(), client.infer("m", {}), collect(client.stream("m", {})), client.workers()):
            with pytest.raises(RuntimeError, match="the client is closed"):
                await call
        assert len(server.got) == 1

    @pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
    async def test_calls_under_way_end(self, server: Server, client: Any, method: str) -> None:
        server.answers(method, HANG)
        call = client.infer("m", {}) if method == "ModelInfer" else collect(client.stream("m", {}))
        running = asyncio.create_task(call)
        assert await happens(server.started)
        await client.close()
        with pytest.raises(InferenceError) as raised:
            await running
        assert raised.value.code is Code.CANCELLED
        assert await happens(server.cancelled)

    @pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
    async def test_cancelling_the_task_cancels_the_rpc(self, server: Server, method: str) -> None:
        server.answers(method, HANG)
        async with AsyncAnyserveClient(server.address) as client:
            call = client.infer("m", {}) if method == "ModelInfer" else collect(client.stream("m", {}))
            running = asyncio.ensure_future(call)
            assert await happens(server.started)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await happens(server.cancelled)


class TestChannels:
    @pytest.mark.parametrize("kind", [AnyserveClient, AsyncAnyserveClient])
    @pytest.mark.parametrize(
        "address",
        [
            "",
            "localhost",
            "http://localhost:8000",
            "localhost:http",
            ":8000",
            "::1:8000",
            "a b:1",
            "a:0",
            "a:65536",
            "unix:",
        ],
    )
    def test_malformed_addresses(self, kind: Any, address: str) -> None:
        for arguments in ({"address": address}, {"management_address": address}):
            with pytest.raises(ValueError, match="is not an address: write HOST:PORT"):
                kind(**arguments)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({}, "localhost:9000"),
            ({"address": "node-1.example.org:80"}, "node-1.example.org:9000"),
            ({"address": "[fe80::1%eth0]:80"}, "[fe80::1%eth0]:9000"),
            ({"management_address": "other:1"}, "other:1"),
            ({"address": "unix:/s", "management_address": "unix:///m"}, "unix:///m"),
        ],
    )
    def test_management_address(self, monkeypatch: Any, arguments: dict[str, Any], expected: str) -> None:
        opened = []

        def open_channel(address: str, options: Any) -> grpc.Channel:
            opened.append(address)
            return grpc.insecure_channel("unix:/nowhere/at/all", options)

        monkeypatch.setattr(AnyserveClient, "_open_channel", staticmethod(open_channel))
        with AnyserveClient(**arguments) as client, pytest.raises(InferenceError):
            client.workers()
        assert opened == [expected]

    async def test_a_unix_socket_has_no_default_management_address(self, make: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="give management_address"):
            await make("unix:/s").workers()

    async def test_threads_share_one_channel(self, server: Server, monkeypatch: Any) -> None:
        opened = []
        second = threading.Event()

        def open_channel(address: str, options: Any) -> grpc.Channel:
            opened.append(address)
            if len(opened) > 1:
                second.set()
            second.wait(0.3)  # time for another thread to open one, too, if it can
            return grpc.insecure_channel(address, options)

        monkeypatch.setattr(AnyserveClient, "_open_channel", staticmethod(open_channel))
        server.answers("ServerLive", kserve.ServerLiveResponse(live=True))
        with AnyserveClient(server.address) as client:
            assert all(await asyncio.gather(*(asyncio.to_thread(client.server_live) for _ in range(8))))
        assert opened == [server.address]

    def test_the_async_client_is_made_outside_a_loop(self) -> None:
        scripted = Server()
        scripted.answers("ServerLive", kserve.ServerLiveResponse(live=True))
        with tempfile.TemporaryDirectory() as folder:
            client = AsyncAnyserveClient(f"unix:{folder}/s")

            async def ask() -> bool:
                async with serving("aio server", scripted.handlers(False), f"unix:{folder}/s"), client:
                    return await client.server_live()

            assert asyncio.run(ask())

    def test_both_clients_take_the_same_arguments(self) -> None:
        names = {name for name in vars(AnyserveClient) if not name.startswith("_")}
        assert names == {name for name in vars(AsyncAnyserveClient) if not name.startswith("_")}
        for name in names | {"__init__"}:
            blocking = inspect.signature(getattr(AnyserveClient, name))
            assert blocking.parameters == inspect.signature(getattr(AsyncAnyserveClient, name)).parameters, name


class TestRequests:
    @pytest.mark.parametrize(
        ("value", "field"),
        [
            (True, "bool_param"),
            (False, "bool_param"),
            (0, "int64_param"),
            (-(2**63), "int64_param"),
            (2**63 - 1, "int64_param"),
            (2**63, "uint64_param"),
            (2**64 - 1, "uint64_param"),
            (0.0, "double_param"),
            (np.float64(1.5), "double_param"),
            ("", "string_param"),
        ],
    )
    def test_parameters(self, value: Any, field: str) -> None:
        parameter = infer_request("m", {}, parameters={"p": value}).parameters["p"]
        assert parameter.WhichOneof("parameter_choice") == field
        assert getattr(parameter, field) == value

    @pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
    def test_integers_of_more_than_64_bits(self, value: int) -> None:
        with pytest.raises(ValueError, match=f"'p' does not fit into 64 bits: {value}"):
            infer_request("m", {}, parameters={"p": value})

    @pytest.mark.parametrize("value", [None, b"x", [1], np.int64(1), ModelInferRequest()])
    def test_parameters_of_other_types(self, value: Any) -> None:
        with pytest.raises(TypeError, match=f"'p' must be a bool, int, float or str, got {type(value).__name__}"):
            infer_request("m", {}, parameters={"p": value})

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ({"target": "m"}, "model_name 'other'"),
            ({"target": "other", "version": "2"}, "model_version '1'"),
            ({"target": {"type": "m"}, "request_id": "y"}, "id 'x'"),
            ({"target": {"type": "m"}, "version": "1"}, "version goes with a model name"),
            ({"target": "other", "datatypes": {}}, "datatypes goes with arrays"),
        ],
    )
    def test_contradictions(self, arguments: Any, problem: str) -> None:
        ready = ModelInferRequest(model_name="other", model_version="1", id="x")
        with pytest.raises(ValueError, match=problem):
            infer_request(inputs=ready, **arguments)
        assert infer_request("other", ready, version="1", request_id="x") == ready

    def test_a_query_leaves_the_name_and_sets_the_id(self) -> None:
        request = infer_request({"type": "m"}, ModelInferRequest(model_name="n", model_version="1"), request_id="x")
        assert request == ModelInferRequest(model_name="n", model_version="1", id="x")

    @pytest.mark.parametrize("inputs", [None, [1], b"", ModelInferResponse()])
    def test_inputs_of_other_types(self, inputs: Any) -> None:
        with pytest.raises(TypeError, match="must be a ModelInferRequest or a mapping of arrays"):
            infer_request("m", inputs)


class TestMetadata:
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_patterns_survive(self, pattern: str) -> None:
        encoded = encode_pattern(pattern)
        assert unquote_to_bytes(encoded).decode() == pattern
        assert encoded == encoded.strip()
        assert all(" " <= character <= "~" for character in encoded)

    @given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="%")))
    def test_printable_ascii_stays_as_it_is(self, pattern: str) -> None:
        assert encode_pattern(f"a{pattern} {pattern}b") == f"a{pattern} {pattern}b"

    @pytest.mark.parametrize(
        ("pattern", "encoded"),
        [("100%", "100%25"), ("é\n\x7f", "%C3%A9%0A%7F"), (" a b  ", "%20a b%20%20"), ("  ", "%20%20")],
    )
    def test_what_is_encoded(self, pattern: str, encoded: str) -> None:
        assert request_metadata({"k": pattern}) == (("x-cap-k", encoded),)

    @pytest.mark.parametrize("key", ["Type", "ty pe", "typé", "x-bin", "a:b"])
    def test_keys_that_metadata_cannot_carry(self, key: str) -> None:
        with pytest.raises(ValueError, match=r"must be of \[0-9a-z_.-\] and not end in -bin"):
            request_metadata({key: "v"})

    @pytest.mark.parametrize("value", ["é", "a\nb", "\x7f"])
    def test_values_that_metadata_cannot_carry(self, value: str) -> None:
        with pytest.raises(ValueError, match="'k' must be printable ASCII"):
            request_metadata("m", {"k": value})

    @pytest.mark.parametrize("target", [None, 1, b"m", ["m"], {"k": 1}, {"k": b"v"}])
    def test_targets_of_other_types(self, target: Any) -> None:
        with pytest.raises(TypeError, match=r"must be a model name or a mapping|a pattern is a string"):
            request_metadata(target)


@pytest.mark.parametrize("kind", ["sync server", "aio server"])
class TestRpc:
    async def test_methods_without_an_implementation(self, kind: str) -> None:
        async def refusal(call: Any, method: Any) -> tuple[Any, Any]:
            started = call(GetMessageClass(method.input_type)())
            answer = anext(aiter(started)) if method.server_streaming else started
            with pytest.raises(grpc.RpcError) as raised:
                await answer
            return raised.value.code(), raised.value.details()

        for service in (SERVING, MANAGEMENT):
            async with (
                serving(kind, [rpc.handler(service, {}, aio=kind == "aio server")]) as address,
                grpc.aio.insecure_channel(address) as channel,
            ):
                calls = rpc.callables(channel, service, single_request={"ModelStreamInfer"})
                refused = [await refusal(calls[method.name], method) for method in service.methods]
            messages = [f"{name} is not implemented by this server" for name in service.methods_by_name]
            assert refused == [(grpc.StatusCode.UNIMPLEMENTED, message) for message in messages]

    async def test_raw_methods_see_the_bytes(self, kind: str) -> None:
        seen = []

        def infer(request: bytes, _context: Any) -> bytes:
            seen.append(request)
            return ModelInferResponse(id="raw").SerializeToString()

        def watch(request: bytes, _context: Any) -> Iterator[bytes]:
            yield management.Event(message=f"{len(request)} bytes").SerializeToString()

        request = ModelInferRequest.FromString(ModelInferRequest(id="x").SerializeToString() + b"\xa2\x06\x01z")
        handlers = [
            rpc.handler(SERVING, {"ModelInfer": infer}, raw={"ModelInfer"}),
            rpc.handler(MANAGEMENT, {"WatchEvents": watch}, raw={"WatchEvents"}),
        ]
        async with serving(kind, handlers) as address, grpc.aio.insecure_channel(address) as channel:
            response = await rpc.callables(channel, SERVING)["ModelInfer"](request)
            events = rpc.callables(channel, MANAGEMENT)["WatchEvents"](management.WatchEventsRequest())
            assert [event.message async for event in events] == ["0 bytes"]
        assert response == ModelInferResponse(id="raw")
        assert seen == [request.SerializeToString()]
        assert b"\xa2\x06\x01z" in seen[0]

    def test_names_that_the_service_does_not_have(self, kind: str) -> None:
        with pytest.raises(ValueError, match=r"inference.GRPCInferenceService has no method Infer, Nothing"):
            rpc.handler(SERVING, {"Infer": print, "ModelInfer": print}, raw={"Nothing"})
