"""What one would write by hand instead of an agent: a bare `grpc.aio` handler that forwards to one socket.

Ten connections at most; it knows no routing, no limits, no errors.
Usage: grpc_aio_forwarder.py SOCKET; prints its port.
"""

from __future__ import annotations

import asyncio
import sys

import grpc.aio

from anyserve import rpc
from anyserve._proto import grpc_predict_v2_pb2

KSERVE = grpc_predict_v2_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
CONNECTIONS = 10


async def serve(path: str) -> None:
    """Forwards the bytes of ModelInfer to the worker at `path`."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    places = asyncio.Semaphore(CONNECTIONS)

    async def forward(payload: bytes, _context: object) -> bytes:
        async with places:
            reader, writer = idle.pop() if idle else await asyncio.open_unix_connection(path)
            writer.write(len(payload).to_bytes(4, "big") + payload)
            length = int.from_bytes(await reader.readexactly(4), "big")
            reply = await reader.readexactly(length)
            idle.append((reader, writer))
            return reply

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((rpc.handler(KSERVE, {"ModelInfer": forward}, raw={"ModelInfer"}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
