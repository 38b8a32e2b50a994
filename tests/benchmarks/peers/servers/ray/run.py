"""Ray Serve with one model behind its gRPC proxy. Usage: run.py GRPC_PORT HTTP_PORT DIRECTORY echo|magika."""

import signal
import struct
import sys
import threading

import numpy as np
import ray
from grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from ray import serve
from ray.serve.config import gRPCOptions
from ray.serve.schema import LoggingConfig

QUIET = LoggingConfig(enable_access_log=False)


@serve.deployment(num_replicas=1, max_ongoing_requests=100, logging_config=QUIET)
class Echo:
    """Identity on a numpy array."""

    async def ModelInfer(self, request: ModelInferRequest) -> ModelInferResponse:  # noqa: N802  # the RPC's name
        x = np.frombuffer(request.raw_input_contents[0], dtype=np.float32)
        response = ModelInferResponse(model_name="echo", id=request.id, raw_output_contents=[x.tobytes()])
        response.outputs.add(name="y", datatype="FP32", shape=x.shape)
        return response


@serve.deployment(num_replicas=1, max_ongoing_requests=100, logging_config=QUIET)
class Magika:
    """File types, one request after the other."""

    def __init__(self) -> None:
        from file_types import FileTypes  # not for the other model, whose start is measured too

        self._types = FileTypes()

    def ModelInfer(self, request: ModelInferRequest) -> ModelInferResponse:  # noqa: N802  # the RPC's name
        label, score = self._types.one(request.raw_input_contents[0][4:])
        text = label.encode()
        response = ModelInferResponse(
            model_name="magika",
            id=request.id,
            raw_output_contents=[struct.pack("<I", len(text)) + text, np.float32(score).tobytes()],
        )
        response.outputs.add(name="label", datatype="BYTES", shape=[1])
        response.outputs.add(name="score", datatype="FP32", shape=[1])
        return response


if __name__ == "__main__":
    grpc_port, http_port, directory, model = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=directory, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": http_port},
        logging_config=QUIET,
        grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=["kserve_service.add_to_server"]),
    )
    serve.run({"echo": Echo, "magika": Magika}[model].bind(), route_prefix="/")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    serve.shutdown()
    ray.shutdown()
