"""What an agent tells of itself and of the models that are registered."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_serving.steps import statistics
from anyserve_conformance.requirement import requirement

LOOK_AT = "what the agent keeps of a registration to answer questions about models"
TYPE_FP32, TYPE_STRING, TYPE_BF16, TYPE_INVALID = 11, 13, 14, 0


def tensors() -> dict[str, Any]:
    """Declared inputs and outputs."""
    make = proto.TensorMetadata
    return {
        "inputs": [make(name="a", datatype="FP32", shape=[-1, 3])],
        "outputs": [make(name="b", datatype="BYTES", shape=[1]), make(name="c", datatype="BF16", shape=[2])],
    }


def told(metadata: Any) -> list[tuple[str, str, list[int]]]:
    """Inputs and then outputs of a metadata reply."""
    return [(t.name, t.datatype, list(t.shape)) for t in (*metadata.inputs, *metadata.outputs)]


def ready(agent: Agent, name: str, version: str = "") -> bool:
    """ModelReady."""
    return bool(agent.client.call("ModelReady", proto.ModelReadyRequest(name=name, version=version)).message.ready)


def metadata(agent: Agent, name: str, version: str = "") -> Any:
    """ModelMetadata."""
    return agent.client.call("ModelMetadata", proto.ModelMetadataRequest(name=name, version=version)).message


@requirement("serving.ready.true", "lifecycle.start.bare")
def test_a_bare_agent_is_ready(agent: Agent) -> None:
    """An agent whose instance launches no workers is ready, and stays so when a worker comes and goes."""
    assert agent.client.call("ServerReady").message.ready
    worker = agent.worker(agent.name())
    assert agent.client.call("ServerReady").message.ready
    agent.management.unregister(worker.worker_id)
    assert agent.client.call("ServerReady").message.ready, "not ready after a worker has left"


@requirement("lifecycle.start.bare")
def test_ready_from_the_first_call_on(launch_agent: Any) -> None:
    """A bare agent is ready as soon as it answers."""
    assert launch_agent().client.call("ServerReady").message.ready


@requirement("serving.model.ready")
@pytest.mark.parametrize("version", ["", "2"])
def test_ready_by_name(agent: Agent, version: str) -> None:
    """A registered model is ready, with its version and without one."""
    name = agent.name()
    agent.worker(name, "2")
    assert ready(agent, name, version)


@requirement("serving.model.ready")
def test_ready_by_capability(agent: Agent) -> None:
    """A model that is found by the capability keys `model` and `version` is ready too, also a streaming one."""
    name = agent.name()
    agent.worker(capability={"model": name, "version": "5"}, stream=True)
    assert ready(agent, name)
    assert ready(agent, name, "5")


@requirement("serving.model.not-ready")
def test_not_ready(agent: Agent) -> None:
    """An unknown name, an unknown version and an empty name are answered with OK and `ready = false`."""
    name = agent.name()
    agent.worker(name, "2")
    for asked in ((agent.name("unknown"), ""), (name, "3"), ("", ""), ("", "2")):
        assert not ready(agent, *asked), f"{asked} is ready"


@requirement("serving.model.not-ready")
def test_not_ready_after_its_worker_has_left(agent: Agent) -> None:
    """A model is not ready from the moment on when its last registration is removed."""
    name = agent.name()
    worker = agent.worker(name)
    assert ready(agent, name)
    agent.management.unregister(worker.worker_id)
    assert not ready(agent, name)


@requirement("serving.metadata.identity")
def test_the_servers_name(agent: Agent) -> None:
    """ServerMetadata says `anyserve` and a version."""
    answer = agent.client.call("ServerMetadata").message
    assert answer.name == "anyserve", f"the name is {answer.name!r}"
    assert answer.version[:1].isdigit(), f"the version is {answer.version!r}"


@requirement("serving.metadata.extensions")
def test_the_extensions(agent: Agent) -> None:
    """ServerMetadata lists the extensions that there are, each once, and no others."""
    extensions = list(agent.client.call("ServerMetadata").message.extensions)
    assert sorted(extensions) == ["model_configuration", "model_repository", "parameters", "statistics"]


@requirement("serving.metadata.registered", "manage.register.tensors")
def test_metadata_as_registered(agent: Agent) -> None:
    """ModelMetadata has the platform, inputs and outputs of the registration, whatever they are."""
    name = agent.name()
    agent.worker(name, "1", platform="onnx", **tensors())
    answer = metadata(agent, name)
    assert (answer.name, answer.platform) == (name, "onnx")
    assert told(answer) == [("a", "FP32", [-1, 3]), ("b", "BYTES", [1]), ("c", "BF16", [2])]


@requirement("serving.metadata.registered")
def test_metadata_of_the_version_that_would_serve(agent: Agent) -> None:
    """ModelMetadata without a version tells of the version that a request without one would get."""
    name = agent.name()
    agent.worker(name, "9", worker_id="nine", platform="nine")
    agent.worker(name, "10", worker_id="ten", platform="ten")
    assert metadata(agent, name).platform == "ten"
    assert metadata(agent, name, "9").platform == "nine"


@requirement("serving.metadata.versions")
def test_versions_in_order(agent: Agent) -> None:
    """ModelMetadata lists each version once: numbers in rising order, then the others by their characters."""
    name = agent.name()
    for number, version in enumerate(("beta", "10", "9", "2.5", "-1", "alpha", "10", "Z")):
        agent.worker(name, version, worker_id=f"w{number}")
    assert list(metadata(agent, name, "9").versions) == ["-1", "2.5", "9", "10", "Z", "alpha", "beta"]


@requirement("serving.metadata.not-found", "serving.config.not-found", "serving.statistics.not-found")
@pytest.mark.parametrize("call", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_unknown_models(agent: Agent, call: str) -> None:
    """Questions about an unknown model or version are NOT_FOUND."""
    name = agent.name()
    agent.worker(name, "1")
    make = proto.message(proto.method(proto.KSERVE, call).input_type.full_name)
    for asked in ((agent.name("unknown"), ""), (name, "2")):
        agent.client.call(call, make(name=asked[0], version=asked[1])).expect(StatusCode.NOT_FOUND)


@requirement("serving.config.registered")
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "streaming"])
def test_config(agent: Agent, stream: bool) -> None:
    """ModelConfig has what follows from a registration, with datatypes by Triton's names."""
    name = agent.name()
    declared = tensors()
    declared["outputs"].append(proto.TensorMetadata(name="d", datatype="COMPLEX", shape=[1]))
    agent.worker(name, platform="onnx", stream=stream, **declared)
    config = agent.client.call("ModelConfig", proto.ModelConfigRequest(name=name)).message.config
    assert (config.name, config.platform, config.backend) == (name, "onnx", "anyserve")
    assert config.model_transaction_policy.decoupled is stream
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("a", TYPE_FP32, [-1, 3])]
    types = {t.name: t.data_type for t in config.output}
    assert types == {"b": TYPE_STRING, "c": TYPE_BF16, "d": TYPE_INVALID}


