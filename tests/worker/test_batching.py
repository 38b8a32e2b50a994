"""Batches through a real agent and its workers: what goes together, whose failure is whose, who leaves in time."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from anyserve import Code, InferenceError, ModelInferRequest
from anyserve._proto import grpc_predict_v2_pb2
from anyserve.control.agents import available_implementations
from anyserve.worker.loops import available_worker_io
from support.command import FACTS, Instance, serving
from support.processes import eventually

PAIRS = tuple(zip(available_implementations(), available_worker_io(), strict=True))
"""Agent and worker loop, both in Python or both native."""

APP = (
    FACTS
    + """
import asyncio

from anyserve import Batch

HELD = Batch(max_size=4, max_wait_ms=200)
permits = threading.Semaphore(0)  # each call of a handler takes one


@app.tensors(type="let", max_concurrency=64)
def let(calls):
    while permits.acquire(blocking=False):
        pass
    for _ in range(calls[0]):
        permits.release()
    return {"let": calls}


def hold():
    facts.add("began")
    assert permits.acquire(timeout=20)


async def ahold():
    facts.add("began")
    while not permits.acquire(blocking=False):
        await asyncio.sleep(0.005)


def numbers(requests):
    return [int(request.tensors()["n"][0]) for request in requests]


def replies(requests):
    together = numbers(requests)
    return [{"n": [n], "together": together} for n in together]


@app.capability(type="sync", batch=HELD)
def sync(requests):
    hold()
    return replies(requests)


@app.capability(type="counted", batch=HELD)
def counted(requests):
    hold()
    return replies(requests)


@app.capability(type="patient", batch=Batch(max_wait_ms=60_000))
async def patient(requests):
    return replies(requests)


@app.capability(type="async", batch=HELD)
async def async_(requests, contexts):
    try:
        await ahold()
    except asyncio.CancelledError:
        facts.add("cancelled")
        raise
    return tuple(replies(requests))


@app.model("two-at-once", batch=Batch(max_size=1, concurrency=2))
def two_at_once(requests, contexts):
    facts.add("at once")
    hold()
    facts.add("at once", -1)
    return [{"id": [context.request_id]} for context in contexts]


@app.worker(capabilities=[{"type": "method"}], batch=HELD)
class Method(Worker):
    def on_start(self):
        self.added = 100

    def handle(self, requests):
        return [{"n": [n + self.added]} for n in numbers(requests)]


@app.capability(type="each", batch=HELD)
def each(requests):
    def outcome(n):
        if n == 1:
            return InferenceError(Code.OUT_OF_RANGE, "one is out of range")
        return ValueError("two is no value") if n == 2 else {"x": [object()]} if n == 3 else {"n": [n]}

    hold()
    return [outcome(n) for n in numbers(requests)]


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("it has no text")


def fail(how, requests):
    if how == "inference-error":
        raise InferenceError(Code.UNAVAILABLE, "the model is gone")
    if how == "runtime-error":
        raise RuntimeError("all of it failed")
    if how.startswith("say "):
        raise RuntimeError(how)
    if how == "stop-iteration":
        next(iter(()))
    if how == "exit":
        raise SystemExit("the handler exits")
    if how == "cancelled":
        raise asyncio.CancelledError
    if how == "unprintable":
        raise Unprintable
    return {"too-few": replies(requests)[1:], "none": None, "one": {"n": [1]}, "generator": (r for r in requests)}[how]


def how(requests):
    return requests[0].parameters["how"].string_param


@app.capability(type="fails", batch=HELD)
def fails(requests):
    hold()
    return fail(how(requests), requests)


@app.capability(type="async-fails", batch=HELD)
async def async_fails(requests):
    await ahold()
    return fail(how(requests), requests)
"""
)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Instance]:
    agent, worker_io = request.param
    options = (f"--impl={agent}", f"--worker-io={worker_io}")
    with serving(APP, *options, directory=tmp_path_factory.mktemp("batching")) as instance:
        yield instance


@pytest.fixture
def instance(running: Instance) -> Iterator[Instance]:
    """Whose handlers are held until the test lets them."""
    let(running, 0)
    yield running
    let(running, 100)


def let(instance: Instance, calls: int) -> None:
    """Lets so many calls of handlers end."""
    instance.client.infer("let", {"calls": [calls]})


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


Ask = Future[Any]


def ask(instance: Instance, threads: ThreadPoolExecutor, model: str, n: int, **options: Any) -> Ask:
    return threads.submit(instance.client.infer, model, {"n": [n]}, timeout=20.0, **options)


def in_flight(instance: Instance, count: int) -> None:
    """Waits until the functions' worker has so many requests."""

    def reached() -> bool:
        return max(worker.in_flight for worker in instance.client.workers()) == count

    eventually(reached, f"{count} exchanges under way")


