"""tritonclient's asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

triton = pytest.importorskip("tritonclient.grpc.aio", reason="tritonclient[grpc] is not installed")
from tritonclient.utils import InferenceServerException  # noqa: E402

LIMIT = 20.0  # seconds that anything here may take


@pytest_asyncio.fixture
async def client(address: str) -> AsyncIterator[Any]:
    async with triton.InferenceServerClient(address) as client:
        yield client


def tensor(name: str, array: np.ndarray, datatype: str) -> Any:
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


async def requests(*wanted: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for request in wanted:
        yield {"inputs": [], **request}


def counting(to: int, request_id: str) -> dict[str, Any]:
    return {
        "model_name": "count",
        "inputs": [tensor("to", np.array([to], np.int64), "INT64")],
        "request_id": request_id,
    }


async def test_questions(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("echo")
    assert not await client.is_model_ready("no_such_model")
    assert (await client.get_server_metadata()).name == "anyserve"
    assert (await client.get_model_metadata("add", "2", as_json=True))["platform"] == "numpy"
    assert (await client.get_model_config("count")).config.model_transaction_policy.decoupled
    assert "echo" in {m.name for m in (await client.get_model_repository_index()).models}
    assert (await client.get_inference_statistics("echo")).model_stats[0].name == "echo"


async def test_infer(client):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = await client.infer(
        "echo", [tensor("x", x, "FP32")], request_id="1", parameters={"k": 1}, compression_algorithm="gzip"
    )
    np.testing.assert_array_equal(result.as_numpy("x"), x)
    assert result.get_response().id == "1"
    assert result.get_response().parameters["k"].int64_param == 1


async def test_many_at_once(client):
    async def one(number: int) -> int:
        result = await client.infer("echo", [tensor("x", np.array([number]), "INT64")])
        return int(result.as_numpy("x")[0])

    assert await asyncio.gather(*map(one, range(100))) == list(range(100))


async def test_headers_choose_by_capability(client):
    result = await client.infer("", [], headers={"x-cap-model": "mistral|llama-70?", "x-cap-type": "chat"})
    assert result.as_numpy("answered_by").tolist() == [b"llama-70b"]


async def test_errors(client):
    with pytest.raises(InferenceServerException) as raised:
        await client.infer("fail", [], parameters={"code": "ALREADY_EXISTS", "message": "once is enough"})
    assert (raised.value.status(), raised.value.message()) == ("StatusCode.ALREADY_EXISTS", "once is enough")


async def test_the_client_timeout_is_the_deadline(client):
    with pytest.raises(InferenceServerException) as raised:
        await client.infer("wait", [], request_id="aio late", client_timeout=0.3)
    assert raised.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    await client.infer("witness", [], request_id="aio late", parameters={"event": "cancelled"}, client_timeout=LIMIT)


async def test_a_cancelled_task_cancels_the_handler(client):
    call = asyncio.create_task(client.infer("wait", [], request_id="aio task"))
    await client.infer("witness", [], request_id="aio task", parameters={"event": "started"}, client_timeout=LIMIT)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await client.infer("witness", [], request_id="aio task", parameters={"event": "cancelled"}, client_timeout=LIMIT)


async def test_stream_infer(client):
    wanted = [counting(3, "a"), {"model_name": "no_such_model"}, counting(2, "b"), {"model_name": "echo"}]
    got: dict[str, list[int]] = {"a": [], "b": []}
    errors, others = [], []
    async with asyncio.timeout(LIMIT):
        async for result, error in client.stream_infer(requests(*wanted)):
            if error is not None:
                errors.append(error.message())
            elif (response := result.get_response()).id in got:
                got[response.id].append(int(result.as_numpy("index")[0]))
            else:
                others.append(response.model_name)
    assert got == {"a": [0, 1, 2], "b": [0, 1]}
    assert others == ["echo"]
    (message,) = errors
    assert "no_such_model" in message


async def test_stream_infer_as_a_conversation(client):
    """Each request is made from the response before it."""
    answers: asyncio.Queue[int] = asyncio.Queue()

    async def asking() -> AsyncIterator[dict[str, Any]]:
        to = 1
        while to < 4:
            yield counting(to, str(to))
            to += await answers.get()

    got = []
    async with asyncio.timeout(LIMIT):
        async for result, error in client.stream_infer(asking()):
            assert error is None
            got.append((result.get_response().id, int(result.as_numpy("index")[0])))
            if got[-1][1] == int(got[-1][0]) - 1:  # the last one of its request
                answers.put_nowait(1)
    assert got == [("1", 0), ("2", 0), ("2", 1), ("3", 0), ("3", 1), ("3", 2)]


async def test_stream_infer_cancelled(client):
    replies = client.stream_infer(requests({"model_name": "wait", "request_id": "aio stream"}))
    reading = asyncio.create_task(anext(replies))
    await client.infer("witness", [], request_id="aio stream", parameters={"event": "started"}, client_timeout=LIMIT)
    replies.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await client.infer("witness", [], request_id="aio stream", parameters={"event": "cancelled"}, client_timeout=LIMIT)


async def test_unload_and_load(client):
    await client.unload_model("loadable")
    assert not await client.is_model_ready("loadable")
    await client.load_model("loadable")
    assert await client.is_model_ready("loadable")
    assert (await client.infer("loadable", [])).as_numpy("pid").shape == (1,)
