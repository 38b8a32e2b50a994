"""RegisterModel that succeeds: what is registered, what replaces it, what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, goes_to, listed, models_of
from anyserve_conformance.requirement import requirement

LOOK_AT = "the table of registrations and its key: worker id, model name, model version, capability"


@requirement("manage.register.minimal")
def test_fields_1_to_4_are_enough(agent: Agent) -> None:
    """A registration with fields 1 to 4 alone is a unary one of priority 0 without a concurrency of its own."""
    worker = agent.listener(answer=answers("it"))
    name = agent.name("m")
    values = (name, "1", worker.address, worker.worker_id)
    message = b"".join(wire.field(number, value) for number, value in enumerate(values, 1))
    answer = agent.management.call("RegisterModel", message).message
    assert answer.success, f"RegisterModel was answered with success = false: {answer.message}"
    (registration,) = listed(agent, worker.worker_id).registrations
    expected = proto.Registration(model_name=name, model_version="1", capability={"type": name, "model": "1"})
    assert registration == expected, f"listed is {registration}"
    goes_to(agent, name, "it")


@requirement("manage.register.minimal")
def test_minimal_ranks_as_priority_0(agent: Agent) -> None:
    """A registration without a priority ranks above one of -1 and below one of 1."""
    name = agent.name("m")
    agent.worker(name, priority=-1, answer=answers("-1"))
    goes_to(agent, name, "-1")
    agent.worker(name, answer=answers("0"))
    for _ in range(3):
        goes_to(agent, name, "0")
    agent.worker(name, priority=1, answer=answers("1"))
    for _ in range(3):
        goes_to(agent, name, "1")


def has_capability(agent: Agent, worker_id: str, expected: Mapping[str, str]) -> None:
    """ListWorkers tells the capability of the worker's only registration."""
    (registration,) = listed(agent, worker_id).registrations
    found = dict(registration.capability)
    assert found == expected, f"the registration is listed with the capability {found}, not {expected}"


@requirement("manage.register.default-capability")
def test_name_is_the_type(agent: Agent) -> None:
    """Without a capability and a version the capability is {type: model_name}."""
    name = agent.name("m")
    worker = agent.worker(name, answer=answers("it"))
    has_capability(agent, worker.worker_id, {"type": name})
    goes_to(agent, "", "it", query={"type": name})
    agent.infer("", query={"type": name, "model": "*"}).expect(grpc.StatusCode.NOT_FOUND)


@requirement("manage.register.default-capability")
def test_version_is_the_model(agent: Agent) -> None:
    """Without a capability and with a version the capability is {type: model_name, model: model_version}."""
    name = agent.name("m")
    worker = agent.worker(name, "llama 70b", answer=answers("it"))
    expected = {"type": name, "model": "llama 70b"}
    has_capability(agent, worker.worker_id, expected)
    goes_to(agent, "", "it", query=expected)


@requirement("manage.register.default-capability")
def test_given_capability_is_all(agent: Agent) -> None:
    """Where a capability is given, model name and version add nothing to it."""
    name = agent.name("m")
    worker = agent.worker(name, "1", capability={"lang": name})
    has_capability(agent, worker.worker_id, {"lang": name})
    agent.infer("", query={"type": name}).expect(grpc.StatusCode.NOT_FOUND)


@requirement("manage.register.success")
def test_routable_from_the_answer_on(agent: Agent) -> None:
    """A request that is sent right after the answer is served, each time anew."""
    worker = agent.listener(answer=answers("it"))
    for number in range(30):
        name = agent.name(f"m{number}")
        agent.management.register(worker, name)
        goes_to(agent, name, "it")


@requirement("manage.register.success")
def test_capability_without_a_name(agent: Agent) -> None:
    """A registration with a capability and without a model name is taken and found by a query."""
    worker = agent.worker(capability={"type": agent.name("chat")}, answer=answers("it"))
    assert models_of(agent, worker.worker_id) == [("", "")], "the registration is not listed as it was made"
    goes_to(agent, "", "it", query={"type": agent.name("chat")})


@requirement("manage.register.replace")
def test_same_again_replaces(agent: Agent) -> None:
    """The same worker id, name, version and capability with other options replaces all of them."""
    name = agent.name("m")
    worker = agent.worker(name, "1", capability={"a": "1", "b": "2"}, priority=1, max_concurrency=3, platform="old")
    agent.management.register(worker, name, "1", capability={"b": "2", "a": "1"}, priority=2, stream=True)
    (registration,) = listed(agent, worker.worker_id).registrations
    expected = proto.Registration(
        model_name=name, model_version="1", capability={"a": "1", "b": "2"}, priority=2, stream=True
    )
    assert registration == expected, f"after the second registration there is {registration}"


