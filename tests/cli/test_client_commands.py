"""`anyserve infer` and `anyserve workers` against a running instance."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.command import Instance, run, serving
from support.processes import Running

APP = """
    import time

    import numpy as np

    from anyserve import AnyServe, Code, InferenceError, TensorSpec

    app = AnyServe()

    @app.tensors(type="echo")
    def echo(**arrays):
        return arrays

    @app.capability(type="about")
    def about(request, context):
        parameters = {
            name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in request.parameters.items()
        }
        return {"parameters": [f"{k}={v!r}" for k, v in sorted(parameters.items())], "id": [request.id]}

    @app.model("add", version="1")
    def add(request):
        t = request.tensors()
        return {"sum": t["a"] + t["b"]}

    @app.capability(type="chat", model="llama-70b", max_concurrency=4, platform="here")
    def chat(request):
        for word in ["to", "be", "or"]:
            yield {"text": [word]}

    @app.capability(type="fails")
    def fails(request):
        raise InferenceError(Code.FAILED_PRECONDITION, "not today")

    @app.capability(type="stream-fails")
    def stream_fails(request):
        yield {"n": [1]}
        raise InferenceError(Code.FAILED_PRECONDITION, "not today")

    @app.capability(type="nothing")
    def nothing(request):
        return {}

    @app.capability(type="slow")
    def slow(request, context):
        context.cancellation.wait(20)

    @app.capability(type="odd")
    def odd(request):
        return {"bytes": [b"\\xff\\x00", "Grüße"], "nan": np.array([np.nan, np.inf]), "scalar": np.array(3)}
"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with serving(APP, directory=tmp_path_factory.mktemp("commands")) as instance:
        yield instance


def infer(instance: Instance, *arguments: str, directory: Path | None = None) -> Running:
    done = run("infer", *arguments, f"--address={instance.address}", directory=directory or Path("/"))
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("x=1", "x: INT64 [] 1"),
        ("x=-1.5", "x: FP64 [] -1.5"),
        ("x=[1, 2]", "x: INT64 [2] [1, 2]"),
        ("x=[[1.5, 2], [3, 4]]", "x: FP64 [2, 2] [[1.5, 2.0], [3.0, 4.0]]"),
        ("x=true", "x: BOOL [] true"),
        ("x=[true, false]", "x: BOOL [2] [true, false]"),
        ('x="text"', 'x: BYTES [] "text"'),
        ("x=plain text", 'x: BYTES [] "plain text"'),
        ("x=", 'x: BYTES [] ""'),
        ("x=a=b", 'x: BYTES [] "a=b"'),
        ('x=["a", "bc"]', 'x: BYTES [2] ["a", "bc"]'),
        ("x=Grüße ☃", 'x: BYTES [] "Grüße ☃"'),
        ("x:FP32=[1, 2]", "x: FP32 [2] [1.0, 2.0]"),
        ("x:fp16=[0.5]", "x: FP16 [1] [0.5]"),
        ("x:BF16=[0.5]", "x: BF16 [1] [0.5]"),
        ("x:UINT8=[255]", "x: UINT8 [1] [255]"),
        ("x:BYTES=12", 'x: BYTES [] "12"'),
        ("x=18446744073709551615", "x: UINT64 [] 18446744073709551615"),
        ("x:INT32=[]", "x: INT32 [0] []"),
    ],
)
def test_forms_of_an_input(instance: Instance, value: str, printed: str) -> None:
    """A declared datatype decides how the value is read."""
    if value == "x:BF16=[0.5]":
        printed = "x: FP32 [1] [0.5]"  # the handler gets and returns float32
    done = infer(instance, "echo", "-i", value)
    assert (done.status, done.stdout, done.stderr) == (0, printed, "")


def test_input_from_a_file(instance: Instance, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"two\nlines")
    done = infer(instance, "echo", "--input", "x=@file.bin", directory=tmp_path)
    assert (done.status, done.stdout) == (0, 'x: BYTES [] "two\\nlines"')


def test_several_inputs_and_a_version(instance: Instance) -> None:
    done = infer(instance, "add", "-i", "a:FP32=[1, 2]", "-i", "b:FP32=[3, 4]", "--version=1")
    assert (done.status, done.stdout) == (0, "sum: FP32 [2] [4.0, 6.0]")


def test_capability_instead_of_a_model(instance: Instance) -> None:
    done = infer(instance, "-c", "type=ec*", "-i", "x=1")
    assert (done.status, done.stdout) == (0, "x: INT64 [] 1")


def test_parameters_and_id(instance: Instance) -> None:
    done = infer(
        instance,
        "about",
        "--id=it",
        "-p",
        "text=hello",
        "-p",
        "n=3",
        "-p",
        "x=0.5",
        "--parameter",
        "yes=true",
        "--json",
    )
    outputs = json.loads(done.stdout)["outputs"]
    assert outputs["parameters"]["data"] == ["n=3", "text='hello'", "x=0.5", "yes=True"]
    assert outputs["id"]["data"] == ["it"]


def test_json(instance: Instance) -> None:
    done = infer(instance, "add", "-i", "a=[1]", "-i", "b=[2]", "--id=r1", "--json")
    assert json.loads(done.stdout) == {
        "model_name": "add",
        "model_version": "1",
        "id": "r1",
        "outputs": {"sum": {"datatype": "INT64", "shape": [1], "data": [3]}},
    }


