"""One session with an agent, step by step, and what everybody saw of it.

Clients and workers are scripted, so that the same steps can be taken with another agent: what is seen must be the same.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Awaitable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc.aio
from google.protobuf.message import DecodeError, Message

from anyserve._proto import grpc_predict_v2_pb2 as kserve
from anyserve._proto import worker_management_pb2 as management
from support.instances import AgentUnderTest, Instance
from support.waiting import LIMIT, within
from support.wire import frame, length_delimited
from support.worker import AGENT_CLOSED, Connection, ScriptedWorker

__all__ = ["Session", "Step", "play"]

Metadata = tuple[tuple[str, str], ...]
Outcome = tuple[str, Any]
"""The name of a status, and the answer or the message."""

STREAMING = ("w2",)
"""The workers all of whose registrations stream."""
MARK = re.compile(rb"<request (\d+)>")
OWN_WORDS = "(its own words)"
QUIET = 3
"""So many calls in a row, each there and back, that show nothing new: the agent has nothing left to do."""


class Step(NamedTuple):
    """One thing that somebody does: a method of `Session`, and its arguments."""

    what: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.what}({', '.join(f'{name}={value!r:.200}' for name, value in self.arguments.items())})"


async def play(agent: AgentUnderTest, steps: Iterable[Step], texts: Collection[str] = ()) -> dict[str, Any]:
    """Takes steps with an agent, and then ends it.

    Args:
        agent: not yet started.
        steps: of the session.
        texts: messages of failures by which workers say why; the words of others are each agent's own.

    Returns:
        What was seen.
    """
    session = Session(agent, texts)
    try:
        await session.start()
        for step in steps:
            await getattr(session, step.what)(**step.arguments)
            await session.settle()
        return await session.end()
    finally:
        await session.instance.close()


@dataclass
class Request:
    """One request of a client, and how far it has come."""

    call: asyncio.Task[Outcome]
    """The call that it is, or is part of, and how that ends."""
    unary: bool
    arrived: list[tuple[str, bytes]] = field(default_factory=list)
    """The workers that got it, and as which bytes."""

    @property
    def under_way(self) -> bool:
        """It is a unary call that has not ended."""
        return self.unary and not self.call.done()


@dataclass
class Exchange:
    """What a worker has in hand, or had last, on one connection."""

    number: int
    worker: str
    connection: Connection
    sent: bytes = b""

    @property
    def open(self) -> bool:
        """Neither side has closed the connection."""
        return self.connection.is_open and not self.connection.ended.is_set()

    @property
    def running(self) -> bool:
        """The last frame of the answer has not been sent."""
        return self.open and not self._complete()

    def _complete(self) -> bool:
        rest = self.sent
        while len(rest) >= 4 and len(rest) >= (end := 4 + int.from_bytes(rest[:4], "big")):
            if self.worker not in STREAMING or end == 4:
                return True
            rest = rest[end:]
        return False


class Stream:
    """One ModelStreamInfer call, and what came back.

    Args:
        call: of grpc.
        doomed: the agent must end it.
    """

    def __init__(self, call: Any, *, doomed: bool) -> None:
        self.call = call
        self.responses: list[bytes] = []
        self.half_closed = False
        self.doomed = doomed
        self.numbers: set[int] = set()
        self.ended: asyncio.Task[Outcome] = asyncio.ensure_future(self._read())

    async def _read(self) -> Outcome:
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            while (data := await self.call.read()) is not grpc.aio.EOF:
                self.responses.append(data)
        return (await self.call.code()).name, await self.call.details()

    def unanswered(self, arrived: set[int]) -> int:
        """How many of its requests that have not arrived at a worker have not been refused."""
        not_arrived = self.numbers - arrived
        named = {*map(str, not_arrived), ""}  # without an id: it could not be read
        return len(not_arrived) - sum(_is_refusal(response, named) for response in self.responses)


class Session:
    """An agent, a client, and workers.

    Args:
        agent: not yet started.
        texts: see `play`.
    """

    def __init__(self, agent: AgentUnderTest, texts: Collection[str]) -> None:
        self.instance = Instance(agent)
        self._texts = texts
        self.seen: list[Any] = []
        """Answers, in the order of the steps that asked."""
        self._requests: dict[int, Request] = {}
        self._streams: list[Stream] = []
        self._workers: dict[str, ScriptedWorker] = {}
        self._exchanges: dict[Connection, Exchange] = {}
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Starts the agent, and watches it."""
        await self.instance.start()
        self._watch = self.instance.management.watch()
        await within(self._watch.initial_metadata())
        self._events = asyncio.ensure_future(self._read_events())

    async def _read_events(self) -> list[Any]:
        return [_event(event) async for event in self._watch]

    # Steps of workers and operators at the management port.

    async def register(self, worker: str, **fields: Any) -> None:
        """Registers something of a worker, which listens from the first time on."""
        if worker not in self._workers:
            self._workers[worker] = self.instance.new_worker(worker, script=self._serve)
        place = {"worker_id": worker, "worker_address": self._workers[worker].address, "stream": worker in STREAMING}
        await self._manage("RegisterModel", management.RegisterModelRequest(**place | fields))

    async def unregister(self, worker: str, **fields: Any) -> None:
        """A worker takes back what it registered under a name and version."""
        await self._manage("UnregisterModel", management.UnregisterModelRequest(worker_id=worker, **fields))

    async def unregister_worker(self, worker: str) -> None:
        """A worker takes its leave."""
        await self._manage("UnregisterWorker", management.UnregisterWorkerRequest(worker_id=worker))

    async def heartbeat(self, worker: str) -> None:
        """A worker shows that it is alive."""
        await self._manage("Heartbeat", management.HeartbeatRequest(worker_id=worker))

    async def _manage(self, name: str, request: Message) -> None:
        status, answer = await _outcome(within(self.instance.management.rpcs[name](request)))
        done = getattr(answer, "success", None) or getattr(answer, "healthy", None)
        self.seen.append((name, status, done))

    async def look(self, name: str, version: str) -> None:
        """Asks all that can be asked about a model, and for what there is."""
        client, model = self.instance.client, {"name": name, "version": version}
        questions = (
            client.ModelReady(kserve.ModelReadyRequest(**model)),
            client.ModelMetadata(kserve.ModelMetadataRequest(**model)),
            client.ModelConfig(kserve.ModelConfigRequest(**model)),
            client.ModelStatistics(kserve.ModelStatisticsRequest(**model)),
            client.RepositoryIndex(kserve.RepositoryIndexRequest()),
            self.instance.management.ListWorkers(management.ListWorkersRequest()),
        )
        for question in questions:
            status, answer = await _outcome(within(question))
            self.seen.append((status, _without_times(answer)))

    # Steps of clients.

    async def infer(self, payload: bytes, metadata: Metadata) -> None:
        """Sends a request by ModelInfer."""
        number, payload = self._marked(payload)
        call = self.instance.client.start(payload, metadata=metadata)
        self._requests[number] = Request(asyncio.ensure_future(_outcome(call)), unary=True)

    async def open_stream(self, metadata: Metadata, refused: bool = False) -> None:
        """Opens a ModelStreamInfer call, which is refused or not."""
        self._streams.append(Stream(self.instance.client.stream(metadata=metadata).call, doomed=refused))

    async def send(self, stream: int, payload: bytes, too_long: bool = False) -> None:
        """Sends a request in a stream, its number as its id; one that is too long ends the call."""
        if chosen := _chosen(stream, self._open_streams()):
            number, payload = self._marked(payload)
            chosen.numbers.add(number)
            chosen.doomed = too_long
            self._requests[number] = Request(chosen.ended, unary=False)
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it has just ended
                await within(chosen.call.write(payload + length_delimited(3, str(number))))

    async def half_close(self, stream: int) -> None:
        """Sends no more in a stream."""
        if chosen := _chosen(
            stream, [each for each in self._streams if not each.half_closed and not each.ended.done()]
        ):
            chosen.half_closed = True
            await within(chosen.call.done_writing())

    def _open_streams(self) -> list[Stream]:
        return [each for each in self._streams if not each.half_closed and not each.ended.done()]

    async def cancel(self, call: int) -> None:
        """Cancels a unary call."""
        if chosen := _chosen(call, [each for each in self._requests.values() if each.under_way]):
            chosen.call.cancel()

    async def cancel_stream(self, stream: int) -> None:
        """Cancels a stream."""
        if chosen := _chosen(stream, [each for each in self._streams if not each.ended.done()]):
            chosen.call.cancel()

    def _marked(self, payload: bytes) -> tuple[int, bytes]:
        """A request with an unknown field behind it, by which it is known wherever it turns up."""
        number = next(self._numbers)
        return number, payload + length_delimited(1000, f"<request {number}>")

    # Steps of workers at their sockets. The connections on which nothing has come yet are left alone.

    async def _serve(self, worker: ScriptedWorker, connection: Connection) -> None:
        while True:
            payload = await connection.read_frame()
            mark = MARK.search(payload)
            assert mark, payload
            number = int(mark[1])
            self._requests[number].arrived.append((worker.worker_id, payload))
            self._exchanges[connection] = Exchange(number, worker.worker_id, connection)

    async def answer(self, exchange: int, reply: bytes, replies: Sequence[bytes], last: bool) -> None:
        """Answers a request: by one reply, or from a worker that streams by any number, perhaps the last ones."""
        if chosen := self._chosen_exchange(exchange, [each for each in self._exchanges.values() if each.running]):
            streamed = [*map(frame, replies), frame()] if last else map(frame, replies)
            await self._answer(chosen, b"".join(streamed) if chosen.worker in STREAMING else frame(reply))

    async def lie(self, exchange: int, data: bytes) -> None:
        """Sends any bytes on the connection of an exchange under way or over."""
        if chosen := self._chosen_exchange(exchange, self._exchanges.values()):
            await self._answer(chosen, data)

    async def _answer(self, exchange: Exchange, data: bytes) -> None:
        exchange.sent += data
        with suppress(*AGENT_CLOSED):
            await within(exchange.connection.send(data))

    async def hang_up(self, exchange: int, data: bytes) -> None:
        """Sends bytes on the connection of an exchange, and closes it."""
        await self.lie(exchange, data)
        if chosen := self._chosen_exchange(exchange, self._exchanges.values()):
            await chosen.connection.close()

    async def end_answers(self, exchange: int) -> None:
        """Closes a worker's direction of the connection of an exchange."""
        if chosen := self._chosen_exchange(exchange, self._exchanges.values()):
            chosen.connection.half_close()

    def _chosen_exchange(self, exchange: int, among: Iterable[Exchange]) -> Exchange | None:
        usable = sorted((each for each in among if each.open), key=lambda each: each.number)
        found: Exchange | None = _chosen(exchange, usable)
        return found

    async def stop_listening(self, worker: str) -> None:
        """A worker takes no further connections."""
        if worker in self._workers:
            await self._workers[worker].refuse()

    async def listen(self, worker: str) -> None:
        """A worker takes connections again."""
        if worker in self._workers:
            await self._workers[worker].refuse()
            self._workers[worker].listen()

    # Between the steps, and at the end.

    async def settle(self) -> None:
        """Waits until the agent has done all that follows from what happened.

        Raises:
            AssertionError: it never came to rest.
        """
        give_up = asyncio.get_running_loop().time() + LIMIT
        quiet, last = 0, None
        while quiet < QUIET:
            await within(self.instance.client.ServerLive(kserve.ServerLiveRequest()))
            view = self._view()
            quiet = quiet + 1 if view == last and self._consistent() else 0
            last = view
            assert asyncio.get_running_loop().time() < give_up, f"it does not come to rest: {self._requests}"

    def _view(self) -> tuple[int, ...]:
        requests = self._requests.values()
        return (
            sum(each.call.done() for each in requests),
            sum(len(each.arrived) for each in requests),
            sum(len(each.responses) for each in self._streams),
            sum(each.open for each in self._exchanges.values()),
        )

    def _consistent(self) -> bool:
        """The agent and those around it agree on what is under way."""
        snapshot = self.instance.agent.snapshot()
        running = [each for each in self._exchanges.values() if each.running]
        in_hand = {each.number for each in running}
        arrived = {number for number, each in self._requests.items() if each.arrived}
        unary = {number for number, each in self._requests.items() if each.under_way}
        streams = [each for each in self._streams if not each.ended.done()]
        waiting: int = snapshot["waiting"]
        return (
            waiting == len(unary - arrived) + sum(each.unanswered(arrived) for each in streams)
            and in_hand >= unary & arrived
            and not any(self._requests[number].call.done() for number in in_hand)
            and not any(each.doomed for each in streams)
            and (waiting > 0 or not any(each.half_closed and not each.numbers & in_hand for each in streams))
            and all(
                worker["in_flight"] == sum(each.worker == worker_id for each in running)
                for worker_id, worker in snapshot["workers"].items()
            )
        )

    async def end(self) -> dict[str, Any]:
        """Cancels what is under way and stops the agent; what was seen, the events last."""
        while any(each.under_way for each in self._requests.values()):
            await self.cancel(0)
            await self.settle()
        while any(not each.ended.done() for each in self._streams):
            await self.cancel_stream(0)
            await self.settle()
        await self.instance.stop(grace=LIMIT)
        return {
            "requests": {
                number: (each.arrived, self._comparable(each.call.result()) if each.unary else None)
                for number, each in self._requests.items()
            },
            # Responses to different requests may interleave, which have different ids or are alike.
            "streams": [
                (sorted(map(self._without_words, each.responses), key=_id_of), self._comparable(each.ended.result()))
                for each in self._streams
            ],
            "answers": self.seen,
            "connections": Counter(worker.worker_id for worker in self._workers.values() for _ in worker.connections),
            "events": await within(self._events),
        }

    def _comparable(self, outcome: Outcome) -> Outcome:
        status, told = outcome
        return status, told if status == "OK" or told in self._texts else OWN_WORDS

    def _without_words(self, response: bytes) -> bytes:
        try:
            read = kserve.ModelStreamInferResponse.FromString(response)
        except DecodeError:
            return response
        if "anyserve_error_code" not in read.infer_response.parameters or read.error_message in self._texts:
            return response
        read.error_message = OWN_WORDS
        return read.SerializeToString(deterministic=True)


