"""What one would write by hand: identity over KServe v2's proto with grpcio alone.

Usage: kserve_echo.py PORT aio|threads.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
import numpy as np
from grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

SERVICE = "inference.GRPCInferenceService"
THREADS = 10


def echo(request: ModelInferRequest, _context: object) -> ModelInferResponse:
    """Identity on a numpy array."""
    x = np.frombuffer(request.raw_input_contents[0], dtype=np.float32)
    response = ModelInferResponse(model_name=request.model_name, id=request.id, raw_output_contents=[x.tobytes()])
    response.outputs.add(name="y", datatype="FP32", shape=x.shape)
    return response


async def echo_async(request: ModelInferRequest, context: object) -> ModelInferResponse:
    return echo(request, context)


def add(server: grpc.Server | grpc.aio.Server, behaviour: object, port: int) -> None:
    handler = grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=ModelInferRequest.FromString,
        response_serializer=ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")


async def serve_aio(port: int) -> None:
    server = grpc.aio.server()
    add(server, echo_async, port)
    await server.start()
    await server.wait_for_termination()


def serve_threads(port: int) -> None:
    server = grpc.server(ThreadPoolExecutor(THREADS))
    add(server, echo, port)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[2] == "aio":
        asyncio.run(serve_aio(int(sys.argv[1])))
    else:
        serve_threads(int(sys.argv[1]))
