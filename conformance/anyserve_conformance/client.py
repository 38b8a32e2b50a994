"""The client's role: calls over grpcio, as bytes, recorded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from anyserve_conformance import proto
from anyserve_conformance.patience import LONG, Patience
from anyserve_conformance.transcript import Transcript
from anyserve_conformance.wire import decoded, raw_bytes

__all__ = ["Answer", "Call", "Client", "Reply", "Stream"]

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Answer:
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    payload: bytes | None
    """The reply's bytes, of a unary call that succeeded."""
    reply_class: Any = field(repr=False)
    trailers: Mapping[str, str | bytes] = field(default_factory=dict, repr=False)

    @property
    def message(self) -> Any:
        """The reply.

        Raises:
            AssertionError: the call did not succeed, or its reply is no such message.
        """
        assert self.code is grpc.StatusCode.OK, f"the call ended with {self.code.name}: {self.details}"
        assert self.payload is not None, "the call ended with OK and without a reply"
        try:
            return self.reply_class.FromString(self.payload)
        except DecodeError:
            raise AssertionError(f"the reply is no {self.reply_class.DESCRIPTOR.name}") from None

    def expect_ok(self) -> Answer:
        """Itself.

        Raises:
            AssertionError: the call did not succeed.
        """
        return self.expect(grpc.StatusCode.OK)

    def expect(self, *codes: grpc.StatusCode) -> Answer:
        """Itself.

        Raises:
            AssertionError: the call ended with none of these statuses.
        """
        wanted = " or ".join(code.name for code in codes)
        assert self.code in codes, f"the call ended with {self.code.name} ({self.details}), not {wanted}"
        return self


class Call:
    """A unary call under way."""

    def __init__(self, future: Any, name: str, reply_class: Any, client: Client) -> None:
        self._future = future
        self._name = name
        self._class = reply_class
        self._client = client
        self._answer: Answer | None = None

    def answer(self, within: float = LONG) -> Answer:
        """Waits for the end of the call; `within` is in seconds, stretched.

        Raises:
            AssertionError: it did not end.
        """
        if self._answer is None:
            try:
                self._future.exception(timeout=self._client.patience(within))
            except grpc.FutureTimeoutError:
                raise AssertionError(f"no answer to {self._name} within {self._client.patience(within):g} s") from None
            except grpc.FutureCancelledError:
                pass
            payload = self._future.result() if self._future.code() is grpc.StatusCode.OK else None
            self._answer = self._client.ended(self._future, self._name, self._class, payload)
        return self._answer

    @property
    def done(self) -> bool:
        """It has ended."""
        return bool(self._future.done())

    def cancel(self) -> None:
        """The client gives up the call."""
        self._client.transcript.note(self._client.who, f"cancels {self._name}")
        self._future.cancel()


@dataclass(frozen=True)
class Reply:
    """One response of a stream."""

    payload: bytes

    @property
    def message(self) -> Any:
        """The ModelStreamInferResponse (of another RPC: its message)."""
        return self._class.FromString(self.payload)

    @property
    def error(self) -> str:
        """`error_message`."""
        return str(self.message.error_message)

    @property
    def response(self) -> Any:
        """`infer_response`."""
        return self.message.infer_response

    _class: Any = field(default=None, repr=False)


class Stream:
    """A streaming call. Responses are taken from the wire only when they are asked for by `receive`."""

    def __init__(self, client: Client, name: str, make: Any, reply_class: Any, options: Mapping[str, Any]) -> None:
        self._client = client
        self._name = name
        self._class = reply_class
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._demand: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._asked = 0
        self._over = False
        self.call = make(iter(self._requests.get, None), **options)
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, request: bytes | Message) -> Stream:
        """Sends one request."""
        data = raw_bytes(request)
        self._client.transcript.sent(self._client.who, f"{self._name} request", data, self._client.text(request))
        self._requests.put(data)
        return self

    def end(self) -> Stream:
        """Ends the client's side."""
        self._client.transcript.note(self._client.who, f"ends its side of {self._name}")
        self._requests.put(None)
        return self

    def receive(self, within: float = LONG) -> Reply:
        """The next response; `within` is in seconds, stretched.

        Raises:
            AssertionError: there was none, or the call ended.
        """
        reply = self.next(within)
        if reply is None:
            end = self.answer()
            raise AssertionError(f"{self._name} ended with {end.code.name} ({end.details}) instead of a response")
        return reply

    def next(self, within: float = LONG) -> Reply | None:
        """The next response, or None when the call has ended.

        Raises:
            AssertionError: neither came.
        """
        if self._over:
            return None
        if not self._asked:
            self._asked += 1
            self._demand.put(True)
        try:
            payload = self._replies.get(timeout=self._client.patience(within))
        except queue.Empty:
            waited = self._client.patience(within)
            raise AssertionError(f"no response and no end of {self._name} within {waited:g} s") from None
        self._asked -= 1
        if payload is None:
            self._over = True
            return None
        self._client.transcript.received(
            self._client.who, f"{self._name} response", payload, decoded(self._class, payload)
        )
        return Reply(payload, self._class)

    def pending(self, for_: float = 0.15) -> bool:
        """Whether a response comes, or the call ends, within a short time; what came is kept for `receive`."""
        if self._over:
            return True
        if not self._asked:
            self._asked += 1
            self._demand.put(True)
        try:
            payload = self._replies.get(timeout=for_)
        except queue.Empty:
            return False
        kept, self._replies = self._replies, queue.SimpleQueue()
        self._replies.put(payload)
        while not kept.empty():
            self._replies.put(kept.get())
        return True

    def replies(self) -> Iterator[Reply]:
        """All responses until the call ends."""
        while (reply := self.next()) is not None:
            yield reply

    def answer(self, within: float = LONG) -> Answer:
        """The end of the call, after responses that were not received yet are thrown away.

        Raises:
            AssertionError: it did not end.
        """
        while self.next(within) is not None:
            pass
        return self._client.ended(self.call, self._name, self._class, None)

    def started(self, within: float = LONG) -> Stream:
        """Waits for the initial metadata.

        Raises:
            AssertionError: it did not come.
        """
        come = threading.Event()

        def wait() -> None:
            with suppress(grpc.RpcError):
                self.call.initial_metadata()
                come.set()

        threading.Thread(target=wait, daemon=True).start()
        waited = self._client.patience(within)
        assert come.wait(waited), f"no initial metadata of {self._name} within {waited:g} s"
        return self

    def cancel(self) -> None:
        """The client gives up the call."""
        self._client.transcript.note(self._client.who, f"cancels {self._name}")
        self.call.cancel()
        self._requests.put(None)

    def _read(self) -> None:
        while self._demand.get():
            try:
                payload = next(self.call)
            except (StopIteration, grpc.RpcError):
                self._replies.put(None)
                return
            self._replies.put(payload)

    def close(self) -> None:
        """Ends everything that the case has left."""
        self.call.cancel()
        self._requests.put(None)
        self._demand.put(False)