COUNTING = "where an exchange ends: each request is counted there once"


@requirement("serving.statistics.success", look_at=COUNTING)
def test_successes_are_counted_once(agent: Agent) -> None:
    """Each request that succeeded counts once in inference, success and compute_infer."""
    name = agent.name()
    agent.worker(name, "1", answer=lambda _: b"")
    for _ in range(3):
        agent.infer(name).expect_ok()
    found = statistics(agent, name)[name, "1"]
    stats = found.inference_stats
    assert (found.inference_count, stats.success.count, stats.compute_infer.count) == (3, 3, 3)
    assert stats.fail.count == 0


@requirement("serving.statistics.success", look_at=COUNTING)
def test_a_streamed_request_counts_once(agent: Agent) -> None:
    """A streamed request counts once, however many replies it had."""
    name = agent.name()
    worker = agent.worker(name, stream=True)
    stream = agent.stream().send(wire.request(name)).end()
    exchange = worker.exchange()
    for _ in range(3):
        exchange.send(wire.stream_reply(raw=b"x"))
    exchange.end()
    stream.answer().expect_ok()
    found = statistics(agent, name)[name, ""]
    assert (found.inference_count, found.inference_stats.success.count) == (1, 1)


@requirement("serving.statistics.fail", look_at=COUNTING)
def test_failures_are_counted(agent: Agent) -> None:
    """A request whose handler fails, whose worker dies or that is cancelled counts once in `fail`."""
    name = agent.name()
    worker = agent.worker(name)
    failed = agent.start_infer(name)
    worker.exchange().answer(wire.reply(anyserve_error_code=3, anyserve_error_message="no"))
    failed.answer().expect(StatusCode.INVALID_ARGUMENT)
    died = agent.start_infer(name)
    worker.exchange().close()
    died.answer().expect(StatusCode.UNAVAILABLE)
    cancelled = agent.start_infer(name)
    exchange = worker.exchange()
    cancelled.cancel()
    exchange.cancelled()
    agent.patience.until(
        lambda: statistics(agent, name)[name, ""].inference_stats.fail.count == 3, "three failures in ModelStatistics"
    )
    assert statistics(agent, name)[name, ""].inference_stats.success.count == 0


