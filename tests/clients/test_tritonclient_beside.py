"""tritonclient in one process with anyserve: beside its client, its agent and its workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyserve.agent import Agent, AgentConfig

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
import tritonclient.grpc.aio as triton_aio  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

APP = "relay:app"
ORDERS = [
    ["tritonclient.grpc", "anyserve"],
    ["anyserve", "tritonclient.grpc"],
    ["anyserve.agent", "tritonclient.grpc", "anyserve.worker"],
]


@pytest.mark.parametrize("protobuf", ["upb", "python"])
@pytest.mark.parametrize("order", ORDERS, ids=",".join)
def test_imported_in_either_order(address: str, scripts_dir: Path, order: list[str], protobuf: str):
    ended = subprocess.run(
        [sys.executable, str(scripts_dir / "both_in_one_process.py"), address, *order],
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": protobuf},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # BUG(lead): with protobuf's pure Python implementation the generated modules register in the default pool too.
    assert ended.stdout == "both work\n", ended.stderr[-1500:]  # what clashes is quoted at length before
    assert ended.returncode == 0


@pytest.mark.parametrize("model", ["relay", "relay_async"])
@pytest.mark.parametrize("array", [np.ones((2, 3), np.float32), np.array([b"a", b"bc"], object)], ids=["FP32", "BYTES"])
def test_a_handler_calls_by_tritonclient(address: str, model: str, array: np.ndarray):
    datatype = "BYTES" if array.dtype == object else "FP32"
    x: Any = triton.InferInput("x", list(array.shape), datatype).set_data_from_numpy(array)
    with triton.InferenceServerClient(address) as client:
        got = client.infer(model, [x], parameters={"address": address}).as_numpy("x")
    np.testing.assert_array_equal(got, array)


async def test_an_agent_in_the_process_of_the_client():
    agent = Agent(AgentConfig(host="127.0.0.1", port=0, management_host="127.0.0.1", management_port=0))
    await agent.start()
    try:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{agent.port}") as client:
            assert await client.is_server_ready()
            assert not (await client.get_model_repository_index()).models
            with pytest.raises(InferenceServerException) as raised:
                await client.infer("echo", [])
            assert raised.value.status() == "StatusCode.NOT_FOUND"
    finally:
        await agent.stop(grace=1.0)