class Client:
    """One HTTP/2 connection to a server, for raw bytes and messages.

    Args:
        window: the size in bytes of what the client's end takes before it is read; None: grpc's own.
        metadata: comes with every call.
    """

    def __init__(
        self,
        target: str,
        transcript: Transcript,
        patience: Patience,
        *,
        who: str = "client",
        service: str = proto.KSERVE,
        window: int | None = None,
        metadata: Metadata = (),
    ) -> None:
        self.transcript = transcript
        self.patience = patience
        self.who = who
        self.service = service
        self._metadata = tuple(metadata)
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
        ]
        if window is not None:
            options += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", window)]
        self.channel = grpc.insecure_channel(target, options=options)
        self._streams: list[Stream] = []
        self._calls: list[Any] = []  # grpcio cancels a call that nobody holds

    def __repr__(self) -> str:
        return self.who

    def start(
        self,
        name: str,
        request: bytes | Message | None = None,
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> Call:
        """Starts a unary call; `timeout` is the deadline that the server is told, in seconds, not stretched."""
        method = proto.method(self.service, name)
        message = request if request is not None else proto.message(method.input_type.full_name)()
        data = raw_bytes(message)
        self.transcript.sent(self.who, f"{name} request", data, self.text(message, method))
        make: Any = self.channel.unary_unary(f"/{self.service}/{name}")
        future = make.future(data, metadata=(*self._metadata, *metadata), timeout=timeout, wait_for_ready=False)
        self._calls.append(future)
        return Call(future, name, proto.message(method.output_type.full_name), self)

    def call(
        self,
        name: str,
        request: bytes | Message | None = None,
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
        within: float = LONG,
    ) -> Answer:
        """A unary call to its end."""
        return self.start(name, request, metadata=metadata, timeout=timeout).answer(within)

    def start_infer(self, request: bytes | Message, *, metadata: Metadata = (), timeout: float | None = None) -> Call:
        """Starts ModelInfer."""
        return self.start("ModelInfer", request, metadata=metadata, timeout=timeout)

    def infer(
        self, request: bytes | Message, *, metadata: Metadata = (), timeout: float | None = None, within: float = LONG
    ) -> Answer:
        """ModelInfer to its end."""
        return self.start_infer(request, metadata=metadata, timeout=timeout).answer(within)

    def stream(
        self,
        name: str = "ModelStreamInfer",
        request: bytes | Message | None = None,
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> Stream:
        """Starts a streaming call. One whose requests are no stream is given its `request` and ended."""
        method = proto.method(self.service, name)
        make: Any = self.channel.stream_stream(f"/{self.service}/{name}")
        options = {"metadata": (*self._metadata, *metadata), "timeout": timeout}
        stream = self.opened(Stream(self, name, make, proto.message(method.output_type.full_name), options))
        if not method.client_streaming:
            stream.send(request if request is not None else proto.message(method.input_type.full_name)()).end()
        return stream

    def opened(self, stream: Stream) -> Stream:
        """Itself; it ends with the client."""
        self._streams.append(stream)
        return stream

    def live(self) -> bool:
        """ServerLive."""
        return bool(self.call("ServerLive").message.live)

    def text(self, message: bytes | Message, method: Any = None) -> str:
        """A request for people."""
        if isinstance(message, Message):
            return decoded(type(message), message.SerializeToString())
        name = method.input_type.full_name if method is not None else "inference.ModelInferRequest"
        return decoded(proto.message(name), message)

    def ended(self, call: Any, name: str, reply_class: Any, payload: bytes | None) -> Answer:
        """The answer of a call that has ended, recorded."""
        code, details = call.code(), call.details() or ""
        if payload is not None:
            self.transcript.received(self.who, f"{name} response", payload, decoded(reply_class, payload))
        self.transcript.note(self.who, f"{name} ended with {code.name}" + (f": {details}" if details else ""))
        trailers = {item.key: item.value for item in call.trailing_metadata() or ()}
        return Answer(code, details, payload, reply_class, trailers)

    def close(self) -> None:
        """Ends all calls and the connection."""
        for stream in self._streams:
            stream.close()
        self.channel.close()
        self._streams.clear()
        self._calls.clear()
