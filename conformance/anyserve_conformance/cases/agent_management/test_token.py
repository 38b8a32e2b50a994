"""The management port of an agent with a token: who does not have it learns and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from anyserve_conformance import proto
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, goes_to, listed
from anyserve_conformance.client import Answer
from anyserve_conformance.management import Management
from anyserve_conformance.requirement import requirement, skipped
from anyserve_conformance.subjects import Subjects

LOOK_AT = "the check of the metadata `authorization`: it comes before anything else, for every RPC, WatchEvents too"

TOKEN = "S3cret-of-the-suite"
RPCS = ("RegisterModel", "UnregisterModel", "Heartbeat", "UnregisterWorker", "ListWorkers", "WatchEvents")
WRONG = {
    "none": None,
    "empty": "",
    "scheme-alone": "Bearer ",
    "token-alone": "{token}",
    "other-scheme": "Basic {token}",
    "scheme-in-lower-case": "bearer {token}",
    "no-space": "Bearer{token}",
    "other": "Bearer wrong",
    "cut": "Bearer {cut}",
    "longer": "Bearer {token}x",
    "other-case": "Bearer {swapped}",
    "twice": "Bearer {token} {token}",
}


@pytest.fixture
def guarded(subjects: Subjects, transcript: Any) -> Iterator[Agent]:
    """An agent with a token: a launched one is given it, a target's is known by --management-token."""
    needs = {"management-token": TOKEN} if subjects.settings.launch is not None else {}
    place = subjects.agent(needs)
    if place.token is None:
        skipped("needs an agent with a management token: use --launch, or say --management-token")
    agent = Agent(place, transcript, subjects.patience)
    yield agent
    agent.close()


def requests(agent: Agent, rpc: str) -> Any:
    """A request that would change or tell something."""
    known = agent.workers[0]
    name = agent.name("m")
    if rpc == "RegisterModel":
        return agent.management.registration(known, name, priority=7)
    if rpc == "UnregisterModel":
        return proto.UnregisterModelRequest(worker_id=known.worker_id, model_name=name)
    if rpc == "WatchEvents":
        return proto.WatchEventsRequest(include_existing=True)
    message = {"Heartbeat": proto.HeartbeatRequest, "UnregisterWorker": proto.UnregisterWorkerRequest}.get(rpc)
    return message(worker_id=known.worker_id) if message else proto.ListWorkersRequest()


def call(client: Management, rpc: str, request: Any, authorization: str | None) -> Answer:
    """Calls with this metadata, to the end; of a watch that is let in, to the first event."""
    metadata = (("authorization", authorization),) if authorization is not None else ()
    if rpc != "WatchEvents":
        return client.call(rpc, request, metadata=metadata)
    stream = client.stream(rpc, request, metadata=metadata)
    event = stream.next()
    assert event is None, f"a watcher with the authorization {authorization!r} is told {event and event.message}"
    return stream.answer()


@requirement("manage.token.required")
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("rpc", RPCS)
def test_refused(guarded: Agent, rpc: str, wrong: str) -> None:
    """Without the token in this very form an RPC is UNAUTHENTICATED and changes nothing."""
    token = guarded.place.token or ""
    worker = guarded.worker(guarded.name("m"), answer=answers("it"))
    template = WRONG[wrong]
    authorization = template and template.format(token=token, cut=token[:-1], swapped=token.swapcase())
    request = requests(guarded, rpc)
    answer = call(guarded.new_management(token=""), rpc, request, authorization)
    answer.expect(grpc.StatusCode.UNAUTHENTICATED)
    assert token not in answer.details, "the message of the refusal tells the token"
    still = listed(guarded, worker.worker_id)
    assert len(still.registrations) == 1, "a call without the token has changed the registrations"
    assert still.registrations[0].priority == 0, "a registration without the token has replaced another"
    assert still.heartbeat_age_ms == -1, "a heartbeat without the token counts"


@requirement("manage.token.required")
def test_strangers_do_not_register(guarded: Agent) -> None:
    """A new worker without the token is refused, not listed and not served."""
    worker = guarded.listener()
    registration = guarded.management.registration(worker, guarded.name("m"))
    answer = guarded.new_management(token="").call("RegisterModel", registration)
    answer.expect(grpc.StatusCode.UNAUTHENTICATED)
    assert guarded.management.listed(worker.worker_id) is None, "a worker without the token is listed"
    guarded.infer(guarded.name("m")).expect(grpc.StatusCode.NOT_FOUND)


@requirement("manage.token.required")
@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc != "WatchEvents"])
def test_looked_at_before_the_request(guarded: Agent, rpc: str) -> None:
    """Without the token bytes that are no message are not even read."""
    guarded.new_management(token="").call(rpc, b"\x0a\x05no").expect(grpc.StatusCode.UNAUTHENTICATED)


@requirement("manage.token.required")
def test_served_with_it(guarded: Agent) -> None:
    """With the token every management RPC is served."""
    worker = guarded.worker(guarded.name("m"), answer=answers("it"))
    watcher = guarded.watch(include_existing=True)
    assert watcher.take(1)[0].worker_id == worker.worker_id, "the watcher is not told of the worker"
    goes_to(guarded, guarded.name("m"), "it")
    assert guarded.management.heartbeat(worker.worker_id), "a heartbeat with the token is not known"
    assert guarded.management.unregister_model(worker.worker_id, guarded.name("m")), "UnregisterModel removed nothing"
    guarded.management.register(worker, guarded.name("m"))
    assert guarded.management.unregister(worker.worker_id), "UnregisterWorker removed nothing"
