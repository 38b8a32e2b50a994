"""The pure parts of the reference agent, run one again and again between two marks; `parts.cpp` has the native ones.

Usage: parts.py TREE PART SHIFT; prints how often it ran; without arguments, the names of all parts. A mark is a call of
getppid(2): callgrind dumps its counts there (`instructions.py`), and otherwise it does nothing.

Without the package's `__init__.py`, which imports grpc and needs generated modules: a tree is measured as it lies.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

__all__ = ["PARTS"]

Run = Callable[[], None]

WARM_UPS = 50
"""After so many runs the interpreter has specialised its bytecode, and allocators have what they need."""
REPEATS = 100
LIMIT = 1 << 20
REGISTRATIONS = 100


def bare_package(name: str, directory: Path) -> None:
    """A package whose modules can be imported, without what its `__init__.py` would do."""
    package = ModuleType(name)
    package.__path__ = [str(directory)]
    sys.modules[name] = package


def request_bytes() -> bytes:
    """A ModelInferRequest with one small tensor."""
    from anyserve.scan import parameter_bytes, string_field, submessage_field

    return b"".join(
        [
            string_field(1, "echo"),
            string_field(3, "request-1"),
            parameter_bytes("priority", 1),
            parameter_bytes("triton_enable_empty_final_response", True),
            parameter_bytes("session", "a session's name"),
            submessage_field(5, b'\n\1x"\4FP32\x1a\1\x10'),
            submessage_field(7, bytes(64)),
        ]
    )


def registration(number: int, max_concurrency: int = 0, worker: str = ""):  # type: ignore[no-untyped-def]
    """One of many that look alike."""
    from anyserve.agent.registry import Registration
    from anyserve.capability import Capability

    worker = worker or f"w{number % 10}"
    kind = "embed" if number % 2 else "chat"
    capability = Capability({"type": kind, "model": f"m{number}", "size": str(number), "region": "eu-west"})
    return Registration(worker, f"/run/{worker}", f"m{number}", "", capability, max_concurrency)


def filled_registry():  # type: ignore[no-untyped-def]
    """A registry of very many registrations."""
    from anyserve.agent.registry import Registry

    registry = Registry(max_workers=REGISTRATIONS, max_registrations=REGISTRATIONS)
    for number in range(REGISTRATIONS):
        registry.register(registration(number))
    return registry


def framing() -> Run:
    from anyserve.framing import FrameDecoder, encode_header

    sizes = (100, 100, 100, 100, 100, 100, 100, 0, 20_000, 100)
    data = b"".join(encode_header(size) + bytes(size) for size in sizes)

    def run() -> None:
        decoder = FrameDecoder(LIMIT)
        frames = 0
        for begin in range(0, len(data), 900):
            frames += len(decoder.feed(data[begin : begin + 900]))
        assert frames == len(sizes)

    return run


def scan() -> Run:
    from anyserve.scan import REQUEST_FIELDS, scan_message

    data = request_bytes()

    def run() -> None:
        assert len(scan_message(data, fields=REQUEST_FIELDS).parameters) == 3

    return run


def scan_stream() -> Run:
    from anyserve.scan import scan_stream_reply, submessage_field

    data = submessage_field(2, request_bytes())

    def run() -> None:
        assert len(scan_stream_reply(data).parts) == 1

    return run


def parse_query() -> Run:
    from anyserve.capability import Query

    def run() -> None:
        assert Query.parse((("type", "chat%20m|embed"), ("model", "m*"), ("size", ">=3"))) is not None

    return run


def match() -> Run:
    from anyserve.capability import Query

    queries = [
        Query.parse({"type": "chat", "model": "m4"}),
        Query.parse({"type": "c*t", "size": ">=3"}),
        Query.parse({"type": "chat|embed", "region": "!=us"}),
        Query.parse({"region": "*-w?st"}),
    ]
    capabilities = [registration(number).capability for number in range(8)]

    def run() -> None:
        matches = sum(query.exact_matches(each) is not None for query in queries for each in capabilities)
        assert matches == 1 + 2 + 8 + 8

    return run


def registry_kept() -> Run:
    from anyserve.agent.registry import Target
    from anyserve.capability import Query

    registry = filled_registry()
    by_name, by_query = Target("m42"), Target(query=Query.parse({"type": "chat", "model": "m42"}))

    def run() -> None:
        assert len(registry.resolve(by_name).tiers) == len(registry.resolve(by_query).tiers) == 1

    return run


def registry_by_name() -> Run:
    registry = filled_registry()

    def run() -> None:
        assert len(registry.named("m42")) == 1
        assert not registry.named("nothing")

    return run


def after_change(query: dict[str, str], tiers: int) -> Run:
    """A change of the registry, after which a query is answered anew."""
    from anyserve.agent.registry import Target
    from anyserve.capability import Query

    registry, again = filled_registry(), registration(7)
    target = Target(query=Query.parse(query))

    def run() -> None:
        registry.register(again)
        assert len(registry.resolve(target).tiers) == tiers

    return run


def registry_by_query() -> Run:
    return after_change({"type": "chat", "model": "m42"}, 1)


def ranking() -> Run:
    return after_change({"type": "chat|e*", "size": ">=20"}, 2)


def queues() -> Run:
    """Twelve requests for two workers with two places each; one of those that wait leaves."""
    from anyserve.agent.queues import Admission, Ticket
    from anyserve.agent.registry import Registry, Target

    registry = Registry(max_workers=2, max_registrations=2)
    for worker in ("a", "b"):
        registry.register(registration(0, 2, worker))
    admission = Admission(1024, 10)
    target = Target("m0")

    def run() -> None:
        slots = []
        tickets = [Ticket(lambda: registry.resolve(target), slots.append) for _ in range(12)]
        slots += [slot for ticket in tickets if (slot := admission.submit(ticket))]
        assert admission.waiting == 8
        admission.withdraw(tickets[-1])
        served = 0
        for slot in slots:  # grows while places become free
            admission.release(slot)
            served += 1
        assert served == 11

    return run


PARTS: dict[str, Callable[[], Run]] = {
    part.__name__: part
    for part in (
        framing,
        scan,
        scan_stream,
        parse_query,
        match,
        registry_kept,
        registry_by_name,
        registry_by_query,
        ranking,
        queues,
    )
}


def main(tree: Path, name: str, shift: int) -> None:
    """Runs one of them; `shift` moves everything in memory."""
    held = [bytes(size) for size in range(shift)]
    package = tree / "reference" / "anyserve"
    bare_package("anyserve", package)
    bare_package("anyserve.agent", package / "agent")
    run = PARTS[name]()
    for _ in range(WARM_UPS):
        run()
    gc.collect()
    gc.disable()  # when it runs depends on all that was allocated before
    os.getppid()
    for _ in range(REPEATS):
        run()
    os.getppid()
    del held
    print(REPEATS)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        print(*PARTS, sep="\n")
