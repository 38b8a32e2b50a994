"""RegisterModel that is refused: every field at its limit and beyond it, and nothing changes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import answers, facts, goes_to, listed
from anyserve_conformance.client import Answer
from anyserve_conformance.requirement import requirement
from anyserve_conformance.scripted_worker import ScriptedWorker

LOOK_AT = "the checks of a registration: all of them come before the first change"

WIDE = "\N{GRINNING FACE}"  # one character, four bytes
CONTROLS = {"nul": "a\0b", "tab": "a\tb", "newline-at-end": "ab\n", "unit-separator": "\x1f", "delete": "a\x7fb"}
TEXTS = ("model_name", "model_version", "worker_id", "platform")


def refused(agent: Agent, **wrong: Any) -> Answer:
    """Sends a registration that would replace another but for what is wrong; it must change nothing."""
    name = agent.name("m")
    fields: dict[str, Any] = {"version": "1", "capability": {"type": name}, "platform": "before"}
    worker = agent.worker(name, answer=answers("before"), **fields)
    watcher = agent.watch()
    before = listed(agent, worker.worker_id)
    registration = agent.management.registration(worker, name, **fields | {"platform": "after", "priority": 1})
    for field, value in wrong.items():
        registration.ClearField(field)
        if field == "capability":
            registration.capability.update(value)
        else:
            setattr(registration, field, value)
    answer = agent.management.refused(registration)
    after = agent.management.workers()
    assert after.get(worker.worker_id) == before, "the refused registration has changed the one that it would replace"
    if registration.worker_id != worker.worker_id:
        assert registration.worker_id not in after, "the worker of the refused registration is listed"
    goes_to(agent, name, "before")
    marker = agent.worker(agent.name("marker"), worker_id="marker")
    (event,) = watcher.take(1)
    assert event.worker_id == marker.worker_id, f"the refused registration is told as an event: {facts(event)}"
    return answer


@requirement("manage.register.worker-id", "manage.register.unchanged")
def test_no_worker_id(agent: Agent) -> None:
    """A registration without a worker id is refused."""
    refused(agent, worker_id="")


@requirement("manage.register.target", "manage.register.unchanged")
def test_neither_name_nor_capability(agent: Agent) -> None:
    """A registration without model name and capability is refused, with a version too."""
    refused(agent, model_name="", capability={})


@requirement("manage.register.target")
def test_either_is_enough(agent: Agent) -> None:
    """A model name alone and a capability alone are taken."""
    agent.worker(agent.name("m"))
    agent.worker(capability={"type": agent.name("m")})


# Addresses


@requirement("manage.register.scheme", "manage.register.unchanged")
@pytest.mark.parametrize(
    "address",
    [
        pytest.param("", id="empty"),
        pytest.param("unix://", id="no-path"),
        pytest.param("unix://relative.sock", id="relative-path"),
        pytest.param("unix:/single/slash.sock", id="one-slash"),
        pytest.param("/bare/path.sock", id="no-scheme"),
        pytest.param("UNIX:///upper.sock", id="scheme-in-upper-case"),
        pytest.param(" unix:///space.sock", id="space-before"),
        pytest.param("tcp://127.0.0.1:1", id="tcp"),
        pytest.param("http:///tmp/a.sock", id="http"),
        pytest.param("unix-abstract:name", id="abstract"),
        pytest.param("unix://\0name", id="abstract-by-zero-byte"),
        pytest.param("unix:///with\0zero", id="zero-byte"),
        pytest.param("unix:///zero-at-end\0", id="zero-byte-at-end"),
        pytest.param("unix:///" + "x" * 107, id="108-bytes"),
        pytest.param("unix:///" + "é" * 53 + "x", id="108-bytes-and-55-characters"),
        pytest.param("unix:///" + "x" * 4_096, id="4097-bytes"),
    ],
)
def test_address(agent: Agent, address: str) -> None:
    """An address that is not unix:// and an absolute path of 1 to 107 bytes is refused."""
    refused(agent, worker_address=address)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for sockets with names of the case's choice."""
    with tempfile.TemporaryDirectory(prefix="any") as path:
        yield Path(path)


