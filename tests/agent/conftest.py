"""Fixtures of the agent's tests: an instance per test, over each implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from support.client import Client, Management
from support.instances import IMPLEMENTATIONS, AgentUnderTest, Instance, StartInstance

# gRPC's own words for a client that went away just when its answer was sent; nothing can be done about it.
ANSWER_TOO_LATE = "ExecuteBatchError raised in core"


@pytest.fixture(autouse=True)
def no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What clients and workers do is no error of the agent: it never logs one, nor does gRPC for it."""
    yield
    errors = [f"{record.name}: {record.getMessage()}" for record in caplog.get_records("call") if record.levelno >= 40]
    assert [error for error in errors if ANSWER_TOO_LATE not in error] == []


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def make_agent(request: pytest.FixtureRequest) -> Callable[..., AgentUnderTest]:
    """make_agent(**settings): an agent that has not started."""
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
async def start_instance(make_agent: Callable[..., AgentUnderTest]) -> AsyncIterator[StartInstance]:
    """await start_instance(**settings): a running instance, ended with the test."""
    instances: list[Instance] = []

    async def start(**settings: Any) -> Instance:
        instance = Instance(make_agent(**settings), settings.get("management_token"))
        instances.append(instance)
        await instance.start()
        return instance

    yield start
    for instance in instances:
        await instance.close()


@pytest.fixture
async def instance(start_instance: StartInstance) -> Instance:
    """A running instance with the default settings."""
    return await start_instance()


@pytest.fixture
def client(instance: Instance) -> Client:
    """The client of `instance`."""
    return instance.client


@pytest.fixture
def management(instance: Instance) -> Management:
    """The management client of `instance`."""
    return instance.management