def held(
    instance: Instance, threads: ThreadPoolExecutor, model: str, count: int, **options: Any
) -> tuple[Ask, list[Ask]]:
    """One request that runs alone, held, and `count` that wait behind it."""
    began = instance.fact("began")
    first = ask(instance, threads, model, 0, **options)
    instance.fact("began", began + 1)
    waiting = [ask(instance, threads, model, n, **options) for n in range(1, count + 1)]
    in_flight(instance, count + 1)
    return first, waiting


def together(asked: Sequence[Ask]) -> list[list[int]]:
    """The requests that ran together, each batch once, by its size."""
    found = {tuple(one.result().tensors()["together"].tolist()) for one in asked}
    return sorted((sorted(batch) for batch in found), key=len)


def failure(asked: Ask) -> tuple[Code, str]:
    with pytest.raises(InferenceError) as caught:
        asked.result()
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("model", ["sync", "async"])
def test_what_waits_goes_together_and_each_gets_its_own_reply(
    instance: Instance, threads: ThreadPoolExecutor, model: str
) -> None:
    first, waiting = held(instance, threads, model, 6)
    let(instance, 100)
    assert [int(one.result().tensors()["n"][0]) for one in (first, *waiting)] == list(range(7))
    sizes = [len(batch) for batch in together([first, *waiting])]
    assert sizes == [1, 2, 4]


def test_replies_are_told_the_ids_of_their_requests(instance: Instance, threads: ThreadPoolExecutor) -> None:
    began = instance.fact("at once")
    asked = [ask(instance, threads, "two-at-once", n, request_id=f"id-{n}") for n in range(2)]
    instance.fact("at once", began + 2)  # each in a call of its own
    third = ask(instance, threads, "two-at-once", 2, request_id="id-2")
    in_flight(instance, 3)
    let(instance, 100)
    for n, one in enumerate([*asked, third]):
        reply = one.result()
        assert (reply.id, reply.tensors()["id"].tolist()) == (f"id-{n}", [f"id-{n}".encode()])
    assert instance.fact("most at once") == 2


def test_method_of_a_worker_class(instance: Instance) -> None:
    assert instance.client.infer("method", {"n": [7]}).tensors()["n"].tolist() == [107]


def test_one_client_never_waits(instance: Instance) -> None:
    for n in range(20):  # `max_wait_ms` is a minute
        assert instance.client.infer("patient", {"n": [n]}, timeout=15.0).tensors()["together"].tolist() == [n]


def test_places_of_a_registration(instance: Instance) -> None:
    registered = {r.model_name: r.max_concurrency for w in instance.client.workers() for r in w.registrations}
    assert (registered["sync"], registered["two-at-once"], registered["method"]) == (8, 3, 8)


def test_one_requests_failure_is_its_own(instance: Instance, threads: ThreadPoolExecutor) -> None:
    first, waiting = held(instance, threads, "each", 4)
    let(instance, 100)
    assert first.result().tensors()["n"].tolist() == [0]
    assert failure(waiting[0]) == (Code.OUT_OF_RANGE, "one is out of range")
    assert failure(waiting[1]) == (Code.INTERNAL, "two is no value")
    code, message = failure(waiting[2])
    assert code is Code.INTERNAL
    assert '"x"' in message
    assert waiting[3].result().tensors()["n"].tolist() == [4]


@pytest.mark.parametrize("model", ["fails", "async-fails"])
@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("inference-error", Code.UNAVAILABLE, "the model is gone"),
        ("runtime-error", Code.INTERNAL, "all of it failed"),
        ("stop-iteration", Code.INTERNAL, "StopIteration"),
        ("exit", Code.INTERNAL, "the handler exits"),
        ("cancelled", Code.INTERNAL, "CancelledError"),
        ("unprintable", Code.INTERNAL, "Unprintable"),
        ("too-few", Code.INTERNAL, "the handler got 1 requests and returned 0 replies"),
        ("none", Code.INTERNAL, "returns a list with a reply to each request, got NoneType"),
        ("one", Code.INTERNAL, "returns a list with a reply to each request, got dict"),
        ("generator", Code.INTERNAL, "returns a list with a reply to each request, got a generator"),
    ],
)
def test_failure_of_the_call(instance: Instance, model: str, how: str, code: Code, message: str) -> None:
    let(instance, 100)
    with pytest.raises(InferenceError) as caught:
        instance.client.infer(model, {"n": [1]}, timeout=15.0, parameters={"how": how})
    assert caught.value.code is code
    if not (how == "stop-iteration" and model == "async-fails"):  # Python makes a RuntimeError of it
        assert caught.value.message.endswith(message)