def test_stream(instance: Instance) -> None:
    done = infer(instance, "llama-70b", "--stream")
    assert done.status == 0
    assert done.printed == ['text: BYTES [1] ["to"]', 'text: BYTES [1] ["be"]', 'text: BYTES [1] ["or"]']
    lines = infer(instance, "llama-70b", "--stream", "--json").printed
    assert [json.loads(line)["outputs"]["text"]["data"] for line in lines] == [["to"], ["be"], ["or"]]


def test_reply_without_outputs(instance: Instance) -> None:
    assert infer(instance, "nothing").stdout == "(no outputs)"


def test_json_is_json_whatever_the_reply_holds(instance: Instance) -> None:

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    done = infer(instance, "odd", "--json")
    outputs = json.loads(done.stdout, parse_constant=refuse)["outputs"]
    assert outputs["scalar"] == {"datatype": "INT64", "shape": [], "data": 3}
    assert outputs["bytes"]["data"][1] == "Grüße"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fails"], "FAILED_PRECONDITION: not today"),
        (["nowhere"], "NOT_FOUND: no worker serves model 'nowhere'"),
        (["ech"], 'did you mean "echo"?'),
        (["add", "--version=9", "-i", "a=1", "-i", "b=1"], "NOT_FOUND"),
        (["-c", "type=nowhere"], "NOT_FOUND"),
        (["-c", "Type=x"], "x-cap"),
        (["llama-70b"], "use ModelStreamInfer"),
        (["slow", "--timeout=0.2"], "DEADLINE_EXCEEDED"),
        (["echo", "-i", "x:FP99=1"], "FP99"),
        (["echo", "-i", "x:INT8=[300]"], "INT8"),
        (["echo", "-i", "x=[[1, 2], [3]]"], "'x'"),
        (["echo", "-i", "x=null"], "x"),
        (["echo", "-i", 'x={"a": 1}'], "x"),
        (["echo", "-p", "x=[1]"], "parameter 'x'"),
        (["echo", "-p", "anyserve_x=1"], "reserved"),
        (["echo", "-i", "x=1", "--id", "it", "--address=nowhere"], "nowhere"),
    ],
)
def test_failures_exit_with_1_and_one_line(instance: Instance, arguments: list[str], words: str) -> None:
    given = [a for a in arguments if a.startswith("--address")]
    done = run("infer", f"--address={instance.address}", *arguments, directory=Path("/"))
    assert given or "Traceback" not in done.stderr
    assert done.status == 1
    assert len(done.lines) == 1, done.stderr
    assert done.lines[0].startswith("Error: ")
    assert words in done.lines[0]
    assert done.stdout == ""


def test_stream_that_fails_prints_what_came(instance: Instance) -> None:
    done = infer(instance, "stream-fails", "--stream")
    assert done.status == 1
    assert done.printed == ["n: INT64 [1] [1]"]
    assert done.lines == ["Error: FAILED_PRECONDITION: not today"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a MODEL"),
        (["echo", "-c", "type=echo"], "name a MODEL"),
        (["echo", "-i", "x"], "'x' is not NAME=VALUE"),
        (["echo", "-i", "=1"], "is not NAME=VALUE"),
        (["echo", "-i", "x=1", "-i", "x=2"], "'x' is given twice"),
        (["echo", "-i", "x=@/no/such/file"], "cannot read /no/such/file"),
        (["-c", "type"], "'type' is not NAME=VALUE"),
        (["-c", "type=a", "-c", "type=b"], "'type' is given twice"),
        (["echo", "-p", "x"], "'x' is not NAME=VALUE"),
        (["echo", "--timeout=soon"], "--timeout"),
    ],
)
def test_misuse_exits_with_2(instance: Instance, arguments: list[str], words: str) -> None:
    done = infer(instance, *arguments)
    assert done.status == 2
    assert words in done.stderr


def nobody() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("command", [("infer", "echo", "--address"), ("workers", "--management-address")])
def test_nobody_there(command: tuple[str, ...]) -> None:
    done = run(*command, nobody(), directory=Path("/"), timeout=20)
    assert done.status == 1
    assert len(done.lines) == 1, done.stderr
    assert done.lines[0].startswith("Error: UNAVAILABLE")


def workers(instance: Instance, *arguments: str) -> Running:
    return run("workers", f"--management-address={instance.management}", *arguments, directory=Path("/"))


def test_workers_as_a_table(instance: Instance) -> None:
    done = workers(instance)
    assert done.status == 0
    header, *rows = done.printed
    assert header.split() == ["WORKER", "MODEL", "VERSION", "CAPABILITY", "BUSY", "HEARTBEAT"]
    assert len(rows) == 9
    (add,) = (row.split() for row in rows if " add " in row)
    assert add[1:3] == ["add", "1"]
    assert "model=1, type=add" in " ".join(add)
    assert add[-2:] == ["s", "ago"]
    assert all(row.index("type=") for row in rows)


def test_workers_as_json(instance: Instance) -> None:
    done = workers(instance, "--json")
    (worker,) = json.loads(done.stdout)
    assert worker["address"].startswith(f"unix://{instance.socket_dir}/")
    assert 0 <= worker["heartbeat_age_ms"] < 10_000
    (chat,) = (r for r in worker["registrations"] if r["model_name"] == "llama-70b")
    assert chat == {
        "model_name": "llama-70b",
        "model_version": "",
        "capability": {"type": "chat", "model": "llama-70b"},
        "stream": True,
        "max_concurrency": 4,
        "priority": 0,
        "platform": "here",
    }