@requirement("manage.register.replace")
def test_default_capability_written_out_replaces(agent: Agent) -> None:
    """A capability that says what an empty one means replaces the registration that had the empty one."""
    name = agent.name("m")
    worker = agent.worker(name, "1")
    agent.management.register(worker, name, "1", capability={"type": name, "model": "1"}, priority=5)
    priorities = [r.priority for r in listed(agent, worker.worker_id).registrations]
    assert priorities == [5], (
        f"after both there are registrations with the priorities {priorities}, not the second alone"
    )


@requirement("manage.register.replace")
def test_routing_follows(agent: Agent) -> None:
    """A later registration with another priority and kind decides where requests go."""
    name = agent.name("m")
    first = agent.worker(name, priority=1, answer=answers("first"))
    agent.worker(name, answer=answers("second"))
    goes_to(agent, name, "first")
    agent.management.register(first, name, priority=-1)
    goes_to(agent, name, "second")
    agent.management.register(first, name, priority=1)
    goes_to(agent, name, "first")
    agent.management.register(first, name, priority=1, stream=True)
    goes_to(agent, name, "second")


@requirement("manage.register.replace")
def test_tensors_follow(agent: Agent) -> None:
    """A later registration replaces the inputs, outputs and the platform too."""
    name = agent.name("m")
    tensor = proto.TensorMetadata(name="x", datatype="FP32", shape=[1])
    worker = agent.worker(name, inputs=[tensor], outputs=[tensor], platform="old")
    agent.management.register(worker, name)
    metadata = agent.client.call("ModelMetadata", proto.ModelMetadataRequest(name=name)).message
    told = (list(metadata.inputs), list(metadata.outputs), metadata.platform)
    assert told == ([], [], ""), f"ModelMetadata still tells what was replaced: {metadata}"


@requirement("manage.register.replace")
@pytest.mark.parametrize("other", ["name", "version", "capability"])
def test_another_is_added(agent: Agent, other: str) -> None:
    """A registration of the same worker that differs in name, version or capability stands beside the first."""
    fields: dict[str, Any] = {"name": agent.name("m"), "version": "1", "capability": {"type": agent.name("a")}}
    changed = {"name": agent.name("n"), "version": "2", "capability": {"type": agent.name("b")}}
    worker = agent.worker(**fields)
    agent.management.register(worker, **fields | {other: changed[other]})
    assert len(listed(agent, worker.worker_id).registrations) == 2, f"another {other} has replaced the registration"


@requirement("manage.register.replica")
def test_requests_are_shared(agent: Agent) -> None:
    """Three workers that register alike are listed each, and take turns."""
    name = agent.name("m")
    workers = [agent.worker(name, "1", capability={"type": name}, answer=answers("it")) for _ in range(3)]
    for worker in workers:
        assert models_of(agent, worker.worker_id) == [(name, "1")], f"{worker.worker_id} is not listed with its model"
    for _ in range(6):
        goes_to(agent, name, "it")
    shares = [len(worker.requests) for worker in workers]
    assert shares == [2, 2, 2], f"of six requests the replicas got {shares}"


@requirement("manage.register.replica")
def test_load_is_shared(agent: Agent) -> None:
    """Requests at the same time go to different replicas."""
    name = agent.name("m")
    workers = [agent.worker(name) for _ in range(2)]
    calls = [agent.start_infer(name) for _ in range(2)]
    for worker in workers:
        worker.exchange().answer()
    for call in calls:
        call.answer().expect_ok()


@requirement("manage.register.address")
def test_moved_worker_gets_requests_there(agent: Agent) -> None:
    """After a registration from another address new requests go there, and one under way ends at the old one."""
    name = agent.name("m")
    old = agent.worker(name)
    held = agent.start_infer(name)
    exchange = old.exchange()
    new = agent.listener(answer=answers("new"))
    agent.management.register(new, name, worker_id=old.worker_id)
    goes_to(agent, name, "new")
    exchange.answer(wire.reply(request_id="old"))
    reply = held.answer().message
    assert reply.id == "old", f"the request under way got the reply {reply.id!r}, not that of the old address"
    address = listed(agent, old.worker_id).address
    assert address == new.address, f"the worker is listed at {address}, and has moved to {new.address}"


@requirement("manage.register.address")
def test_stream_ends_where_it_began(agent: Agent) -> None:
    """A streaming exchange under way goes on over the old connection after the worker has moved."""
    name = agent.name("m")
    old = agent.worker(name, stream=True)
    stream = agent.stream().send(wire.request(name)).end()
    exchange = old.exchange()
    exchange.send(wire.stream_reply(i=0))
    stream.receive()
    new = agent.listener()
    agent.management.register(new, name, stream=True, worker_id=old.worker_id)
    exchange.send(wire.stream_reply(i=1))
    parameters = wire.parameters_of(stream.receive().response)
    assert parameters.get("i") == 1, f"the second reply has the parameters {parameters}, not i = 1"
    exchange.end()
    assert stream.next() is None, "there is a third response"
    stream.answer().expect_ok()