@requirement("manage.register.scheme")
@pytest.mark.parametrize(
    "stem",
    [
        pytest.param("x" * 40, id="letters"),
        pytest.param("é" * 20, id="two-byte-characters"),
        pytest.param("%41 a?b#c\n'\"", id="odd-characters"),
    ],
)
def test_path_of_107_bytes(agent: Agent, directory: Path, stem: str) -> None:
    """A path of 107 bytes is connected to, also one of characters that mean something elsewhere."""
    room = 107 - len(bytes(directory)) - len(f"//{stem}.sock".encode())
    deep = directory / ("d" * room)
    deep.mkdir()
    worker = ScriptedWorker(deep, stem, agent.transcript, agent.patience, answer=answers("it"))
    worker.worker_id = agent.name("worker")
    agent.workers.append(worker)
    agent.management.register(worker, agent.name("m"))
    assert listed(agent, worker.worker_id).address == worker.address, "the address is not listed as it was registered"
    goes_to(agent, agent.name("m"), "it")


@requirement("manage.register.scheme")
def test_shortest_path(agent: Agent) -> None:
    """The path `/`, of one byte, is taken as an address."""
    worker = agent.worker(agent.name("m"), worker_address="unix:///")
    assert listed(agent, worker.worker_id).address == "unix:///", "the address is not listed as it was registered"


# Texts


@requirement("manage.register.text", "manage.register.unchanged")
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("field", TEXTS)
def test_control_character(agent: Agent, field: str, control: str) -> None:
    """A name, version, worker id or platform with a control character is refused."""
    refused(agent, **{field: CONTROLS[control]})


@requirement("manage.register.text", "manage.register.unchanged")
@pytest.mark.parametrize("field", TEXTS)
def test_257_characters(agent: Agent, field: str) -> None:
    """A name, version, worker id or platform of 257 characters is refused."""
    refused(agent, **{field: agent.name("x").ljust(257, "x")})


@requirement("manage.register.text")
@pytest.mark.parametrize("field", TEXTS)
def test_256_characters(agent: Agent, field: str) -> None:
    """A name, version, worker id or platform of 256 characters is taken, however many bytes they have."""
    text = agent.name("x").ljust(256, WIDE)
    worker = agent.listener(answer=answers("it"))
    if field == "worker_id":
        worker.worker_id = text  # so that it is unregistered by it
    registration = agent.management.registration(worker, agent.name("m"), capability={"a": "b"})
    setattr(registration, field, text)
    answer = agent.management.call("RegisterModel", registration).message
    assert answer.success, f"RegisterModel was answered with success = false: {answer.message}"
    (told,) = listed(agent, worker.worker_id).registrations
    found = text if field == "worker_id" else getattr(told, field)
    assert found == text, f"{field} is listed as {found!r}, and was registered as {text!r}"
    goes_to(agent, registration.model_name, "it")


@requirement("manage.register.text")
def test_other_characters(agent: Agent) -> None:
    """What is no control character is taken as it is: also spaces at the ends, U+0080, quotes, any script."""
    name = f" {agent.name('größe/✓')}\x80'\"%\\ \N{COMBINING ACUTE ACCENT} "
    worker = agent.worker(name, name, platform=name, answer=answers("it"))
    (told,) = listed(agent, worker.worker_id).registrations
    found = (told.model_name, told.model_version, told.platform)
    assert found == (name,) * 3, f"listed are {found}, registered was {name!r}"
    goes_to(agent, name, "it")


# Numbers and capabilities


@requirement("manage.register.concurrency", "manage.register.unchanged")
@pytest.mark.parametrize("number", [1_025, 1 << 31, (1 << 32) - 1])
def test_too_much_concurrency(agent: Agent, number: int) -> None:
    """A max_concurrency above 1,024 is refused."""
    refused(agent, max_concurrency=number)


@requirement("manage.register.concurrency")
def test_greatest_concurrency(agent: Agent) -> None:
    """A max_concurrency of 1,024 is taken, and listed."""
    worker = agent.worker(agent.name("m"), max_concurrency=1_024, answer=answers("it"))
    found = listed(agent, worker.worker_id).registrations[0].max_concurrency
    assert found == 1_024, f"max_concurrency is listed as {found}"
    goes_to(agent, agent.name("m"), "it")


BAD_CAPABILITIES: dict[str, dict[str, str]] = {
    "empty-key": {"": "x"},
    "upper-case-key": {"Type": "x"},
    "key-begins-with-a-dot": {".t": "x"},
    "space-in-key": {"a b": "x"},
    "letter-beyond-ascii-in-key": {"schlüssel": "x"},
    "newline-behind-key": {"type\n": "x"},
    "binary-key": {"type-bin": "x"},
    "key-of-65": {"k" * 65: "x"},
    "empty-value": {"type": ""},
    "control-in-value": {"type": "a\x1fb"},
    "newline-behind-value": {"type": "a\n"},
    "value-of-257": {"type": "x" * 257},
    "33-keys": {f"k{number}": "x" for number in range(33)},
}


