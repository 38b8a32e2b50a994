"""Reports as the suite writes them, for the tests of what reads them: a likely run, a hostile one, a large one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]

HOSTILE = (
    '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'
    " \x00\x1b[31m \u202egnp.exe\u202c \ud800 \"'&"
)

# requirement, keyword, page, profile, sentence
RULES = (
    (
        "serving.infer.response",
        "MUST",
        "serving.md",
        "kserve-core",
        "The server MUST answer a ModelInfer call that succeeds with one ModelInferResponse and OK.",
    ),
    (
        "serving.infer.not-found",
        "MUST",
        "serving.md",
        "agent-serving",
        "The agent MUST answer NOT_FOUND when no registration matches, without sending anything to a worker.",
    ),
    (
        "serving.grpc.content-type",
        "MUST",
        "serving.md",
        "kserve-core",
        "The server MUST accept the content types `application/grpc`, and that followed by `+` or `;` and more.",
    ),
    (
        "route.query.twice",
        "MUST",
        "routing.md",
        "agent-serving",
        "The agent MUST answer INVALID_ARGUMENT when a key is given twice, also with the same pattern.",
    ),
    (
        "manage.register.message",
        "SHOULD",
        "management.md",
        "agent-management",
        "The agent SHOULD name in the message of a refusal the field and what is wrong with it.",
    ),
    (
        "manage.loss.timeout",
        "MUST",
        "management.md",
        "agent-management",
        "The agent MUST drop a worker that has sent heartbeats, and none for `--heartbeat-timeout`, before one and a "
        "half times that have passed.",
    ),
    (
        "frame.length.limit",
        "MUST",
        "framing.md",
        "agent-serving",
        "The receiver MUST close the connection when a length is above its limit, without waiting for the payload.",
    ),
    (
        "frame.request.verbatim",
        "MUST",
        "framing.md",
        "agent-serving",
        "The agent MUST send a request's bytes as the client sent them, with unknown fields, in their order and "
        "encoding.",
    ),
    (
        "frame.connections.one-exchange",
        "MUST",
        "framing.md",
        "agent-serving",
        "The agent MUST NOT send a request on a connection before the exchange before it has ended.",
    ),
    (
        "stream.order.between",
        "MAY",
        "streaming.md",
        "agent-streaming",
        "The agent MAY send responses to different requests in any order.",
    ),
    (
        "queue.order.arrival",
        "MUST",
        "queues.md",
        "agent-serving",
        "The agent MUST give a place that becomes free to the request that came first among all waiting ones that "
        "have it among their best matches, over all queues.",
    ),
    (
        "lifecycle.drain.signal",
        "MUST",
        "lifecycle.md",
        "agent-serving",
        "The instance MUST drain at SIGTERM and at SIGINT, and then exit with status 0.",
    ),
)


def head(name: str = "reference agent", **changes: Any) -> Record:
    command = "anyserve --impl=reference --port {port} --management-port {management_port}"
    return {
        "kind": "run",
        "suite": "0.1.0",
        "subject": {"kind": "agent", "name": name, "command": command},
        "started": "2026-11-24T08:00:00Z",
        "profiles": ["kserve-core", "agent-serving", "agent-management", "agent-streaming"],
        "patience": 1.0,
        "strict": False,
        "options": {"model": "echo"},
        **changes,
    }


def case(number: int, title: str, outcome: str = "pass", point: str = "", **changes: Any) -> Record:
    """A case of the rule of that number."""
    name, keyword, page, profile, sentence = RULES[number]
    slug = point or "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split()[:8])
    module = name.split(".")[1]
    return {
        "kind": "case",
        "id": f"{name}/{slug}",
        "requirements": [name],
        "keyword": keyword,
        "area": name.split(".", maxsplit=1)[0],
        "profile": profile,
        "title": title,
        "sentence": sentence,
        "page": page,
        "outcome": outcome,
        "counts": not (keyword == "SHOULD" and outcome == "fail"),
        "reason": "",
        "look_at": f"what is done for `{name}`",
        "seconds": 0.031,
        "source": f"cases/{profile.replace('-', '_')}/test_{module}.py:41",
        "transcript": [],
        **changes,
    }


def event(at: float, who: str, what: str, data: bytes = b"", kind: str = "received", **changes: Any) -> Record:
    return {
        "at": at,
        "who": who,
        "event": kind,
        "what": what,
        "decoded": "",
        "hex": data.hex(" "),
        "size": len(data),
        "cut": False,
        **changes,
    }


def whole(run: Record, cases: Iterable[Record], exit_status: int | None = None) -> list[Record]:
    """The run with its end, which says what the cases say unless told otherwise."""
    cases = list(cases)
    if exit_status is None:
        bad = any(one["counts"] and one["outcome"] in ("fail", "unexpected-pass") for one in cases)
        exit_status = 1 if bad else 0
    counts = dict(Counter(one["outcome"] for one in cases))
    return [run, *cases, {"kind": "end", "counts": counts, "seconds": 12.34, "exit": exit_status}]


def write(path: Path, records: Iterable[Record]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def likely(name: str = "reference agent") -> list[Record]:
    """Every outcome, as a run of an agent under work would have them."""
    return whole(head(name), [*_failing(), *_passing(), *_others()])


def good(name: str = "native agent") -> list[Record]:
    return whole(head(name), _passing())


def _passing() -> list[Record]:
    return [
        case(0, "An answer comes as one message with status OK"),
        case(0, "A model without outputs is answered all the same", seconds=0.0004),
        case(1, "A name that nobody serves is NOT_FOUND"),
        case(1, "No worker hears of a request that matches nothing", seconds=1.52),
        case(2, "application/grpc+proto is taken"),
        case(3, "The same key twice with different patterns"),
        case(
            3, "The same key twice with the same pattern", requirements=["route.query.twice", "route.query.before-name"]
        ),
        case(5, "A worker that falls silent is dropped in time", seconds=3.02),
        case(6, "A length of exactly the limit is taken"),
        case(7, "Unknown fields arrive at the worker"),
        case(8, "Two requests at once go over two connections"),
        case(9, "The quick response overtakes the slow one"),
        case(10, "First come, first served, over two queues"),
    ]


def _failing() -> list[Record]:
    sent = bytes.fromhex("0a046563686f12013122220a13616e7973657276655f6361706162696c697479120b1a09747970653d6563686f")
    frame = len(sent).to_bytes(4, "big") + sent
    answer = b"\x7f\xff\xff\xff"
    return [
        case(
            6,
            "A reply frame with a length above the limit ends the connection before its payload comes",
            "fail",
            "closes-without-waiting",
            reason="the connection was still open 2.0 s after a frame header with the length 2,147,483,647;\n"
            "the limit is 67,108,864",
            look_at="the check of the length before the payload is read",
            seconds=2.04,
            transcript=[
                event(0.0004, "worker 1", "registers as {type: echo}", kind="note"),
                event(
                    0.0012,
                    "client 1",
                    "ModelInfer request",
                    sent[:9],
                    "sent",
                    decoded='model_name: "echo"\nmodel_version: "1"',
                ),
                event(
                    0.0031,
                    "worker 1",
                    "request frame",
                    frame,
                    decoded='model_name: "echo"\nmodel_version: "1"\n'
                    'parameters {\n  key: "anyserve_capability"\n  value { string_param: "type=echo" }\n}',
                ),
                event(0.0034, "worker 1", "frame header, length 2,147,483,647", answer, "sent"),
                event(2.0036, "worker 1", "nothing was received for 2.0 s", kind="note"),
            ],
        ),
        case(
            7,
            "Unknown fields and their order are kept",
            "fail",
            requirements=["frame.request.verbatim", "frame.scan.depth"],
            reason="byte 812 of the request is 0x12, and the client sent 0x0a there: the fields were put in order",
            look_at="whether the request is parsed and written anew instead of passed on",
            transcript=[
                event(
                    0.001,
                    "client 1",
                    "ModelInfer request",
                    bytes(range(256)) * 5,
                    "sent",
                    decoded="\n".join(f'inputs {{ name: "INPUT{i}" datatype: "FP32" shape: {i} }}' for i in range(40)),
                ),
                event(0.004, "worker 1", "request frame", bytes(range(256)) * 2, size=1284, cut=True),
            ],
        ),
        case(
            3,
            "A key twice, once in upper case",
            "unexpected-pass",
            reason="upper case is not refused yet",
            look_at="the parsing of metadata",
        ),
    ]


def _others() -> list[Record]:
    return [
        case(
            4,
            "A refusal of a bad capability key names the key",
            "fail",
            reason='the message is "invalid argument", without the key "Type!"',
            transcript=[event(0.002, "manager", "INVALID_ARGUMENT", decoded="invalid argument")],
        ),
        case(
            5,
            "A worker whose process is stopped is dropped in time",
            "expected-fail",
            reason="issue 12: a stopped process keeps its socket",
            transcript=[event(4.5, "manager", "the worker is still listed after 4.5 s", kind="note")],
        ),
        case(
            2,
            "application/grpc-web is refused",
            "error",
            reason='Traceback (most recent call last):\n  File "cases/kserve_core/test_grpc.py", line 41\n'
            "KeyError: ':status'",
        ),
        case(9, "Forty streams at once", "skipped", reason="the subject declares no streaming model"),
        case(11, "SIGTERM ends the instance with status 0", "not-applicable", reason="the target was not launched"),
    ]


def hostile() -> list[Record]:
    """Whatever is a text is somebody's attack on the page, and everything long is longer."""
    worst = case(
        6,
        HOSTILE,
        "fail",
        f"x\u202e{HOSTILE}",
        reason=HOSTILE + "x" * 100_000,
        look_at=HOSTILE,
        source=HOSTILE,
        sentence=f"The agent MUST {HOSTILE}.",
        page=HOSTILE,
        area=HOSTILE,
        profile=HOSTILE,
        requirements=[HOSTILE, "frame.length.limit"],
        transcript=[
            event(0.1, HOSTILE, HOSTILE, HOSTILE.encode(errors="replace") * 1000, decoded=HOSTILE * 1000),
            *(event(0.2, "w" * 500, "-" * 1000, bytes(9)) for _ in range(3000)),
        ],
    )
    subject = {"kind": "worker", "name": HOSTILE, "command": HOSTILE * 100}
    return whole(head(subject=subject, profiles=[HOSTILE], options={HOSTILE: [HOSTILE]}), [worst])


def large(cases: int = 500, outcome: str = "pass") -> list[Record]:
    transcript = [event(i / 1000, "client 1", "request", bytes(1024), decoded="x: 1\n" * 300) for i in range(8)]
    made = []
    for i in range(cases):
        failed = outcome == "fail" or i % 50 == 49
        made.append(
            case(
                (i * 7) % len(RULES),
                f"Case {i} of a long run tells in one sentence what it looks at",
                "fail" if failed else "pass",
                f"point-{i}",
                reason=f"reason {i}" if failed else "",
                transcript=transcript if failed else [],
            )
        )
    return whole(head("large"), made)
