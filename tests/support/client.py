"""Clients of an agent's two ports that send and return bytes as they are, and what a refusal looks like."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from anyserve import rpc
from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve._proto import worker_management_pb2 as management
from anyserve.errors import Code
from support.waiting import eventually, within
from support.wire import query_metadata, raw_bytes
from support.worker import ScriptedWorker

__all__ = ["Client", "Failure", "InferStream", "Management", "failure"]

KSERVE = kserve.DESCRIPTOR.services_by_name["GRPCInferenceService"]
MANAGEMENT = management.DESCRIPTOR.services_by_name["WorkerManagement"]

# What no message to a client may hold: paths, addresses, tracebacks, Python's own names of things.
LEAK = re.compile(r"unix:|/tmp|\.sock\b|\.py\b|Traceback|127\.0\.0\.1|localhost|0x[0-9a-f]{6}|<class|Errno|Exception")

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Failure:
    """The status that ended a call."""

    code: Code
    message: str


async def failure(call: Awaitable[Any], *, to_worker: bool = False) -> Failure:
    """How a call failed, whose message must give nothing away.

    Args:
        call: a call that is expected to fail.
        to_worker: the message is for a worker, and may repeat the address that it sent.

    Raises:
        AssertionError: it did not fail, or the message tells of the server's insides.
    """
    try:
        result = await within(call)
    except grpc.aio.AioRpcError as error:
        found = Failure(Code(error.code().value[0]), error.details() or "")
    else:
        raise AssertionError(f"the call succeeded: {result!r:.200}")
    assert to_worker or not LEAK.search(found.message), found
    return found


class InferStream:
    """One ModelStreamInfer call."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, message: bytes | Message) -> None:
        """One request."""
        await within(self.call.write(raw_bytes(message)))

    async def done_sending(self) -> None:
        """Closes the client's direction."""
        await within(self.call.done_writing())

    async def receive(self) -> kserve.ModelStreamInferResponse:
        """The next response.

        Raises:
            AssertionError: the stream has ended.
        """
        data = await within(self.call.read())
        assert data is not grpc.aio.EOF, f"the stream has ended: {await self.call.code()} {await self.call.details()}"
        return kserve.ModelStreamInferResponse.FromString(data)

    async def rest(self) -> list[kserve.ModelStreamInferResponse]:
        """Closes the client's direction and reads to a good end."""
        await self.done_sending()
        replies = []
        while (data := await within(self.call.read())) is not grpc.aio.EOF:
            replies.append(kserve.ModelStreamInferResponse.FromString(data))
        assert await within(self.call.code()) is grpc.StatusCode.OK, await self.call.details()
        return replies

    async def failed(self) -> Failure:
        """The status of a stream that ends badly; what still comes before is passed over."""

        async def read() -> None:
            while await self.call.read() is not grpc.aio.EOF:
                pass
            if (code := await self.call.code()) is not grpc.StatusCode.OK:
                raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), await self.call.details())

        return await failure(read())

    def cancel(self) -> None:
        """Cancels the call."""
        self.call.cancel()


def small_window(size: int | None) -> tuple[tuple[str, int], ...]:
    """Channel options of a client that takes little more than `size` bytes of a stream before it is read."""
    return () if size is None else (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", size))


class Client:
    """A KServe v2 client.

    Args:
        port: of the agent, on the loopback.
        window: see `small_window`.
    """

    def __init__(self, port: int, *, window: int | None = None) -> None:
        limits = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        apart = ("grpc.use_local_subchannel_pool", 1)  # a connection of its own
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=(*limits, apart, *small_window(window)))
        self.rpcs = rpc.callables(self.channel, KSERVE)
        self._infer: Any = self.channel.unary_unary(f"/{KSERVE.full_name}/ModelInfer")
        self._stream: Any = self.channel.stream_stream(f"/{KSERVE.full_name}/ModelStreamInfer")

    def start(
        self,
        message: bytes | Message,
        *,
        query: Mapping[str, str] | None = None,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> Any:
        """Starts ModelInfer; the call is awaited for the reply's bytes, or cancelled."""
        return self._infer(raw_bytes(message), metadata=(*query_metadata(query or {}), *metadata), timeout=timeout)

    async def infer_bytes(self, message: bytes | Message, **options: Any) -> bytes:
        """ModelInfer, the reply as it came."""
        reply: bytes = await within(self.start(message, **options))
        return reply

    async def infer(self, message: bytes | Message, **options: Any) -> kserve.ModelInferResponse:
        """ModelInfer."""
        return kserve.ModelInferResponse.FromString(await self.infer_bytes(message, **options))

    async def refused(self, message: bytes | Message, **options: Any) -> Failure:
        """ModelInfer that must fail."""
        return await failure(self.start(message, **options))

    def background(self, message: bytes | Message, **options: Any) -> asyncio.Task[kserve.ModelInferResponse]:
        """ModelInfer while the test does something else."""
        return asyncio.ensure_future(self.infer(message, **options))

    def stream(
        self, *, query: Mapping[str, str] | None = None, metadata: Metadata = (), timeout: float | None = None
    ) -> InferStream:
        """Opens ModelStreamInfer."""
        return InferStream(self._stream(metadata=(*query_metadata(query or {}), *metadata), timeout=timeout))

    async def close(self) -> None:
        """Closes the channel."""
        await self.channel.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Any RPC by its name, with messages."""
        return _named(self.rpcs, name)


class Management:
    """A client of the management port.

    Args:
        port: of the agent, on the loopback.
        token: sent as a bearer token, if given.
        window: see `small_window`.
    """

    def __init__(self, port: int, token: str | None = None, *, window: int | None = None) -> None:
        apart = ("grpc.use_local_subchannel_pool", 1)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=(apart, *small_window(window)))
        self.rpcs = rpc.callables(self.channel, MANAGEMENT)
        self.metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()

    async def register(self, worker: ScriptedWorker, name: str = "", version: str = "", **fields: Any) -> None:
        """Registers one capability of a worker; it must succeed."""
        request = management.RegisterModelRequest(
            model_name=name,
            model_version=version,
            worker_address=worker.address,
            worker_id=worker.worker_id,
            **fields,
        )
        answer = await within(self.rpcs["RegisterModel"](request, metadata=self.metadata))
        assert answer.success, answer.message

    async def heartbeat(self, worker_id: str) -> bool:
        """Sends a heartbeat; False asks the worker to register again."""
        request = management.HeartbeatRequest(worker_id=worker_id)
        return bool((await within(self.rpcs["Heartbeat"](request, metadata=self.metadata))).healthy)

    async def workers(self) -> dict[str, management.Worker]:
        """What ListWorkers tells, by worker id."""
        answer = await within(self.rpcs["ListWorkers"](management.ListWorkersRequest(), metadata=self.metadata))
        return {worker.worker_id: worker for worker in answer.workers}

    async def until_workers(self, worker_ids: set[str]) -> None:
        """Waits until exactly these workers are registered."""

        async def there() -> bool:
            return set(await self.workers()) == worker_ids

        await eventually(there, f"workers {worker_ids}")

    def watch(self, *, include_existing: bool = False) -> Any:
        """Opens WatchEvents."""
        request = management.WatchEventsRequest(include_existing=include_existing)
        return self.rpcs["WatchEvents"](request, metadata=self.metadata)

    async def close(self) -> None:
        """Closes the channel."""
        await self.channel.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Any RPC by its name, with messages."""
        return _named(self.rpcs, name)


def _named(rpcs: Mapping[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    if name not in rpcs:
        raise AttributeError(name)
    return rpcs[name]
