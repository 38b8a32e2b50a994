"""A client of plain grpcio and freshly generated stubs; it knows nothing of anyserve. Prints JSON.

Usage: stub_client.py ADDRESS bidirectional|server-streaming, with the generated modules on PYTHONPATH.
"""

import json
import struct
import sys

import grpc
import grpc_predict_v2_pb2 as pb
import grpc_predict_v2_pb2_grpc as pb_grpc

address, streaming = sys.argv[1:]


def request(model, *inputs, **fields):
    made = pb.ModelInferRequest(model_name=model, inputs=inputs, **fields)
    made.parameters["note"].string_param = "from the stub"
    return made


def typed(name, datatype, shape, **contents):
    contents = pb.InferTensorContents(**contents)
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, contents=contents)


def counting(to, request_id):
    return request("count", typed("to", "INT64", [1], int64_contents=[to]), id=request_id)


def reply(response):
    outputs = response.outputs
    return {
        "model": response.model_name,
        "id": response.id,
        "note": response.parameters["note"].string_param,
        "outputs": {o.name: [o.datatype, list(o.shape)] for o in outputs},
        "fp32": {o.name: list(o.contents.fp32_contents) for o in outputs if o.contents.fp32_contents},
        "raw": [raw.hex() for raw in response.raw_output_contents],
    }


def streamed(response):
    if response.error_message:
        return [response.infer_response.id, response.error_message]
    return [response.infer_response.id, *struct.unpack("<q", *response.infer_response.raw_output_contents)]


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return None


with grpc.insecure_channel(address) as channel:
    stub = pb_grpc.GRPCInferenceServiceStub(channel)
    results = {
        "live": stub.ServerLive(pb.ServerLiveRequest(), wait_for_ready=True).live,
        "ready": stub.ServerReady(pb.ServerReadyRequest()).ready,
        "server": stub.ServerMetadata(pb.ServerMetadataRequest()).name,
        "model": stub.ModelMetadata(pb.ModelMetadataRequest(name="add", version="2")).platform,
        "typed": reply(stub.ModelInfer(request("echo", typed("x", "FP32", [2], fp32_contents=[1.5, -2.0]), id="1"))),
        "raw": reply(
            stub.ModelInfer(
                request(
                    "echo", typed("x", "UINT8", [3]), typed("y", "BOOL", [1]), raw_input_contents=[b"\1\2\3", b"\0"]
                )
            )
        ),
        "not found": failure(lambda: stub.ModelInfer(request("no_such_model"))),
        "deadline": failure(lambda: stub.ModelInfer(request("wait"), timeout=0.3)),
        "by capability": reply(
            stub.ModelInfer(request("", id="2"), metadata=[("x-cap-type", "chat"), ("x-cap-model", "llama-7b")])
        ),
    }
    if streaming == "bidirectional":
        sent = iter([counting(3, "a"), request("no_such_model", id="b"), counting(-1, "c")])
        results["stream"] = [streamed(response) for response in stub.ModelStreamInfer(sent)]
    else:
        results["stream"] = [streamed(response) for response in stub.ModelStreamInfer(counting(3, "a"))]
        results["stream of an unknown model"] = [
            streamed(response) for response in stub.ModelStreamInfer(request("no_such_model", id="b"))
        ]
        results["stream failing late"] = [streamed(r) for r in stub.ModelStreamInfer(counting(-1, "c"))]
        replies = stub.ModelStreamInfer(counting(1_000_000, "d"))
        results["first of many"] = streamed(next(replies))
        replies.cancel()
print(json.dumps(results))
