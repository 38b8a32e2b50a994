"""The client side: KServe v2 gRPC. Reads what a call asks for, lets the dispatcher serve it, answers.

ModelInfer and ModelStreamInfer work on bytes: the tensors in them are never
decoded. Rules: spec `serving.*` and `stream.*`, wire.md sections 1, 2 and 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

from anyserve._proto import grpc_predict_v2_pb2 as pb
from anyserve.agent.config import AgentConfig
from anyserve.agent.dispatcher import Dispatcher, Request, error_reply
from anyserve.agent.grpc_calls import Context, aborting, carries
from anyserve.agent.model_info import ModelInfo
from anyserve.agent.registry import Target
from anyserve.capability import InvalidQuery, Query
from anyserve.errors import Code, InferenceError
from anyserve.scan import REQUEST_FIELDS, MalformedMessage, MessageHead, scan_message
from anyserve.wire import INSTANCE_KEY, TRACEPARENT

__all__ = ["KServeService"]

QUERY_PREFIX = "x-cap-"
RESERVED_PREFIX = "anyserve_"
DRAINING = "the server is draining: try another instance, or this one when it is back"


class KServeService:
    """The RPCs of `inference.GRPCInferenceService`."""

    def __init__(
        self,
        config: AgentConfig,
        dispatcher: Dispatcher,
        info: ModelInfo,
        *,
        ready: Callable[[], bool],
        instance_secret: str,
    ) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._info = info
        self._ready = ready
        self._instance_secret = instance_secret
        self._draining = asyncio.Event()
        self._calls = 0
        self._no_calls = asyncio.Event()

    def methods(self) -> Mapping[str, Callable[..., Any]]:
        """RPC name -> its handler; the RPCs left out are not implemented."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": aborting(self.model_metadata),
            "ModelConfig": aborting(self.model_config),
            "ModelStatistics": aborting(self.model_statistics),
            "ModelInfer": aborting(self.model_infer),
            "ModelStreamInfer": aborting(self.model_stream_infer),
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": aborting(self.repository_model_load),
            "RepositoryModelUnload": aborting(self.repository_model_unload),
        }

    RAW = frozenset({"ModelInfer", "ModelStreamInfer"})
    """RPCs whose messages are passed as bytes."""

    def begin_drain(self) -> None:
        """From now on new calls are refused; streams take no further requests, and end when those taken have ended."""
        self._draining.set()

    async def calls_ended(self, grace: float) -> None:
        """Returns when no call is under way, after `grace` seconds at the latest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._calls:
                    self._no_calls.clear()
                    await self._no_calls.wait()

    def _begin_call(self, context: Context) -> None:
        """Counts a call that begins; refuses it when draining (`serving.infer.draining`)."""
        if self._draining.is_set() and not self._is_own(context):
            raise InferenceError(Code.UNAVAILABLE, DRAINING)
        self._calls += 1

    def _is_own(self, context: Context) -> bool:
        """Whether a call comes from one of this instance's own workers: it belongs to a call under way."""
        return carries(context.invocation_metadata(), INSTANCE_KEY, self._instance_secret)

    def _end_call(self) -> None:
        self._calls -= 1
        if not self._calls:
            self._no_calls.set()

    # Inference.

    async def model_infer(self, payload: bytes, context: Context) -> bytes:
        self._begin_call(context)
        try:
            return await self._dispatcher.unary(self._request(payload, _call_facts(context), unary_only=True))
        finally:
            self._end_call()

    async def model_stream_infer(self, payloads: AsyncIterator[bytes], context: Context) -> None:
        self._begin_call(context)
        try:
            draining = asyncio.Event() if self._is_own(context) else self._draining
            await _Stream(self, context).serve(payloads, draining)
        finally:
            self._end_call()

    def _request(self, payload: bytes, facts: _CallFacts, *, unary_only: bool) -> Request:
        """Reads a request.

        Raises:
            InferenceError: INVALID_ARGUMENT; the message names what is wrong.
        """
        try:
            head = scan_message(payload, fields=REQUEST_FIELDS)
        except MalformedMessage as error:
            raise InferenceError(Code.INVALID_ARGUMENT, f"not a ModelInferRequest: {error}") from error
        return self._request_of(payload, head, facts, unary_only=unary_only)

    @staticmethod
    def _request_of(payload: bytes, head: MessageHead, facts: _CallFacts, *, unary_only: bool) -> Request:
        for name in head.parameters:
            if name.startswith(RESERVED_PREFIX):
                raise InferenceError(
                    Code.INVALID_ARGUMENT, f"parameter {name!r} is reserved: names that start with {RESERVED_PREFIX}"
                )
        if facts.query is not None:
            target = Target(query=facts.query, unary_only=unary_only)
        elif head.model_name:
            target = Target(head.model_name, head.model_version, unary_only=unary_only)
        else:
            raise InferenceError(
                Code.INVALID_ARGUMENT, f"the request names no model: set model_name, or {QUERY_PREFIX}<key> metadata"
            )
        return Request(payload, head, target, facts.deadline, facts.traceparent)

    # About the server.

    async def server_live(self, _request: pb.ServerLiveRequest, _context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, _request: pb.ServerReadyRequest, _context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    async def server_metadata(self, _request: pb.ServerMetadataRequest, _context: Context) -> pb.ServerMetadataResponse:
        return self._info.server_metadata()

    # About models.

    async def model_ready(self, request: pb.ModelReadyRequest, _context: Context) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._info.is_ready(request.name, request.version))

    async def model_metadata(self, request: pb.ModelMetadataRequest, _context: Context) -> pb.ModelMetadataResponse:
        return self._info.metadata(request.name, request.version)

    async def model_config(self, request: pb.ModelConfigRequest, _context: Context) -> pb.ModelConfigResponse:
        return self._info.config(request.name, request.version)

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, _context: Context
    ) -> pb.ModelStatisticsResponse:
        return self._info.statistics(request.name, request.version)

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, _context: Context
    ) -> pb.RepositoryIndexResponse:
        return self._info.index(ready_only=request.ready)

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, _context: Context
    ) -> pb.RepositoryModelLoadResponse:
        name = request.model_name or request.repository_name  # Triton's form, or else KServe's
        await self._info.load(name)
        return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, _context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        name = request.model_name or request.repository_name
        await self._info.unload(name)
        return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)


