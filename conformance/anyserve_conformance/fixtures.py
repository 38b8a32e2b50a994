"""What cases are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from anyserve_conformance import proto
from anyserve_conformance.agent import Agent
from anyserve_conformance.client import Client
from anyserve_conformance.patience import Patience
from anyserve_conformance.plugin import CASE, SUBJECTS, TRANSCRIPT
from anyserve_conformance.raw_http2 import Http2Connection
from anyserve_conformance.scripted_agent import WorkerUnderTest
from anyserve_conformance.subjects import ModelSpec, Subjects, TensorSpec

__all__ = ["Model", "Server"]


@pytest.fixture
def transcript(request: pytest.FixtureRequest) -> Any:
    """The record of this case."""
    return request.node.stash[TRANSCRIPT]


@pytest.fixture(scope="session")
def subjects(request: pytest.FixtureRequest) -> Subjects:
    """What is tested."""
    return request.config.stash[SUBJECTS]


@pytest.fixture(scope="session")
def patience(subjects: Subjects) -> Patience:
    """`patience(seconds)` stretches them."""
    return subjects.patience


# Agents


@pytest.fixture
def agent(request: pytest.FixtureRequest, subjects: Subjects, transcript: Any) -> Iterator[Agent]:
    """An agent with the options that the case `needs`, shared with other cases."""
    agent = Agent(subjects.agent(request.node.stash[CASE].needs), transcript, subjects.patience)
    try:
        yield agent
    finally:
        agent.close()


@pytest.fixture
def launch_agent(subjects: Subjects, transcript: Any) -> Iterator[Callable[..., Agent]]:
    """`launch_agent(**{"grace": 1})`: an agent of the case's own, to be signalled, drained or killed."""
    agents: list[Agent] = []

    def launch(**options: Any) -> Agent:
        place = subjects.launch({name.replace("_", "-"): value for name, value in options.items()})
        agents.append(Agent(place, transcript, subjects.patience))
        return agents[-1]

    yield launch
    for agent in agents:
        agent.close()
        agent.program.close()


# Servers: kserve-core


@dataclass(frozen=True)
class Server:
    """The address of a client port."""

    host: str
    port: int


@pytest.fixture
def server(subjects: Subjects) -> Server:
    """The server under test."""
    host, _, port = _target(subjects).rpartition(":")
    return Server(host.strip("[]"), int(port))


def _target(subjects: Subjects) -> str:
    return subjects.settings.target or subjects.agent({}).target


@pytest.fixture
def client(subjects: Subjects, transcript: Any) -> Iterator[Client]:
    """A well-behaved client of the server."""
    client = Client(_target(subjects), transcript, subjects.patience)
    yield client
    client.close()


@pytest.fixture
def raw_http2(server: Server, transcript: Any, patience: Patience) -> Iterator[Callable[..., Http2Connection]]:
    """`raw_http2(**options)`: a connection to the server, HTTP/2 by hand."""
    connections: list[Http2Connection] = []

    def connect(**options: Any) -> Http2Connection:
        connection = Http2Connection.connect(
            server.host, server.port, transcript=transcript, patience=patience, **options
        )
        connections.append(connection)
        return connection

    yield connect
    for connection in connections:
        connection.close()


ELEMENT_SIZES = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "UINT32": 4,
    "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip
FREE_SIZE = 3  # what a -1 in a shape is taken to be


class Model:
    """An identity model of the server."""

    def __init__(self, spec: ModelSpec) -> None:
        self.name = spec.name
        self.version = spec.version
        self.inputs: Sequence[TensorSpec] = spec.inputs

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{i.name}: {i.datatype}' for i in self.inputs)})"

    def message(self, **fields: Any) -> Any:
        """A valid ModelInferRequest with raw contents; `fields` are set instead of its own."""
        message = proto.ModelInferRequest(model_name=self.name, model_version=self.version)
        for spec in self.inputs:
            shape = [FREE_SIZE if size < 0 else size for size in spec.shape]
            message.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
            message.raw_input_contents.append(raw_contents(spec.datatype, shape))
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    def request(self, **fields: Any) -> bytes:
        """The same as bytes."""
        data: bytes = self.message(**fields).SerializeToString()
        return data


def raw_contents(datatype: str, shape: Sequence[int]) -> bytes:
    """Some contents of a tensor, each element another where that is possible."""
    count = 1
    for size in shape:
        count *= size
    if datatype == "BYTES":
        elements = [f"element {n}".encode() for n in range(count)]
        return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    if datatype == "BOOL":
        return bytes(n % 2 for n in range(count))
    size = ELEMENT_SIZES[datatype]
    if datatype.startswith(("FP", "BF")):
        return bytes(count * size)
    return b"".join((n % 100).to_bytes(size, "little") for n in range(count))


@pytest.fixture(scope="session")
def models(subjects: Subjects) -> Iterator[Sequence[Model]]:
    """The identity models of the server: those of --model, or one of each datatype that the suite plays itself."""
    if subjects.settings.models:
        yield [Model(spec) for spec in subjects.settings.models]
        return
    from anyserve_conformance.identity import serve_identities  # noqa: PLC0415 - agents only

    with serve_identities(subjects) as specs:
        yield [Model(spec) for spec in specs]


@pytest.fixture
def model(models: Sequence[Model]) -> Model:
    """The first identity model of the server."""
    return models[0]


# Workers


@pytest.fixture
def worker(request: pytest.FixtureRequest, subjects: Subjects, transcript: Any) -> Iterator[WorkerUnderTest]:
    """The worker under test, shared with other cases: it has registered and sent a heartbeat."""
    worker = subjects.worker(request.node.stash[CASE].needs)
    worker.transcript = transcript
    yield worker
    worker.close_connections()


@pytest.fixture
def launch_worker(subjects: Subjects, transcript: Any) -> Iterator[Callable[..., WorkerUnderTest]]:
    """`launch_worker(options={"grace": 1}, agent=…, registered=False)`: a worker of the case's own."""
    workers: list[WorkerUnderTest] = []

    def launch(options: Mapping[str, Any] | None = None, **how: Any) -> WorkerUnderTest:
        if "agent" in how:
            how["agent"].transcript = transcript
        worker = subjects.new_worker(options or {}, **how)
        worker.transcript = transcript
        workers.append(worker)
        return worker

    yield launch
    for worker in workers:
        worker.close()
