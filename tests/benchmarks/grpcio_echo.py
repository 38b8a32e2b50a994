"""What one would write by hand with grpcio alone: a server that answers by itself, its handler the identity.

Usage: grpcio_echo.py aio|threads; prints its port.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio

from anyserve import rpc
from anyserve._proto import grpc_predict_v2_pb2
from anyserve._proto.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

KSERVE = grpc_predict_v2_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
THREADS = 10
MAX_MESSAGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def echo(request: ModelInferRequest, _context: object) -> ModelInferResponse:
    """The tensor comes back as it is."""
    reply = ModelInferResponse(model_name=request.model_name, id=request.id)
    reply.outputs.add(name="x", datatype="FP32", shape=request.inputs[0].shape)
    reply.raw_output_contents.append(request.raw_input_contents[0])
    return reply


async def echo_async(request: ModelInferRequest, context: object) -> ModelInferResponse:
    """The same on an event loop."""
    return echo(request, context)


async def serve_aio() -> None:
    """A `grpc.aio` server."""
    server = grpc.aio.server(options=MAX_MESSAGE)
    server.add_generic_rpc_handlers((rpc.handler(KSERVE, {"ModelInfer": echo_async}, aio=True),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def serve_threads() -> None:
    """A server with a pool of threads."""
    server = grpc.server(ThreadPoolExecutor(THREADS), options=MAX_MESSAGE)
    server.add_generic_rpc_handlers((rpc.handler(KSERVE, {"ModelInfer": echo}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1] == "aio":
        asyncio.run(serve_aio())
    else:
        serve_threads()
