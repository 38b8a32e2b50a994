"""What the native worker loop has beside the other: shared memory, threads that take turns, limits of its own."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anyserve import Code, ModelInferRequest, ModelInferResponse
from anyserve.worker.loops import available_worker_io
from support.command import FACTS, serving
from support.processes import eventually
from support.scripted_agent import Frames, ScriptedWorker, failure, request, scripted

pytestmark = pytest.mark.skipif("native" not in available_worker_io(), reason="it was built without a compiler")

MIB = 1 << 20

APP = (
    FACTS
    + """
import asyncio
import ctypes
import os

kept = []
buffer = {"y": np.empty(1 << 20, np.uint8)}
barrier = threading.Barrier(64)
start = threading.Thread.start


@app.tensors(type="keep")
def keep(x):
    kept.append(x)
    return {"n": x[:1]}


@app.tensors(type="kept")
def tell_kept(x):
    whole = [(each == each[0]).all() for each in kept]
    return {"first": np.array([each[0] for each in kept]), "whole": np.array(whole)}


@app.tensors(type="dictionary", max_concurrency=1)
def same_dictionary(x):
    np.copyto(buffer["y"], x)
    return buffer


@app.tensors(type="array", max_concurrency=1, outputs=[TensorSpec("y", "UINT8", [-1])])
def same_array(x):
    np.copyto(buffer["y"], x)
    return buffer["y"]


@app.tensors(type="view", max_concurrency=1)
def same_memory(x):
    np.copyto(buffer["y"], x)
    return {"y": buffer["y"][:]}


@app.tensors(type="async-dictionary", max_concurrency=1)
async def same_dictionary_async(x):
    np.copyto(buffer["y"], x)
    return buffer


@app.tensors(type="echo")
def echo(x):
    return {"y": x}


@app.tensors(type="fresh")
def fresh(x):
    return {"y": x + 1}


@app.tensors(type="async-echo")
async def async_echo(x):
    await asyncio.sleep(0)
    return {"y": x}


@app.capability(type="message-echo")
def message_echo(request):
    return {"y": request.tensors()["x"]}


@app.tensors(type="together", max_concurrency=64)
def together(x):
    return {"y": np.array([barrier.wait(20)])}


@app.tensors(type="hog")
def hog(x):
    ctypes.PyDLL(None).usleep(300_000)  # keeps the interpreter's lock
    return {"y": x}


@app.capability(type="tokens")
def tokens(request):
    for n in range(int(request.tensors()["x"][0])):
        yield {"n": np.array([n])}


@app.capability(type="async-tokens")
async def async_tokens(request):
    for n in range(int(request.tensors()["x"][0])):
        yield {"n": np.array([n])}


@app.capability(type="from-tasks", stream=True)
async def from_tasks(request, context, stream):
    async def send(first):
        for n in range(first, 4000, 4):
            await stream.asend({"n": np.array([n]), "x": np.zeros(1000, np.uint8)})

    await asyncio.gather(*map(send, range(4)))


@app.tensors(type="fork")
def fork(x):
    if os.fork() == 0:
        if x[0]:
            raise SystemExit("the child, which forgot to end itself")
        return {"y": x - 1}
    return {"y": x + os.waitstatus_to_exitcode(os.wait()[1])}


@app.tensors(type="no-threads")
def no_threads(x):
    def no_handlers(thread):
        if thread.name == "handler":
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = no_handlers if x[0] else start
    return {"y": x}


@app.tensors(type="texts", outputs=[TensorSpec("y", "BYTES", [2])])
def texts(x):
    return {"y": ["text"] * int(x[0])}


