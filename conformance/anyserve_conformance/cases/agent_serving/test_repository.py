"""Loading and unloading, and the calls that are not served."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from anyserve_conformance import proto
from anyserve_conformance.agent import Agent
from anyserve_conformance.requirement import requirement

LOOK_AT = "the model repository calls, and where they take the name from"
FORMS = pytest.mark.parametrize("form", ["triton", "kserve"])


def fields(form: str, name: str) -> dict[str, str]:
    """Triton names the model in field 2 (field 1 is a repository), KServe in field 1."""
    return {"repository_name": "elsewhere", "model_name": name} if form == "triton" else {"repository_name": name}


@requirement("serving.repository.name", "serving.repository.answer", "serving.repository.load")
@FORMS
def test_loading_what_is_served(agent: Agent, form: str) -> None:
    """Loading a model that is registered is OK, with its name in field 1 and `true` in field 2."""
    name = agent.name()
    agent.worker(name)
    answer = agent.client.call("RepositoryModelLoad", proto.RepositoryModelLoadRequest(**fields(form, name))).message
    assert (answer.model_name, answer.isLoaded) == (name, True)


@requirement("serving.repository.foreign", "serving.repository.name")
@FORMS
def test_unloading_what_others_started(agent: Agent, form: str) -> None:
    """Unloading a model whose worker came by itself is FAILED_PRECONDITION, and it goes on serving."""
    name = agent.name()
    agent.worker(name, answer=lambda _: b"")
    request = proto.RepositoryModelUnloadRequest(**fields(form, name))
    agent.client.call("RepositoryModelUnload", request).expect(StatusCode.FAILED_PRECONDITION)
    agent.infer(name).expect_ok()


@requirement("serving.repository.not-found")
@pytest.mark.parametrize("call", ["Load", "Unload"])
def test_what_is_not_there(agent: Agent, call: str) -> None:
    """Loading or unloading a model that is neither registered nor launched is NOT_FOUND."""
    name = agent.name()
    agent.worker(name)
    make = getattr(proto, f"RepositoryModel{call}Request")
    for form in (fields("kserve", agent.name("unknown")), {"repository_name": name, "model_name": agent.name("no")}):
        agent.client.call(f"RepositoryModel{call}", make(**form)).expect(StatusCode.NOT_FOUND)


@requirement("serving.repository.empty-name")
@pytest.mark.parametrize("call", ["Load", "Unload"])
def test_no_name(agent: Agent, call: str) -> None:
    """Loading or unloading without a name is INVALID_ARGUMENT."""
    agent.client.call(f"RepositoryModel{call}").expect(StatusCode.INVALID_ARGUMENT)


@requirement("serving.unimplemented.named", look_at="the calls of the service that are not served")
@pytest.mark.parametrize(
    "call",
    [
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_not_built(agent: Agent, call: str) -> None:
    """Shared memory, trace and log settings are UNIMPLEMENTED, with a message that names the call."""
    answer = agent.client.call(call).expect(StatusCode.UNIMPLEMENTED)
    assert call in answer.details, f"the message does not name {call}: {answer.details}"
