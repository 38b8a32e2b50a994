"""Any order of registering, leaving, heartbeats and losses, against a model that a reader sees through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import grpc
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from anyserve_conformance import proto, wire
from anyserve_conformance.agent import Agent
from anyserve_conformance.cases.agent_management.support import (
    LEFT,
    LOST,
    REGISTERED,
    UNREGISTERED,
    Facts,
    answers,
    facts,
    gone,
    vanish,
)
from anyserve_conformance.requirement import requirement, skipped
from anyserve_conformance.scripted_worker import ScriptedWorker

LOOK_AT = "the one place where a worker comes, changes and goes: registrations, routing, events and lists must agree"

STEPS = 15
LONG_ENOUGH = 5.0
NOTHING, ALL_STREAM, ALL_DOWN = "NOT_FOUND", "UNIMPLEMENTED", "UNAVAILABLE"
OK = "OK"


@dataclass(frozen=True)
class Offer:
    """One registration of the model."""

    name: str
    version: str
    capability: tuple[tuple[str, str], ...]
    priority: int = 0
    stream: bool = False

    @property
    def key(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """What a later registration of the same worker replaces."""
        return self.name, self.version, self.meaning

    @property
    def meaning(self) -> tuple[tuple[str, str], ...]:
        """The capability, an empty one as what it means."""
        default = {"type": self.name} | ({"model": self.version} if self.version else {})
        return self.capability or tuple(sorted(default.items()))

    def listed(self) -> Any:
        """As ListWorkers has it."""
        return proto.Registration(
            model_name=self.name,
            model_version=self.version,
            capability=dict(self.meaning),
            priority=self.priority,
            stream=self.stream,
        )


@dataclass
class Place:
    """A socket that a worker may register, and whether somebody listens there."""

    socket: ScriptedWorker
    up: bool = True

    def go_up(self) -> None:
        """Somebody listens."""
        if not self.up:
            self.socket.listen()
        self.up = True

    def go_down(self) -> None:
        """Nobody listens, and all connections are closed."""
        vanish(self.socket)
        self.up = False


@dataclass
class Known:
    """A registered worker of the model. One that has sent no heartbeat is always up: it would be dropped."""

    place: Place
    beating: bool = False
    offers: dict[Any, Offer] = field(default_factory=dict)


def chosen(offers: Iterable[tuple[Known, Offer]], version: str) -> list[tuple[Known, Offer]]:
    """What a request by name may go to: `route.version.*`; all versions here are numbers."""
    found = list(offers)
    if version:
        return [pair for pair in found if pair[1].version == version]
    if without := [pair for pair in found if not pair[1].version]:
        return without
    return [pair for pair in found if pair[1].version == max(offer.version for _, offer in found)]


def served_by(matches: Iterable[tuple[Known, Offer]]) -> tuple[str, set[str]]:
    """How a unary request ends, and who may have answered it: the best of those that listen."""
    found = list(matches)
    unary = [(known, offer) for known, offer in found if not offer.stream]
    if not unary:
        return (ALL_STREAM if found else NOTHING), set()
    up = [(known, offer) for known, offer in unary if known.place.up]
    if not up:
        return ALL_DOWN, set()
    best = max(rank(offer) for _, offer in up)
    return OK, {known.place.socket.worker_id for known, offer in up if rank(offer) == best}


def rank(offer: Offer) -> tuple[int, int]:
    """`route.rank.priority`, then `route.rank.fewest-keys`."""
    return offer.priority, -len(offer.meaning)


class Management(RuleBasedStateMachine):
    """The steps. After each, the agent must say what the model says."""

    numbers = st.integers(0, 2)
    where = st.integers(0, 1)
    names = st.sampled_from(("a", "b"))
    versions = st.sampled_from(("", "1", "2"))
    capabilities = st.sampled_from(((), (("type", "x"),), (("lang", "de"), ("type", "x"))))
    streams = st.sampled_from((False, False, False, True))
    offers = st.builds(Offer, names, versions, capabilities, st.integers(0, 1), streams)

    def __init__(self, agent: Agent, places: list[list[Place]]) -> None:
        super().__init__()
        self.agent = agent
        self.management = agent.management
        self.places = places
        self.ids = [mine[0].socket.worker_id for mine in places]
        self.known: dict[str, Known] = {}
        self.expected: list[Facts] = []
        for mine in places:
            for place in mine:
                place.go_up()
        self.watcher = agent.watch()

    def teardown(self) -> None:
        """Leaves the agent without these workers."""
        for worker_id in self.ids:
            self.management.unregister(worker_id)
        self.watcher.stream.cancel()

    # Steps

    @initialize(offers=st.tuples(offers, offers, offers))
    def begin(self, offers: tuple[Offer, ...]) -> None:
        """So that there is something from the first step on."""
        for number, offer in enumerate(offers):
            self.register(number, 0, offer)

    @rule(number=numbers, where=where, offer=offers)
    def register(self, number: int, where: int, offer: Offer) -> None:
        """Adds, or by chance replaces, and perhaps moves."""
        unique = tuple((key, self.agent.name(value)) for key, value in offer.capability)
        place = self.places[number][where]
        place.go_up()
        self._register(self.ids[number], place, replace(offer, name=self.agent.name(offer.name), capability=unique))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), where=where, priority=st.integers(-1, 2), stream=streams)
    def register_again(self, data: st.DataObject, where: int, priority: int, stream: bool) -> None:
        """Replaces, and perhaps moves."""
        worker_id, offer = self._drawn_offer(data)
        place = self.places[self.ids.index(worker_id)][where]
        place.go_up()
        self._register(worker_id, place, replace(offer, priority=priority, stream=stream))

    def _drawn(self, data: st.DataObject, suits: Callable[[Known], bool]) -> str:
        suitable = sorted(worker_id for worker_id, known in self.known.items() if suits(known))
        return data.draw(st.sampled_from(suitable), label="worker")

    def _drawn_offer(self, data: st.DataObject) -> tuple[str, Offer]:
        worker_id = self._drawn(data, lambda _: True)
        offers = self.known[worker_id].offers
        return worker_id, offers[data.draw(st.sampled_from(sorted(offers)), label="registration")]

    def _register(self, worker_id: str, place: Place, offer: Offer) -> None:
        options = {"priority": offer.priority, "stream": offer.stream, "worker_id": worker_id}
        capability = dict(offer.capability)
        self.management.register(place.socket, offer.name, offer.version, capability=capability, **options)
        known = self.known.setdefault(worker_id, Known(place))
        known.place = place
        known.offers[offer.key] = offer
        self.expected.append((REGISTERED, worker_id, offer.name))

    @rule(number=numbers, where=where, name=names, wrong=st.sampled_from(("platform", "address")))
    def register_badly(self, number: int, where: int, name: str, wrong: str) -> None:
        """Is refused, and changes nothing."""
        fields: dict[str, Any] = {"platform": "\n"} if wrong == "platform" else {"worker_address": "tcp://127.0.0.1:1"}
        socket = self.places[number][where].socket
        fields["worker_id"] = self.ids[number]
        self.management.refused(self.management.registration(socket, self.agent.name(name), priority=5, **fields))

    @rule(number=numbers, name=names, version=versions)
    def unregister_model(self, number: int, name: str, version: str) -> None:
        """Removes some registrations, perhaps the last, perhaps none."""
        self._unregister_model(self.ids[number], self.agent.name(name), version)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def unregister_what_is_there(self, data: st.DataObject) -> None:
        """Removes some registrations, perhaps the last."""
        worker_id, offer = self._drawn_offer(data)
        self._unregister_model(worker_id, offer.name, offer.version)

    def _unregister_model(self, worker_id: str, full: str, version: str) -> None:
        known = self.known.get(worker_id)
        offers = known.offers.values() if known else ()
        removed = [offer for offer in offers if (offer.name, offer.version) == (full, version)]
        success = self.management.unregister_model(worker_id, full, version)
        assert success == bool(removed), (
            f"UnregisterModel: success = {success}, and there were {len(removed)} to remove"
        )
        for offer in removed:
            self.expected.append((UNREGISTERED, worker_id, full))
            del self.known[worker_id].offers[offer.key]
        if removed and not self.known[worker_id].offers:
            del self.known[worker_id]

    @rule(number=numbers)
    def unregister_worker(self, number: int) -> None:
        """Removes a worker, or none."""
        worker_id = self.ids[number]
        known = self.known.pop(worker_id, None)
        success = self.management.unregister(worker_id)
        assert success == (known is not None), (
            f"UnregisterWorker: success = {success}, known before: {known is not None}"
        )
        if known is not None:
            self.expected += [(UNREGISTERED, worker_id, offer.name) for offer in known.offers.values()]
            self.expected.append((LEFT, worker_id, ""))

    @rule(number=numbers)
    def heartbeat(self, number: int) -> None:
        """Makes a worker one that sends heartbeats."""
        worker_id = self.ids[number]
        known = self.known.get(worker_id)
        healthy = self.management.heartbeat(worker_id)
        assert healthy == (known is not None), f"Heartbeat: healthy = {healthy}, registered: {known is not None}"
        if known is not None:
            known.beating = True

    @precondition(lambda self: any(not known.beating for known in self.known.values()))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """A worker without heartbeats is killed; the first request for it shows that."""
        worker_id = self._drawn(data, lambda known: not known.beating)
        self._kill(worker_id)
        gone(self.agent, worker_id)
        known = self.known.pop(worker_id)
        self.expected.append((LOST, worker_id, ""))
        self.expected += [(UNREGISTERED, worker_id, offer.name) for offer in known.offers.values()]

    @precondition(lambda self: any(known.beating for known in self.known.values()))
    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        """A worker with heartbeats stops listening; it is kept."""
        worker_id = self._drawn(data, lambda known: known.beating)
        self._kill(worker_id)
        self._unregister_model(worker_id, self.agent.name("probe"), "")

    def _kill(self, worker_id: str) -> None:
        """Somebody calls a model that only this worker has, and nobody listens there any more."""
        probe = self.agent.name("probe")
        place = self.known[worker_id].place
        self._register(worker_id, place, Offer(probe, "", (("type", probe),)))
        place.go_down()
        self.agent.infer(wire.request(probe)).expect(grpc.StatusCode.UNAVAILABLE)

    @precondition(lambda self: any(not known.place.up for known in self.known.values()))
    @rule(data=st.data())
    def listen_again(self, data: st.DataObject) -> None:
        """A worker that was interrupted is there again."""
        self.known[self._drawn(data, lambda known: not known.place.up)].place.go_up()

    # What holds after each step

    @invariant()
    def lists_agree(self) -> None:
        """ListWorkers, and heartbeats of those that are not known."""
        workers = {worker_id: told for worker_id, told in self.management.workers().items() if worker_id in self.ids}
        assert set(workers) == set(self.known), f"listed are {sorted(workers)}, known should be {sorted(self.known)}"
        for worker_id, known in self.known.items():
            told = workers[worker_id]
            address = known.place.socket.address
            assert told.address == address, f"{worker_id} is listed at {told.address}, and registered {address} last"
            found = sorted(map(str, told.registrations))
            expected = sorted(str(offer.listed()) for offer in known.offers.values())
            assert found == expected, f"{worker_id} is listed with\n{found}\nnot\n{expected}"
            beating = told.heartbeat_age_ms >= 0
            assert beating == known.beating, f"{worker_id} has heartbeat_age_ms {told.heartbeat_age_ms}"
        for worker_id in set(self.ids) - set(self.known):
            assert not self.management.heartbeat(worker_id), f"the agent says that it knows {worker_id}"

    @invariant()
    def events_agree(self) -> None:
        """WatchEvents has told what the last step did; several MODEL_UNREGISTERED of one worker in any order."""
        found = [facts(event) for event in self.watcher.take(len(self.expected))]
        assert in_order(found) == in_order(self.expected), f"told was {found}, happened is {self.expected}"
        self.expected = []

    @invariant()
    def routing_agrees(self) -> None:
        """ModelReady and ModelInfer by name, by version and by a query."""
        offers = [(known, offer) for known in self.known.values() for offer in known.offers.values()]
        for name, version in ((self.agent.name("a"), ""), (self.agent.name("b"), ""), (self.agent.name("a"), "2")):
            matches = chosen(((known, offer) for known, offer in offers if offer.name == name), version)
            request = proto.ModelReadyRequest(name=name, version=version)
            ready = self.agent.client.call("ModelReady", request).message.ready
            assert ready == bool(matches), (
                f"ModelReady of {name} {version!r}: {ready}, with {len(matches)} registrations"
            )
            self._goes_to(self.agent.infer(wire.request(name, version)), served_by(matches), f"{name} {version!r}")
        query = {"type": self.agent.name("x")}
        matches = [(known, offer) for known, offer in offers if dict(offer.meaning)["type"] == query["type"]]
        self._goes_to(self.agent.infer("", query=query), served_by(matches), str(query))

    def _goes_to(self, answer: Any, expected: tuple[str, set[str]], what: str) -> None:
        code, workers = expected
        assert answer.code.name == code, f"a request for {what} ended with {answer.code.name}, not {code}"
        if code == OK:
            by = answer.message.id
            assert by in workers, f"a request for {what} was answered by {by}, not by one of {sorted(workers)}"


def in_order(events: list[Facts]) -> list[list[Facts]]:
    """Neighbours of one type and worker as one group, sorted."""
    return [sorted(group) for _, group in groupby(events, key=lambda event: event[:2])]


@requirement(
    "manage.register.success",
    "manage.register.replace",
    "manage.register.address",
    "manage.register.unchanged",
    "manage.unregister.model",
    "manage.unregister.worker",
    "manage.heartbeat.known",
    "manage.heartbeat.unknown",
    "manage.loss.refused",
    "manage.loss.patient",
    "manage.list.workers",
    "manage.event.types",
)
def test_any_order_of_changes(agent: Agent) -> None:
    """After any steps of registering, leaving, heartbeats and losses, lists, events and routing say the same."""
    if agent.option("heartbeat-timeout") < LONG_ENOUGH:
        skipped(f"needs an agent with a heartbeat-timeout of {LONG_ENOUGH:g} s or more")
    places = []
    for number in range(3):
        sockets = [agent.listener(f"w{number}-{text}") for text in ("x", "y")]
        for socket in sockets:
            socket.answer = answers(socket.worker_id)
        places.append([Place(socket) for socket in sockets])
    bounds = settings(stateful_step_count=STEPS, phases=(Phase.generate,), report_multiple_bugs=False)

    class Machine(Management):
        """Over this agent."""

        def __init__(self) -> None:
            super().__init__(agent, places)

    try:
        run_state_machine_as_test(Machine, settings=bounds)
    except FlakyFailure as error:
        first = error.exceptions[0]
        if not isinstance(first, AssertionError | grpc.RpcError | OSError):
            raise
        raise AssertionError(f"{first}\nThe same steps did not fail again.") from error