@requirement("manage.register.address")
def test_all_registrations_move(agent: Agent) -> None:
    """One registration from another address moves all registrations of the worker."""
    old = agent.listener(answer=answers("old"))
    new = agent.listener(answer=answers("new"))
    for name in ("a", "b"):
        agent.management.register(old, agent.name(name))
        goes_to(agent, agent.name(name), "old")
    agent.management.register(new, agent.name("c"), worker_id=old.worker_id)
    for name in ("a", "b", "c"):
        goes_to(agent, agent.name(name), "new")
    agent.management.register(old, agent.name("c"))
    for name in ("a", "b", "c"):
        goes_to(agent, agent.name(name), "old")


@requirement("manage.register.address")
def test_waiting_request_goes_to_the_new_address(agent: Agent) -> None:
    """A request that waits for a place of a worker is sent to where the worker has moved meanwhile."""
    name = agent.name("m")
    old = agent.worker(name, max_concurrency=1)
    held = agent.start_infer(name)
    exchange = old.exchange()
    waiting = agent.start_infer(name)
    new = agent.listener(answer=answers("new"))
    agent.management.register(new, name, max_concurrency=1, worker_id=old.worker_id)
    exchange.answer()
    held.answer().expect_ok()
    reply = waiting.answer().message
    assert reply.id == "new", f"the request that waited was answered by {reply.id!r}, not at the new address"
    assert len(old.requests) == 1, "a request went to the old address after the worker had moved"


ODD_TENSORS: tuple[dict[str, Any], ...] = (
    {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
    {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
    {"name": "", "datatype": "", "shape": []},
    {"name": "größe\n", "datatype": "NO SUCH TYPE", "shape": [0, -7, (1 << 63) - 1, -(1 << 63)]},
    {"name": "y" * 1_000, "datatype": "BYTES", "shape": [1] * 200},
)


@requirement("manage.register.shared-memory")
@pytest.mark.parametrize("asked", [False, True])
def test_shared_memory_is_answered(agent: Agent, asked: bool) -> None:
    """Whoever asks for shared memory is told whether it is agreed; whoever does not ask is answered false."""
    name = agent.name("m")
    worker = agent.listener(answer=answers("it"))
    request = agent.management.registration(worker, name, shared_memory=asked)
    answer = agent.management.call("RegisterModel", request).message
    assert answer.success, f"RegisterModel was answered with success = false: {answer.message}"
    assert asked or not answer.shared_memory, "shared memory was agreed with a worker that did not ask for it"
    goes_to(agent, name, "it")


@requirement("manage.register.shared-memory", needs={"shared-memory-threshold": 0})
def test_shared_memory_that_is_turned_off(agent: Agent) -> None:
    """An agent that sends no payloads by shared memory answers false."""
    worker = agent.listener()
    request = agent.management.registration(worker, agent.name("m"), shared_memory=True)
    answer = agent.management.call("RegisterModel", request).message
    assert answer.success, f"RegisterModel was answered with success = false: {answer.message}"
    assert not answer.shared_memory, "shared memory was agreed by an agent in which it is turned off"


@requirement("manage.register.tensors")
def test_told_in_model_metadata(agent: Agent) -> None:
    """ModelMetadata has inputs, outputs and platform as registered, also names and types that make no sense."""
    name = agent.name("m")
    tensors = [proto.TensorMetadata(**tensor) for tensor in ODD_TENSORS]
    agent.worker(name, inputs=tensors, outputs=tensors[::-1], platform="größe/✓ 1")
    metadata = agent.client.call("ModelMetadata", proto.ModelMetadataRequest(name=name)).message
    for field, told, expected in (
        ("inputs", metadata.inputs, tensors),
        ("outputs", metadata.outputs, tensors[::-1]),
    ):
        assert [(t.name, t.datatype, list(t.shape)) for t in told] == [
            (t.name, t.datatype, list(t.shape)) for t in expected
        ], f"other {field} are told than were registered"
    assert metadata.platform == "größe/✓ 1", f"the platform is told as {metadata.platform!r}"


@requirement("manage.register.tensors")
def test_told_in_model_config(agent: Agent) -> None:
    """ModelConfig has inputs, outputs and platform as they were registered, as far as it has words for them."""
    name = agent.name("m")
    tensors = [proto.TensorMetadata(**tensor) for tensor in ODD_TENSORS]
    agent.worker(name, inputs=tensors, outputs=tensors[::-1], platform="größe/✓ 1")
    config = agent.client.call("ModelConfig", proto.ModelConfigRequest(name=name)).message.config
    for field, told, expected in (("input", config.input, tensors), ("output", config.output, tensors[::-1])):
        assert [(t.name, list(t.dims)) for t in told] == [(t.name, list(t.shape)) for t in expected], (
            f"other {field} is told than was registered"
        )
    assert config.platform == "größe/✓ 1", f"the platform is told as {config.platform!r}"