@requirement("serving.statistics.fail", look_at=COUNTING)
def test_attempts_that_were_not_taken_do_not_count(agent: Agent) -> None:
    """A request that a worker did not take and another served is no failure."""
    name = agent.name()
    gone = agent.worker(name, worker_id="gone", priority=1)
    agent.worker(name, worker_id="there", answer=lambda _: b"")
    gone.refuse()
    agent.infer(name).expect_ok()
    stats = statistics(agent, name)[name, ""].inference_stats
    assert (stats.success.count, stats.fail.count) == (1, 0)


@requirement("serving.statistics.success", look_at=COUNTING)
def test_counted_under_the_listed_name(agent: Agent) -> None:
    """A registration without a name counts under the values of its keys `model` and `version`."""
    name = agent.name()
    agent.worker(capability={"model": name, "version": "3"}, answer=lambda _: b"")
    agent.infer(name).expect_ok()
    assert statistics(agent, name)[name, "3"].inference_count == 1


@requirement("serving.statistics.scope")
def test_statistics_of_all(agent: Agent) -> None:
    """Without a name ModelStatistics tells of all models, without a version of all versions of one."""
    first, second = agent.name("a"), agent.name("b")
    worker = agent.worker(first, "1")
    agent.management.register(worker, first, "2")
    agent.management.register(worker, second)
    everything = statistics(agent, "")
    assert {(first, "1"), (first, "2"), (second, "")} <= {*everything}
    assert {*statistics(agent, first)} == {(first, "1"), (first, "2")}
    assert {*statistics(agent, first, "2")} == {(first, "2")}


@requirement("serving.index.entries")
@pytest.mark.parametrize("only_ready", [False, True])
def test_index(agent: Agent, only_ready: bool) -> None:
    """RepositoryIndex has one READY entry for each listed name and version, whatever the number of replicas."""
    name, other = agent.name("named"), agent.name("capability")
    agent.worker(name, "1", worker_id="a")
    agent.worker(name, "1", worker_id="b")
    agent.worker(name, "2", worker_id="c")
    agent.worker(capability={"model": other, "version": "7"})
    agent.worker(capability={"type": agent.name("query-only")})
    index = agent.client.call("RepositoryIndex", proto.RepositoryIndexRequest(ready=only_ready)).message.models
    mine = sorted((m.name, m.version, m.state) for m in index if agent.token in m.name)
    assert mine == [(other, "7", "READY"), (name, "1", "READY"), (name, "2", "READY")]
    assert all(m.name for m in index), "an entry without a name"