@requirement("manage.register.capability", "manage.register.unchanged")
@pytest.mark.parametrize("kind", BAD_CAPABILITIES)
def test_bad_capability(agent: Agent, kind: str) -> None:
    """A capability that breaks the table of `route.capability.*` is refused as INVALID_ARGUMENT."""
    refused(agent, capability=BAD_CAPABILITIES[kind])


@requirement("manage.register.capability", "manage.register.unchanged")
def test_one_bad_key_among_good_ones(agent: Agent) -> None:
    """One bad entry spoils the whole capability."""
    refused(agent, capability={"type": agent.name("m"), "lang": "", "model": "x"})


@requirement("manage.register.capability")
@pytest.mark.parametrize(
    "capability",
    [
        pytest.param({"k" * 64: WIDE * 256}, id="longest-key-and-value"),
        pytest.param({f"k{number}": "x" * 256 for number in range(32)}, id="32-keys"),
        pytest.param({"0.b-c_1": "=,%|*☃ "}, id="odd-characters"),
        pytest.param({"bin": "-bin", "a-bin-b": "\x80"}, id="bin-elsewhere"),
    ],
)
def test_good_capability(agent: Agent, capability: dict[str, str]) -> None:
    """A capability at the limits is taken, and listed as it is."""
    worker = agent.worker(agent.name("m"), capability=capability, answer=answers("it"))
    found = dict(listed(agent, worker.worker_id).registrations[0].capability)
    assert found == capability, f"registered was {capability}, listed is {found}"
    goes_to(agent, agent.name("m"), "it")


# What is left alone


@requirement("manage.register.unchanged")
def test_address_is_not_taken_from_a_refusal(agent: Agent) -> None:
    """A worker does not move by a registration that is refused for another field."""
    name = agent.name("m")
    old = agent.worker(name, answer=answers("old"))
    goes_to(agent, name, "old")
    new = agent.listener(answer=answers("new"))
    agent.management.refused(
        agent.management.registration(new, name, worker_id=old.worker_id, capability={"Bad": "key"}),
    )
    goes_to(agent, name, "old")
    assert not new.connections, "the agent has connected to the address in a refused registration"


@requirement("manage.register.unchanged")
def test_refused_worker_is_unknown(agent: Agent) -> None:
    """A new worker whose first registration is refused is not known: its heartbeat is not healthy."""
    worker = agent.listener()
    agent.management.refused(agent.management.registration(worker, agent.name("m"), max_concurrency=9_999))
    assert not agent.management.heartbeat(worker.worker_id), "a worker that was refused is healthy"
    assert not agent.management.unregister(worker.worker_id), "a worker that was refused can be unregistered"
    agent.infer(agent.name("m")).expect(grpc.StatusCode.NOT_FOUND)


@requirement("manage.register.message")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("worker_id", "", id="no-worker-id"),
        pytest.param("worker_id", "w" * 257, id="long-worker-id"),
        pytest.param("model_name", "a\0b", id="control-in-name"),
        pytest.param("model_version", "1" * 257, id="long-version"),
        pytest.param("platform", "p\x7f", id="control-in-platform"),
        pytest.param("worker_address", "tcp://127.0.0.1:1", id="other-scheme"),
        pytest.param("worker_address", "unix:///" + "x" * 107, id="long-path"),
        pytest.param("max_concurrency", 1_025, id="too-much-concurrency"),
        pytest.param("capability", {"Type": "x"}, id="bad-key"),
        pytest.param("capability", {"type": ""}, id="bad-value"),
        pytest.param("capability", {f"k{number}": "x" for number in range(33)}, id="too-many-keys"),
    ],
)
def test_field_is_named(agent: Agent, field: str, value: Any) -> None:
    """The message of a refusal names the field."""
    answer = refused(agent, **{field: value})
    assert spelled(field) in spelled(answer.details), f"the message does not name {field}: {answer.details!r}"


def spelled(text: str) -> str:
    """So that `worker id`, `worker-id` and `worker_id` are the same."""
    return text.lower().replace("_", " ").replace("-", " ")
