"""Serves identity models with the gRPC server of the kserve package: no REST, no other process.

Run as `python serve.py --port N` in an environment with requirements.txt. One line on stdout says that it serves;
SIGTERM and SIGINT end it. KServe listens on all addresses and has no setting for that.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

import grpc.aio
from identity import Identity
from kserve import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

INTEGERS = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
MODELS = {
    "identity": {"INPUT0": "FP32"},
    "half": {"INPUT0": "FP16"},
    "many": {f"IN_{datatype}": datatype for datatype in ("BOOL", *INTEGERS, "FP32", "FP64", "BYTES")},
}
START_LIMIT = 60.0  # seconds
MESSAGE_LIMIT = 8 * 1024 * 1024  # bytes; what KServe's own command line has as its default
THREADS = 4  # likewise
GRACE = 5  # seconds


async def main(port: int) -> None:
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)

    registry = ModelRepository()
    for name, inputs in MODELS.items():
        registry.update(Identity(name, inputs))
    limits = {"grpc_max_send_message_length": MESSAGE_LIMIT, "grpc_max_receive_message_length": MESSAGE_LIMIT}
    server = GRPCServer(port, DataPlane(registry), ModelRepositoryExtension(registry), limits, grace_period=GRACE)

    async with asyncio.TaskGroup() as group:  # a server that cannot listen ends the program
        group.create_task(server.start(THREADS))
        async with asyncio.timeout(START_LIMIT), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()
        print(f"serving on 127.0.0.1:{port}", flush=True)
        await told_to_end.wait()
        await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(main(parser.parse_args().port))
