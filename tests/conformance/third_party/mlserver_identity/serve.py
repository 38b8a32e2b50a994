"""Serves the models of models/ with MLServer's own gRPC server: no REST, no metrics, no other process.

Run as `python serve.py --port N` in an environment with requirements.txt. One line on stdout says that it serves;
SIGTERM and SIGINT end it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import grpc.aio
from mlserver.cli.serve import load_settings
from mlserver.grpc import GRPCServer
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.registry import MultiModelRegistry
from mlserver.repository import ModelRepositoryFactory

START_LIMIT = 60.0  # seconds


async def main(port: int) -> None:
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)

    settings, models = await load_settings(str(Path(__file__).parent))
    settings.grpc_port = port
    registry = MultiModelRegistry()
    for model in models:
        await registry.load(model)
    if not models:
        raise SystemExit("MLServer found no model")
    repository = ModelRepositoryHandlers(ModelRepositoryFactory.resolve_model_repository(settings), registry)
    server = GRPCServer(settings, DataPlane(settings, registry), repository)

    async with asyncio.TaskGroup() as group:  # a server that cannot listen ends the program
        group.create_task(server.start())
        async with asyncio.timeout(START_LIMIT), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()
        print(f"serving on 127.0.0.1:{port}", flush=True)
        await told_to_end.wait()
        await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(main(parser.parse_args().port))
