"""The subjects of a run: where the server or agent is, or how agents and workers are started."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyserve_conformance.agent import DEFAULTS, Place
from anyserve_conformance.launch import CannotStart, Program, reserved_ports
from anyserve_conformance.patience import Patience
from anyserve_conformance.requirement import not_applicable, skipped
from anyserve_conformance.scripted_agent import WorkerUnderTest

__all__ = ["PROFILES", "BadOption", "Settings", "Subjects", "TensorSpec", "parse_address", "parse_model"]

PROFILES = ("kserve-core", "agent-serving", "agent-management", "agent-streaming", "worker")
DATATYPES = frozenset(
    "BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 FP16 FP32 FP64 BF16 BYTES".split()  # noqa: SIM905
)
START_SECONDS = 30.0
CONNECT_SECONDS = 3.0


class BadOption(Exception):
    """The suite cannot do its work as it was called; the message is one line for the user."""


@dataclass(frozen=True)
class TensorSpec:
    """One input of an identity model; -1 in the shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelSpec:
    """A model of the subject that returns its inputs as outputs, in their order."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    target: str | None = None
    management: str | None = None
    token: str | None = None
    launch: str | None = None
    worker: str | None = None
    models: tuple[ModelSpec, ...] = ()
    options: Mapping[str, str] | None = None
    patience: float = 1.0

    @property
    def kind(self) -> str:
        """What is tested: server, agent or worker."""
        if self.worker is not None:
            return "worker"
        return "agent" if self.launch is not None or self.management is not None else "server"


def parse_address(text: str, default_port: int | None = None) -> str:
    """HOST:PORT, checked.

    Raises:
        BadOption: it is none.
    """
    if default_port is not None and re.fullmatch(r"[^:]+|\[[^\]]+\]", text):
        text = f"{text}:{default_port}"
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise BadOption(f"{text!r} is not HOST:PORT")
    return text


def parse_model(text: str) -> ModelSpec:
    """NAME[@VERSION]=INPUT:DATATYPE:SHAPE[,INPUT:DATATYPE:SHAPE…], such as `echo=INPUT0:FP32:-1x4`.

    Raises:
        BadOption: it is none.
    """
    match = re.fullmatch(r"([^=@]+)(?:@([^=]+))?=(.+)", text)
    if match is None:
        raise BadOption(f"--model {text!r} is not NAME=INPUT:DATATYPE:SHAPE, such as echo=INPUT0:FP32:16")
    inputs = []
    for part in match[3].split(","):
        tensor = re.fullmatch(r"([^:]+):([A-Z0-9]+):(-?\d+(?:x-?\d+)*)", part)
        if tensor is None or tensor[2] not in DATATYPES:
            raise BadOption(f"--model: {part!r} is not INPUT:DATATYPE:SHAPE, such as INPUT0:FP32:16 or IN:BYTES:-1x4")
        inputs.append(TensorSpec(tensor[1], tensor[2], tuple(int(size) for size in tensor[3].split("x"))))
    return ModelSpec(match[1], match[2] or "", tuple(inputs))


def reachable(address: str, seconds: float) -> str:
    """Empty if somebody listens there, else why not."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds):
            return ""
    except OSError as error:
        waited = " in time" if time.monotonic() >= deadline else ""
        return (error.strerror or str(error)) + waited


class Subjects:
    """Starts what a run needs when it needs it, keeps it for further cases, and ends it all."""

    def __init__(self, settings: Settings, patience: Patience) -> None:
        self.settings = settings
        self.patience = patience
        self._agents: dict[tuple[tuple[str, str], ...], Place] = {}
        self._workers: dict[tuple[tuple[str, str], ...], WorkerUnderTest] = {}
        self._programs: list[Program] = []

    def check(self) -> None:
        """Sees whether the target is there.

        Raises:
            BadOption: it is not.
        """
        for name, address in (("target", self.settings.target), ("management port", self.settings.management)):
            if address is not None and (why := reachable(address, self.patience(CONNECT_SECONDS))):
                hint = " (--management tells where it is; --profile kserve-core needs none)" if name[0] == "m" else ""
                raise BadOption(f"no {name} at {address}: {why}{hint}")

    # Agents

    def agent(self, needs: Mapping[str, Any]) -> Place:
        """An agent with these option values, shared with other cases; skips the case where that cannot be had."""
        if self.settings.launch is not None:
            key = tuple(sorted((name, str(value)) for name, value in needs.items()))
            place = self._agents.get(key)
            if place is None or place.program is None or not place.program.running:
                place = self._agents[key] = self.launch(needs)
            return place
        if self.settings.target is None or self.settings.management is None:
            not_applicable("the subject is no agent")
        declared = self.settings.options or {}
        for name, value in needs.items():
            if str(declared.get(name, DEFAULTS.get(name))) != str(value):
                skipped(
                    f"needs an agent with {name} = {value}: use --launch, or say --option {name}={value} if it is so"
                )
        options = {name: type(DEFAULTS.get(name, ""))(value) for name, value in declared.items()}
        return Place(self.settings.target, self.settings.management, options, self.settings.token)

    def launch(self, options: Mapping[str, Any]) -> Place:
        """A new agent of its own, ended with the run; skips the case where none can be launched.

        Raises:
            CannotStart: it did not come up.
        """
        if self.settings.launch is None:
            skipped("needs an agent of its own: use --launch")
        with reserved_ports(2) as (port, management_port):
            return self._start(self.settings.launch, port, management_port, options)

    def _start(self, launch: str, port: int, management_port: int, options: Mapping[str, Any]) -> Place:
        command = launch.replace("{port}", str(port)).replace("{management_port}", str(management_port))
        program = Program(command, self.patience, options)
        self._programs.append(program)
        token = options.get("management-token", self.settings.token)
        place = Place(f"127.0.0.1:{port}", f"127.0.0.1:{management_port}", dict(options), token, program)
        deadline = time.monotonic() + self.patience(START_SECONDS)
        while why := reachable(place.target, 1.0) or reachable(place.management, 1.0):
            if not program.running or time.monotonic() > deadline:
                raise CannotStart(f"{command!r} does not listen: {why}; it printed:\n{program.output() or '(nothing)'}")
            time.sleep(0.01)
        return place

    # Workers

    def worker(self, options: Mapping[str, Any]) -> WorkerUnderTest:
        """A worker that has registered, shared with other cases."""
        key = tuple(sorted((name, str(value)) for name, value in options.items()))
        worker = self._workers.get(key)
        if worker is not None and not worker.program.running:
            worker.close()
            worker = None
        if worker is None:
            worker = self._workers[key] = WorkerUnderTest(self._worker_command(), self.patience, options)
        return worker

    def _worker_command(self) -> str:
        if self.settings.worker is None:
            not_applicable("the subject is no worker")
        return self.settings.worker

    def new_worker(self, options: Mapping[str, Any], **how: Any) -> WorkerUnderTest:
        """A worker of the case's own, which the case closes."""
        return WorkerUnderTest(self._worker_command(), self.patience, options, **how)

    def close(self) -> None:
        """Ends everything that was started."""
        for worker in self._workers.values():
            worker.close()
        for program in self._programs:
            program.close()
