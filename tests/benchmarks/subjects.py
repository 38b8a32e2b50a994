"""The processes that a benchmark measures or needs. Run as `python subjects.py ROLE PATH`; each prints its port.

- `worker PATH`: echoes frames: a request's id and raw tensors come back.
- `agent PATH`: the reference agent with that worker registered.
- `forwarder PATH`: what one would write by hand instead: a bare `grpc.aio` generic
  handler that forwards the same bytes to the same socket, ten connections at most,
  and knows no routing, no limits, no errors.
"""

from __future__ import annotations

import asyncio
import sys

import grpc.aio

from anyserve import rpc
from anyserve._proto import grpc_predict_v2_pb2, worker_management_pb2
from anyserve.agent import Agent, AgentConfig

KSERVE = grpc_predict_v2_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
MANAGEMENT = worker_management_pb2.DESCRIPTOR.services_by_name["WorkerManagement"]
CONNECTIONS = 10


async def worker(path: str) -> None:
    """Answers every request with its own id and raw tensors."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(4), "big")
                request = grpc_predict_v2_pb2.ModelInferRequest.FromString(await reader.readexactly(length))
                reply = grpc_predict_v2_pb2.ModelInferResponse(
                    model_name="echo", id=request.id, raw_output_contents=request.raw_input_contents
                ).SerializeToString()
                writer.write(len(reply).to_bytes(4, "big") + reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    print(0, flush=True)
    await server.serve_forever()


async def agent(path: str) -> None:
    """The reference agent, with the worker registered."""
    subject = Agent(AgentConfig(host="127.0.0.1", port=0, management_port=0))
    await subject.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{subject.management_port}") as channel:
        await rpc.callables(channel, MANAGEMENT)["RegisterModel"](
            worker_management_pb2.RegisterModelRequest(
                model_name="echo", worker_id="w", worker_address=f"unix://{path}", capability={"type": "echo"}
            )
        )
    print(subject.port, flush=True)
    await asyncio.Event().wait()


async def forwarder(path: str) -> None:
    """The bare handler."""
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
    asyncio.run({"worker": worker, "agent": agent, "forwarder": forwarder}[sys.argv[1]](sys.argv[2]))
