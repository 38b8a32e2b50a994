"""HTTP/2 by hand: a gRPC client that sends whatever a case says, right or wrong.

It stands on the parts of the library `h2`, hyperframe (frames) and hpack (header
blocks), and not on its state machine, which would refuse to send what is wrong and
would not know the streams of frames that went past it. The server's frames are
checked here instead: `Http2Violation` says which rule one of them broke.

One thread, no background work: bytes are read while something is awaited or sent.
"""

from __future__ import annotations

import itertools
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hyperframe import frame as frames
from hyperframe.exceptions import HyperframeError

from anyserve_conformance.http2_rules import (
    MAX_FRAME,
    Http2Violation,
    Windows,
    check_block,
    describe,
    lines,
    rule,
    text_of,
)
from anyserve_conformance.patience import LONG, Patience
from anyserve_conformance.raw_grpc import ERRORS, LIVE, GrpcAnswer, Header, error_name, prefixed, request_headers
from anyserve_conformance.transcript import Transcript

__all__ = ["PREFACE", "Connect", "Http2Connection"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Http2Connection:
    """A connection to a server. Whatever is awaited is bounded; `within` is in seconds, stretched.

    Once the server has closed it, `closed` says how, and whatever is sent goes nowhere.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        patience: Patience,
        transcript: Transcript | None = None,
        who: str = "client",
        auto_window: bool = True,
        parse: bool = True,
    ) -> None:
        self.patience = patience
        self.who = who
        self.auto_window = auto_window
        """Gives the server its window back as its data comes."""
        self.parse = parse
        """Reads what comes as HTTP/2; otherwise it is recorded and dropped."""
        self.closed = ""
        """How the server ended the connection; empty while it has not."""
        self.goaway: int | None = None
        """The error code of the server's GOAWAY."""
        self.peer_settings: dict[int, int] = {}
        """The server's settings by number."""
        self.pongs: list[bytes] = []
        """The payloads of PING frames with ACK."""
        self.encoder = Encoder()
        self.streams: dict[int, GrpcAnswer] = {}
        self.settings_frames = 0
        self.settings_acks = 0
        self._socket = sock
        self._socket.setblocking(False)
        self._record = transcript or Transcript()
        self._decoder = Decoder()
        self._in = bytearray()
        self._out = bytearray()
        self._block: tuple[frames.HeadersFrame, bytearray] | None = None
        self._next_stream = 1
        self._windows = Windows()
        self._table_sizes: list[int] = []
        self._pings = 0
        self._held: bytearray | None = None

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        *,
        patience: Patience,
        settings: Mapping[int, int] | None = None,
        handshake: bool = True,
        **options: Any,
    ) -> Http2Connection:
        """Connects.

        Args:
            settings: the client's SETTINGS by number.
            handshake: sends preface and SETTINGS, and waits until the server has sent its own and acknowledged these.
                Without it the case does so, and says by `begun` when they have gone out.
            options: as the class takes them.

        Raises:
            OSError: there is no connection.
            AssertionError: the server does not speak HTTP/2.
        """
        sock = socket.create_connection((host, port), timeout=patience(LONG))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = cls(sock, patience=patience, **options)
        if not handshake:
            connection._announce({})
            connection._held = bytearray()
            return connection
        try:
            connection.preface(settings or {})
            done = connection.wait(lambda: connection.settings_frames > 0 and connection.settings_acks > 0)
            assert done, connection.closed or f"no SETTINGS and acknowledgement of them within {patience(LONG):g} s"
        except BaseException:
            connection.close()
            raise
        return connection

    # What is sent

    def raw(self, data: bytes, what: str, decoded: str = "") -> None:
        """Sends bytes as they are; what comes meanwhile is taken, so that neither end waits for the other."""
        if self.closed:
            return
        self._record.sent(self.who, what, data, decoded)
        self._out += data
        deadline = time.monotonic() + self.patience(LONG)
        while self._out and not self.closed:
            assert self._step(deadline), f"the server took no bytes of {what} within {self.patience(LONG):g} s"

    def frame(self, *several: frames.Frame, what: str = "") -> None:
        """Sends frames in one piece, without a look at windows and limits."""
        data = b"".join(each.serialize() for each in several)
        self.raw(data, what or ", then ".join(map(describe, several[:4])) + ("…" if len(several) > 4 else ""))

    def stream(self) -> int:
        """The number of a new stream."""
        number = self._next_stream
        self._next_stream += 2
        self.streams[number] = GrpcAnswer(number)
        return number

    def headers(
        self,
        pairs: Iterable[Header],
        *,
        stream: int | None = None,
        end_stream: bool = False,
        cuts: Sequence[int] = (),
        block: bytes | None = None,
        huffman: bool = True,
    ) -> int:
        """Sends a header block and returns its stream, a new one unless it is given.

        Args:
            cuts: positions in the block at which a CONTINUATION frame begins.
            block: the encoded block; `pairs` are then only what the transcript shows.
        """
        number = self.stream() if stream is None else stream
        shown = list(pairs)
        encoded = self.encoder.encode(shown, huffman=huffman) if block is None else block
        self.frame_block(number, encoded, end_stream=end_stream, cuts=cuts, decoded=lines(shown))
        return number

    def frame_block(
        self, stream: int, block: bytes, *, end_stream: bool = False, cuts: Sequence[int] = (), decoded: str = ""
    ) -> None:
        """Sends an encoded header block as HEADERS and, where it is cut, CONTINUATION."""
        edges = [0, *cuts, len(block)]
        parts = [block[start:end] for start, end in itertools.pairwise(edges)]
        sent: list[frames.Frame] = [frames.HeadersFrame(stream, parts[0])]
        sent += [frames.ContinuationFrame(stream, part) for part in parts[1:]]
        if end_stream:
            sent[0].flags.add("END_STREAM")
        sent[-1].flags.add("END_HEADERS")
        data = b"".join(each.serialize() for each in sent)
        self.raw(data, ", then ".join(map(describe, sent)), decoded)

    def data(self, stream: int, data: bytes = b"", *, end_stream: bool = False, padding: int | None = None) -> None:
        """Sends one DATA frame, whatever the window is; `padding` bytes more, and their length, unless it is None."""
        sent = frames.DataFrame(stream, data, pad_length=padding or 0)
        if end_stream:
            sent.flags.add("END_STREAM")
        if padding is not None:
            sent.flags.add("PADDED")
        self._windows.spend(stream, len(data) + (0 if padding is None else padding + 1))
        self.frame(sent)

    def wait_window(self, stream: int, size: int = 1) -> bool:
        """Waits until the server takes this many bytes of DATA, or none any more as the call or connection is over.

        Raises:
            AssertionError: it opened no such window.
        """

        def over() -> bool:
            return bool(self.closed) or (stream in self.streams and self.streams[stream].finished)

        opened = self.wait(lambda: self._windows.left(stream) >= size or over())
        assert opened, f"the server opened no window for {size} bytes more"
        return not over()

    def upload(self, stream: int, data: bytes, *, end_stream: bool = True) -> None:
        """Sends data within the window and the frame size that the server grants."""
        rest = data
        while self.wait_window(stream):
            piece = rest[: min(self._windows.left(stream), self.peer_settings.get(5, MAX_FRAME))]
            rest = rest[len(piece) :]
            self.data(stream, piece, end_stream=end_stream and not rest)
            if not rest:
                return

    def open(self, path: str = LIVE, *, stream: int | None = None, end_stream: bool = False, **options: Any) -> int:
        """Sends the headers of a call, without its message, and returns the stream; options as in `request_headers`."""
        return self.headers(request_headers(path, **options), stream=stream, end_stream=end_stream)

    def start(self, path: str | None = LIVE, payload: bytes = b"", **options: Any) -> int:
        """Sends a whole unary call and returns its stream; options as in `request_headers`."""
        stream = self.headers(request_headers(path, **options))
        self.upload(stream, prefixed(payload))
        return stream

    def call(self, path: str | None = LIVE, payload: bytes = b"", **options: Any) -> GrpcAnswer:
        """A whole unary call and its answer; options as in `request_headers`."""
        return self.answer(self.start(path, payload, **options))

    def preface(self, settings: Mapping[int, int]) -> None:
        """Sends the connection preface with its SETTINGS, before which nothing may go out."""
        self._announce(settings)
        self.raw(
            PREFACE + frames.SettingsFrame(0, dict(settings)).serialize(),
            f"the connection preface, SETTINGS {dict(settings)}",
        )

    def begun(self) -> None:
        """The preface and its SETTINGS have gone out: frames that answer the server's may follow."""
        self._out += self._held or b""
        self._held = None

    def settings(self, values: Mapping[int, int]) -> None:
        """Sends SETTINGS."""
        self._announce(values)
        self.frame(frames.SettingsFrame(0, dict(values)))

    def expect_acknowledgement(self, values: Mapping[int, int] | None = None) -> None:
        """SETTINGS will go out as raw bytes."""
        self._announce(values or {})

    def _announce(self, values: Mapping[int, int]) -> None:
        self._windows.announced(values)
        before = self._table_sizes[-1] if self._table_sizes else self._decoder.max_allowed_table_size
        self._table_sizes.append(values.get(1, before))

    def window_update(self, stream: int, increment: int) -> None:
        """Sends WINDOW_UPDATE; stream 0 is the connection."""
        self._windows.grant(stream, increment)
        self.frame(frames.WindowUpdateFrame(stream, increment))

    def reset(self, stream: int, code: str = "CANCEL") -> None:
        """Sends RST_STREAM."""
        self.frame(frames.RstStreamFrame(stream, ERRORS.index(code)))

    def ping(self, payload: bytes) -> None:
        """Sends PING with eight bytes."""
        self.frame(frames.PingFrame(0, payload))

    # What comes

    def answer(self, stream: int, within: float = LONG) -> GrpcAnswer:
        """Waits for the end of a call and returns what came; `finished` is false if the end did not come."""
        answer = self.streams[stream]
        self.wait(lambda: answer.finished, within)
        return answer

    def wait(self, true: Callable[[], bool], within: float = LONG) -> bool:
        """Takes what comes until something is true, and says whether it is; a closed connection ends it."""
        deadline = time.monotonic() + self.patience(within)
        while not true():
            if self.closed or not self._step(deadline):
                return true()
        return True

    def wait_closed(self, within: float = LONG) -> bool:
        """Waits until the server has ended the connection, and says whether it has."""
        return self.wait(lambda: bool(self.closed), within)

    def goes_on(self) -> bool:
        """Whether the server still answers PING, without having said by GOAWAY that it takes no more calls."""
        self.ping(payload := self._ping_payload())
        self.wait(lambda: payload in self.pongs or self.goaway is not None)
        return not self.closed and self.goaway is None and payload in self.pongs

    def round_trip(self) -> bool:
        """Whether the server, having read all that was sent, answers PING."""
        self.ping(payload := self._ping_payload())
        return self.wait(lambda: payload in self.pongs)

    def _ping_payload(self) -> bytes:
        self._pings += 1
        return b"ping" + self._pings.to_bytes(4, "big")

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
        self.closed = self.closed or "the client closed the connection"

    def _step(self, deadline: float) -> bool:
        """Sends or takes some bytes; false when the deadline passed first."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0))
            ready = selector.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            if ready[0][1] & selectors.EVENT_WRITE:
                del self._out[: self._socket.send(self._out)]
            if ready[0][1] & selectors.EVENT_READ:
                self._take(self._socket.recv(1 << 20))
        except ConnectionError as error:
            self._lost(f"connection ended by {type(error).__name__}")
        return True

    def _take(self, data: bytes) -> None:
        if not data:
            self._lost("connection closed by the server")
            return
        if not self.parse:
            self._record.received(self.who, "bytes", data)
            return
        self._in += data
        while len(self._in) >= 9:
            length = int.from_bytes(self._in[:3], "big")
            rule(length <= MAX_FRAME, f"it sent a frame of {length} bytes, above SETTINGS_MAX_FRAME_SIZE")
            if len(self._in) < 9 + length:
                return
            whole = bytes(self._in[: 9 + length])
            del self._in[: 9 + length]
            self._parse(whole)

    def _parse(self, whole: bytes) -> None:
        try:
            received, _ = frames.Frame.parse_frame_header(memoryview(whole[:9]))
            received.parse_body(memoryview(whole[9:]))
        except HyperframeError as error:
            raise Http2Violation(f"it sent a frame that is none: {error}") from error
        if not self.settings_frames:
            rule(isinstance(received, frames.SettingsFrame), f"its first frame was {describe(received)}, not SETTINGS")
        if self._block:
            inside = isinstance(received, frames.ContinuationFrame) and received.stream_id == self._block[0].stream_id
            rule(inside, f"it sent {describe(received)} inside a header block")
        if not isinstance(received, frames.HeadersFrame | frames.ContinuationFrame):
            self._record.received(self.who, describe(received), whole)
        self._handle(received, whole)

    def _handle(self, received: frames.Frame, whole: bytes) -> None:
        match received:
            case frames.HeadersFrame():
                self._block = (received, bytearray())
                self._add_to_block(received, whole)
            case frames.ContinuationFrame():
                rule(self._block is not None, "it sent CONTINUATION without HEADERS")
                self._add_to_block(received, whole)
            case frames.DataFrame():
                self._take_data(received)
            case frames.RstStreamFrame():
                answer = self._answer_on(received)
                if answer.reset is None:  # a later one answers frames that were under way
                    answer.reset = received.error_code
            case frames.SettingsFrame():
                self._take_settings(received)
            case frames.WindowUpdateFrame():
                self._windows.granted(received.stream_id, received.window_increment)
            case frames.PingFrame() if "ACK" in received.flags:
                self.pongs.append(received.opaque_data)
            case frames.PingFrame():
                self._reply(frames.PingFrame(0, received.opaque_data, flags=["ACK"]))
            case frames.GoAwayFrame():
                self._take_goaway(received)
            case frames.PushPromiseFrame():
                raise Http2Violation("it sent PUSH_PROMISE")

    def _add_to_block(self, received: frames.HeadersFrame | frames.ContinuationFrame, whole: bytes) -> None:
        assert self._block is not None
        head, block = self._block
        block += received.data
        if "END_HEADERS" not in received.flags:
            self._record.received(self.who, describe(received), whole)
            return
        self._block = None
        try:
            pairs = [(text_of(name), text_of(value)) for name, value in self._decoder.decode(bytes(block), raw=True)]
        except HPACKError as error:
            raise Http2Violation(f"it sent a header block that is none: {error}") from error
        self._record.received(self.who, describe(received), whole, lines(pairs))
        answer = self._answer_on(head)
        ends = "END_STREAM" in head.flags
        check_block(pairs, len(answer.blocks), ends)
        if not answer.blocks and not ends and dict(pairs)[":status"].startswith("1"):
            return  # an informational response, such as 100
        answer.blocks.append(pairs)
        answer.ended = answer.ended_by_headers = ends

    def _take_data(self, received: frames.DataFrame) -> None:
        answer = self._answer_on(received)
        rule(bool(answer.blocks), "it sent DATA before HEADERS")
        answer.data += received.data
        answer.ended = "END_STREAM" in received.flags
        size = received.flow_controlled_length
        rule(self._windows.take(received.stream_id, size), f"it sent {size} bytes of DATA beyond its window")
        if self.auto_window and size:
            for stream in (0,) if answer.ended else (0, received.stream_id):
                self._windows.grant(stream, size)
                self._reply(frames.WindowUpdateFrame(stream, size))

    def _take_settings(self, received: frames.SettingsFrame) -> None:
        if "ACK" in received.flags:
            self.settings_acks += 1
            self._windows.acknowledged()
            self._decoder.max_allowed_table_size = self._table_sizes.pop(0)
            return
        self.settings_frames += 1
        self.peer_settings.update(received.settings)
        if 4 in received.settings:
            self._windows.initial_sending = received.settings[4]
        if 1 in received.settings:
            self.encoder.header_table_size = min(received.settings[1], 4096)
        self._reply(frames.SettingsFrame(0, flags=["ACK"]))

    def _take_goaway(self, received: frames.GoAwayFrame) -> None:
        self.goaway = received.error_code
        for answer in self.streams.values():
            if answer.stream > received.last_stream_id and not answer.finished:
                answer.lost = f"GOAWAY {error_name(received.error_code)}, which leaves out the stream"

    def _answer_on(self, received: frames.Frame) -> GrpcAnswer:
        number = received.stream_id
        answer = self.streams.setdefault(number, GrpcAnswer(number))
        rule(number % 2 == 1, f"it sent {describe(received)} on a stream that no client opens")
        late = answer.ended and not isinstance(received, frames.RstStreamFrame)
        rule(not late, f"it sent {describe(received)} after END_STREAM")
        return answer

    def _reply(self, sent: frames.Frame) -> None:
        """Goes out with the next step, unless the preface has not gone out yet."""
        place = self._out if self._held is None else self._held
        place += sent.serialize()

    def _lost(self, how: str) -> None:
        self.closed = how + (f" after GOAWAY {error_name(self.goaway)}" if self.goaway is not None else "")
        self._record.note(self.who, self.closed)
        for answer in self.streams.values():
            if not answer.finished:
                answer.lost = self.closed


Connect = Callable[..., Http2Connection]
"""The fixture `raw_http2`: `Http2Connection.connect` with server, transcript and patience given."""