def _chosen(number: int, among: list[Any]) -> Any:
    return among[number % len(among)] if among else None


async def _outcome(call: Awaitable[Any]) -> Outcome:
    try:
        return "OK", await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details()
    except asyncio.CancelledError:
        return "CANCELLED", ""


def _id_of(response: bytes) -> str:
    try:
        return kserve.ModelStreamInferResponse.FromString(response).infer_response.id
    except DecodeError:
        return ""


def _is_refusal(response: bytes, request_ids: set[str]) -> bool:
    try:
        read = kserve.ModelStreamInferResponse.FromString(response).infer_response
    except DecodeError:
        return False
    return "anyserve_error_code" in read.parameters and read.id in request_ids


def _event(event: management.Event) -> Any:
    type_ = management.Event.Type.Name(event.type)
    registration = event.registration.SerializeToString(deterministic=True)
    return event.sequence, type_, event.worker_id, registration, bool(event.message)


def _without_times(answer: Any) -> Any:
    if isinstance(answer, kserve.ModelStatisticsResponse):
        for model in answer.model_stats:
            model.last_inference = 0
            for duration in (
                getattr(model.inference_stats, each.name) for each in model.inference_stats.DESCRIPTOR.fields
            ):
                duration.ns = 0
    elif isinstance(answer, management.ListWorkersResponse):
        for worker in answer.workers:
            worker.address = ""
            worker.heartbeat_age_ms = min(worker.heartbeat_age_ms, 0)
    return answer.SerializeToString(deterministic=True) if isinstance(answer, Message) else answer