class _CallFacts:
    """What a call says beside its messages: query, deadline, trace. Read once per call.

    Raises:
        InferenceError: INVALID_ARGUMENT, malformed `x-cap-*` metadata.
    """

    __slots__ = ("deadline", "query", "traceparent")

    def __init__(self, metadata: Any, time_remaining: float | None) -> None:
        self.query: Query | None = None
        self.traceparent = ""
        self.deadline = None if time_remaining is None else asyncio.get_running_loop().time() + time_remaining
        items = []
        for key, value in metadata or ():
            if key.startswith(QUERY_PREFIX):
                items.append((key[len(QUERY_PREFIX) :], value if isinstance(value, str) else ""))
            elif key == TRACEPARENT:
                self.traceparent = value
        if items:
            try:
                self.query = Query.parse(tuple(items))
            except InvalidQuery as error:
                raise InferenceError(Code.INVALID_ARGUMENT, str(error)) from error


def _call_facts(context: Context) -> _CallFacts:
    return _CallFacts(context.invocation_metadata(), context.time_remaining())


class _Stream:
    """One ModelStreamInfer call: its requests run concurrently, their replies share the one way back."""

    def __init__(self, service: KServeService, context: Context) -> None:
        self._service = service
        self._context = context
        self._places = asyncio.Semaphore(service._config.max_stream_requests)
        # One task writes, so that a request which is cancelled leaves no write half done; one reply waits for it.
        self._replies: asyncio.Queue[bytes | None] = asyncio.Queue(1)

    async def serve(self, payloads: AsyncIterator[bytes], draining: asyncio.Event) -> None:
        """Runs the call to its end; once `draining` is set it takes no further requests."""
        facts = _call_facts(self._context)
        try:
            async with asyncio.TaskGroup() as call:  # a write that fails ends the requests too
                call.create_task(self._write_all())
                complete = await self._run_requests(payloads, draining, facts)
                await self._replies.put(None)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if not complete:
            raise InferenceError(Code.UNAVAILABLE, DRAINING)

    async def _run_requests(self, payloads: AsyncIterator[bytes], draining: asyncio.Event, facts: _CallFacts) -> bool:
        """Runs what the client sends until all of it has ended; tells whether the client has ended its side."""
        stopping = asyncio.create_task(draining.wait())
        reading = asyncio.ensure_future(anext(payloads, None))
        try:
            async with asyncio.TaskGroup() as running:
                while (payload := await _first(reading, stopping)) is not None:
                    await self._places.acquire()
                    running.create_task(self._one(payload, facts))
                    reading = asyncio.ensure_future(anext(payloads, None))
            # Asked only now: the client may have ended its side after the drain began (`stream.drain.status`).
            return reading.done() and reading.result() is None
        finally:
            stopping.cancel()
            reading.cancel()

    async def _one(self, payload: bytes, facts: _CallFacts) -> None:
        head = MessageHead()
        try:
            head = scan_message(payload, fields=REQUEST_FIELDS)
            request = self._service._request_of(payload, head, facts, unary_only=False)
            await self._service._dispatcher.stream(request, self._replies.put)
        except MalformedMessage as error:
            await self._fail(head, Code.INVALID_ARGUMENT, f"not a ModelInferRequest: {error}")
        except InferenceError as error:
            await self._fail(head, error.code, error.message)
        finally:
            self._places.release()

    async def _fail(self, head: MessageHead, code: Code, message: str) -> None:
        """One request failed: said in the stream, which goes on (`stream.error.in-band`)."""
        await self._replies.put(error_reply(head, code, message))

    async def _write_all(self) -> None:
        while (reply := await self._replies.get()) is not None:
            await self._context.write(reply)


async def _first(reading: asyncio.Future[bytes | None], stopping: asyncio.Future[Any]) -> bytes | None:
    """What was read; None when the drain begins before."""
    await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
    return None if stopping.done() else reading.result()