def test_failure_of_the_call_is_everybodys_and_logged_once(instance: Instance, threads: ThreadPoolExecutor) -> None:
    first, waiting = held(instance, threads, "fails", 4, parameters={"how": "say it once"})
    let(instance, 100)
    for one in (first, *waiting):
        assert failure(one) == (Code.INTERNAL, "say it once")

    def logged() -> int:
        lines = instance.logs("handler failed", capability="{type: fails}")
        return sum("RuntimeError: say it once" in line["traceback"] for line in lines)

    eventually(lambda: logged() >= 2, "a line of each call")
    assert logged() == 2


def call(instance: Instance, model: str, n: int, *, timeout: float | None = None) -> Any:
    """A call that can be cancelled."""
    request = ModelInferRequest(model_name=model)
    request.set_tensors({"n": [n]})
    return instance.calls["ModelInfer"].future(request, timeout=timeout)


@pytest.mark.parametrize("model", ["sync", "async"])
def test_a_request_that_is_cancelled_while_it_waits_is_not_run(
    instance: Instance, threads: ThreadPoolExecutor, model: str
) -> None:
    first, waiting = held(instance, threads, model, 2)
    leaves = call(instance, model, 99)
    in_flight(instance, 4)
    leaves.cancel()
    in_flight(instance, 3)
    let(instance, 100)
    assert together([first, *waiting]) == [[0], [1, 2]]


@pytest.mark.parametrize("model", ["sync", "async"])
def test_a_request_whose_deadline_passes_while_it_waits_is_not_run(
    instance: Instance, threads: ThreadPoolExecutor, model: str
) -> None:
    first, waiting = held(instance, threads, model, 2)
    with pytest.raises(InferenceError) as caught:
        instance.client.infer(model, {"n": [99]}, timeout=0.3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    in_flight(instance, 3)
    let(instance, 100)
    assert together([first, *waiting]) == [[0], [1, 2]]


@pytest.mark.parametrize("model", ["sync", "async"])
def test_a_batch_goes_on_without_a_request_that_is_cancelled_while_it_runs(
    instance: Instance, threads: ThreadPoolExecutor, model: str
) -> None:
    first, stays = held(instance, threads, model, 3)
    began = instance.fact("began")
    leaves = call(instance, model, 99)
    in_flight(instance, 5)
    let(instance, 1)
    instance.fact("began", began + 1)  # a full batch
    leaves.cancel()
    in_flight(instance, 3)
    let(instance, 1)
    assert together([first, *stays]) == [[0], [1, 2, 3, 99]]


def test_an_async_call_that_nobody_awaits_any_more_is_cancelled(instance: Instance) -> None:
    began, cancelled = instance.fact("began"), instance.fact("cancelled")
    leaves = call(instance, "async", 0)
    instance.fact("began", began + 1)
    leaves.cancel()
    instance.fact("cancelled", cancelled + 1)
    let(instance, 100)
    assert instance.client.infer("async", {"n": [1]}).tensors()["together"].tolist() == [1]


def test_statistics_tell_of_the_batches(instance: Instance, threads: ThreadPoolExecutor) -> None:
    def stats() -> Any:
        request = grpc_predict_v2_pb2.ModelStatisticsRequest(name="counted")
        (found,) = instance.calls["ModelStatistics"](request).model_stats
        return found

    first, waiting = held(instance, threads, "counted", 6)
    let(instance, 100)
    assert [len(batch) for batch in together([first, *waiting])] == [1, 2, 4]
    eventually(lambda: stats().execution_count == 3, "three calls in ModelStatistics")
    assert stats().inference_count == 7
    assert [(each.batch_size, each.compute_infer.count) for each in stats().batch_stats] == [(1, 1), (2, 1), (4, 1)]
    assert all(each.compute_infer.ns > 0 for each in stats().batch_stats)


def test_a_drain_ends_what_waits_for_its_batch(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("drain")
    with ThreadPoolExecutor(8) as threads, serving(APP, directory=directory) as instance:
        first, waiting = held(instance, threads, "sync", 3)
        let(instance, 2)
        first.result()
        instance.signal(signal.SIGTERM)  # the three still wait for the first client
        assert together(waiting) == [[1, 2, 3]]