@app.tensors(type="process")
def process(x):
    return {"rss": np.array([int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")])}


@app.tensors(type="held")
def held(x, context):
    facts.add("held")
    facts.add("cancelled" if context.cancellation.wait(20) else "in vain")
    return {"y": x}
"""
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedWorker]:
    with scripted(APP, "--worker-io=native", directory=tmp_path_factory.mktemp("loop")) as worker:
        yield worker


@pytest.fixture
def connection(worker: ScriptedWorker) -> Iterator[Frames]:
    connection = worker.connect()
    yield connection
    connection.close()


def send(connection: Frames, model: str, x: object) -> None:
    connection.send(request(model, x=np.asarray(x)).SerializeToString())


def receive(connection: Frames, name: str = "y") -> np.ndarray:
    payload = connection.receive()
    assert payload is not None, "closed without a reply"
    reply = ModelInferResponse.FromString(payload)
    assert failure(reply) == (0, "")
    return reply.tensors()[name]


def ask(connection: Frames, model: str, x: object, name: str = "y") -> np.ndarray:
    send(connection, model, x)
    return receive(connection, name)


def filled(n: int, size: int = MIB) -> np.ndarray:
    return np.full(size, n, np.uint8)


def fact(connection: Frames, name: str, at_least: int) -> None:
    reply = connection.ask(request("facts", name=[name], at_least=[at_least], seconds=[15.0]))
    assert reply.tensors()["value"][0] >= at_least


# Memory that is shared


def test_arrays_that_a_handler_keeps_stay_what_they_were(worker: ScriptedWorker) -> None:
    connections = [worker.connect() for _ in range(8)]
    for n in range(64):
        assert ask(connections[n % 8], "keep", filled(n, 1 << 18), "n").tolist() == [n]
    for connection in connections:
        connection.close()
    control = worker.connect()
    for n in range(100):
        ask(control, "echo", filled(255 - n, 1 << 18))
    assert ask(control, "kept", [0], "first").tolist() == list(range(64))
    assert ask(control, "kept", [0], "whole").all()


@pytest.mark.parametrize("model", ["dictionary", "array", "view", "async-dictionary"])
def test_a_buffer_that_is_used_for_each_reply_is_sent_as_it_was(worker: ScriptedWorker, model: str) -> None:
    connections = [worker.connect() for _ in range(64)]
    for n, connection in enumerate(connections):
        send(connection, model, filled(n))
    for n, connection in enumerate(connections):  # by now the others wait for their readers
        assert (receive(connection) == n).all(), n
        connection.close()


def test_memory_does_not_grow(connection: Frames) -> None:
    def load(count: int, size: int) -> int:
        payload = request("echo", x=filled(1, size)).SerializeToString()
        more = request("fresh", x=filled(1, size)).SerializeToString()
        for n in range(count):
            connection.send(payload if n % 2 else more)
            assert len(connection.receive() or b"") > size
        return int(ask(connection, "process", [0], "rss")[0])

    warm = load(500, MIB), load(2000, 64)
    grown = load(1000, MIB) - warm[0], load(20_000, 64) - warm[1]
    assert max(grown) < 8 * MIB, grown


# Threads that take turns


def test_handlers_of_all_kinds_beside_each_other(worker: ScriptedWorker) -> None:
    models = ["echo", "async-echo", "message-echo", "fresh"]
    connections = [worker.connect() for _ in range(8)]
    streams = [worker.connect() for _ in range(2)]
    for connection, model in zip(streams, ["tokens", "async-tokens"], strict=True):
        send(connection, model, [500])
    for turn in range(50):
        for n, connection in enumerate(connections):
            send(connection, models[(turn + n) % 4], [turn, n])
        for n, connection in enumerate(connections):
            more = 1 if models[(turn + n) % 4] == "fresh" else 0
            assert receive(connection).tolist() == [turn + more, n + more]
    for connection in streams:
        assert [int(reply.infer_response.tensors()["n"][0]) for reply in connection.replies()] == list(range(500))


def test_as_many_slow_handlers_run_at_once_as_there_are_places(worker: ScriptedWorker) -> None:
    connections = [worker.connect() for _ in range(64)]
    for connection in connections:
        send(connection, "together", [0])
    assert sorted(int(receive(connection)[0]) for connection in connections) == list(range(64))


def test_a_handler_that_keeps_the_interpreter_to_itself(worker: ScriptedWorker) -> None:
    connections = [worker.connect() for _ in range(16)]
    for n, connection in enumerate(connections):
        send(connection, "echo" if n % 4 else "hog", [n])
    for n, connection in enumerate(connections):
        assert receive(connection).tolist() == [n]


def test_a_thousand_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 4096:
        pytest.skip(f"a process may have {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        with scripted(APP, "--worker-io=native", directory=tmp_path) as worker:
            connections = []
            for n in range(1024):
                connections.append(worker.connect())
                assert ask(connections[-1], "echo", [n]).tolist() == [n]
            for n, connection in enumerate(connections):
                send(connection, "echo", [n])
            for n, connection in enumerate(connections):
                assert receive(connection).tolist() == [n]
            assert worker.connect().receive() is None, "one more than the limit"
            worker.wait_log("closed a connection", reason="1024 connections are open")
            connections[0].close()
            eventually(lambda: served(worker), "a new one takes its place")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def served(worker: ScriptedWorker) -> bool:
    connection = worker.connect()
    try:
        return ask(connection, "echo", [1]).tolist() == [1]
    except (AssertionError, OSError):
        return False
    finally:
        connection.close()


def test_a_worker_without_further_threads_serves_by_its_first(tmp_path: Path) -> None:
    with scripted(APP, "--worker-io=native", directory=tmp_path) as worker:
        first = worker.connect()
        first.send(request("no-threads", x=[1]).SerializeToString())
        assert first.receive() is not None
        connections = [worker.connect() for _ in range(8)]
        for n, connection in enumerate(connections):
            send(connection, "hog", [n])
        for n, connection in enumerate(connections):
            assert receive(connection).tolist() == [n]
        assert len(worker.logs("no thread for a handler")) <= 2, "not with each request"
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_child_that_a_handler_forgets_answers_nothing(worker: ScriptedWorker, connection: Frames) -> None:
    for n in range(3):
        assert ask(connection, "fork", [n]).tolist() == [n + 1]
    for n in range(50):
        assert ask(connection, "echo", [n]).tolist() == [n], "nobody else writes here"


# Streams


@pytest.mark.parametrize("model", ["tokens", "async-tokens"])
def test_a_long_stream_with_a_reader_that_pauses(worker: ScriptedWorker, model: str) -> None:
    count = 100_000
    reader, other = worker.connect(), worker.connect()
    send(reader, model, [count])
    replies = reader.replies()
    numbers = []
    for reply in replies:
        numbers.append(int(reply.infer_response.tensors()["n"][0]))
        if len(numbers) in (1, 50_000):  # meanwhile the worker fills all buffers, and others are served
            for n in range(200):
                assert ask(other, "echo", [n]).tolist() == [n]
    assert numbers == list(range(count))


def test_several_tasks_may_send(worker: ScriptedWorker) -> None:
    reader, other = worker.connect(), worker.connect()
    send(reader, "from-tasks", [0])
    for n in range(50):  # until all of them wait for the reader
        ask(other, "async-echo", [n])
    numbers = [int(reply.infer_response.tensors()["n"][0]) for reply in reader.replies()]
    assert sorted(numbers) == list(range(4000))
    for task in range(4):
        assert [n for n in numbers if n % 4 == task] == list(range(task, 4000, 4))


# Checks and ends


def test_declared_texts_are_checked(connection: Frames) -> None:
    assert ask(connection, "texts", [2]).tolist() == [b"text", b"text"]
    code, message = failure(connection.ask(request("texts", x=[3])))
    assert code == Code.INTERNAL
    assert "expected shape [2], got [3]" in message


def test_cancellation_reaches_a_handler_that_waits(worker: ScriptedWorker) -> None:
    held, control = worker.connect(), worker.connect()
    send(held, "held", [0])
    fact(control, "held", 1)
    held.close()
    fact(control, "cancelled", 1)


def test_a_worker_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    with serving(APP, "--worker-io=native", directory=tmp_path) as instance:  # looks for what is left
        before = set(os.listdir("/dev/shm"))
        for n in range(2):
            message = ModelInferRequest(model_name="echo")
            message.set_tensors({"x": filled(n)})
            assert (instance.client.infer("echo", message).tensors()["y"] == n).all()
            if n == 0:
                instance.kill_worker(instance.worker_pid())
                instance.wait_log("registered", count=2, models=...)
        assert set(os.listdir("/dev/shm")) <= before
