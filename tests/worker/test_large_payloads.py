"""Large requests and replies where agent and worker share memory: what a handler sees, keeps and returns."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anyserve.control.agents import available_implementations
from support.command import Instance, serving

APP = """
    import threading

    import numpy as np

    from anyserve import AnyServe

    app = AnyServe()
    kept = []
    buffer = np.empty(1 << 20, np.uint8)


    @app.tensors(type="echo", max_concurrency=8)
    def echo(x):
        return {"x": x}


    @app.tensors(type="async-echo", max_concurrency=8)
    async def async_echo(x):
        return {"x": x}


    @app.capability(type="message", max_concurrency=8)
    def message(request):
        return {"x": request.tensors()["x"] + np.uint8(1)}


    @app.tensors(type="keep", max_concurrency=8)
    def keep(x):
        kept.append(x)
        return {"sum": np.array([x.sum(dtype=np.int64)])}


    @app.tensors(type="sums")
    def sums():
        return {"sums": np.array([x.sum(dtype=np.int64) for x in kept])}


    @app.tensors(type="fill", max_concurrency=1)
    def fill(n):
        buffer[:] = n[0]
        return {"x": buffer}


    @app.tensors(type="stores", max_concurrency=8)
    def stores(x):
        x[0] = 1
        return {"x": x}


    @app.tensors(type="memory")
    def memory():
        with open("/proc/self/maps") as maps:
            return {"shared": [line.count("memfd") > 0 for line in maps].count(True)}
"""
SIZES = [0, 1, 1000, 1 << 14, (1 << 16) - 1, 1 << 16, 1 << 17, 300_001, 1 << 20, 3 << 20]


@pytest.fixture(scope="module", params=sorted(available_implementations()))
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    directory = tmp_path_factory.mktemp("large")
    with serving(APP, "--impl", request.param, directory=directory) as instance:
        yield instance


def array(size: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("model", ["echo", "async-echo", "message"])
def test_every_request_gets_its_own_bytes_back(instance: Instance, model: str) -> None:
    """Bodies and rooms are used again and again, by several exchanges at once."""
    added = np.uint8(model == "message")

    def ask(seed: int) -> None:
        sent = array(SIZES[seed % len(SIZES)], seed)
        got = instance.client.infer(model, {"x": sent}).tensors()["x"]
        assert np.array_equal(got, sent + added), f"request {seed} of {sent.size} bytes"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(120)))


def test_arrays_that_a_handler_keeps_stay_what_they_were(instance: Instance) -> None:
    sums = []
    for seed in range(24):
        reply = instance.client.infer("keep", {"x": array(SIZES[seed % len(SIZES)], seed)})
        sums.append(int(reply.tensors()["sum"][0]))
    for seed in range(50):  # whose bytes would come to the same memory
        instance.client.infer("echo", {"x": array(1 << 20, 1000 + seed)})
    assert instance.client.infer("sums", {}).tensors()["sums"].tolist() == sums


def test_a_handler_may_use_its_output_buffer_again(instance: Instance) -> None:
    def ask(n: int) -> None:
        got = instance.client.infer("fill", {"n": np.array([n], np.uint8)}).tensors()["x"]
        assert got.tolist() == [n] * (1 << 20)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(32)))


def test_arrays_are_read_only(instance: Instance) -> None:
    with pytest.raises(Exception, match="read-only"):
        instance.client.infer("stores", {"x": array(1 << 20, 0)})


@pytest.mark.parametrize("implementation", sorted(available_implementations()))
@pytest.mark.parametrize("threshold", ["65536", "0"])
def test_memory_is_shared_where_that_is_wanted(tmp_path: Path, implementation: str, threshold: str) -> None:
    options = ("--impl", implementation, "--shared-memory-threshold", threshold, "--worker-io", "native")
    if "native" not in available_implementations():
        pytest.skip("the native loop is not in this installation")
    with serving(APP, *options, directory=tmp_path) as instance:
        for _ in range(3):
            instance.client.infer("echo", {"x": array(1 << 20, 0)})
        shared = int(instance.client.infer("memory", {}).tensors()["shared"])
        assert (shared > 0) == (threshold != "0")
