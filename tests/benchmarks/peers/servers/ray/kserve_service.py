"""KServe's service as Ray Serve's gRPC proxy asks for services: as generated code would have it, for its one RPC."""

import grpc
from grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

__all__ = ["add_to_server"]


def add_to_server(servicer: object, server: grpc.aio.Server) -> None:
    """Ray hands over a servicer that has a method for each RPC that it sees registered."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.ModelInfer,
        request_deserializer=ModelInferRequest.FromString,
        response_serializer=ModelInferResponse.SerializeToString,
    )
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),))
