"""An app whose handlers use tritonclient: a worker has it in the same process as anyserve's messages."""

from __future__ import annotations

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from anyserve import AnyServe, ModelInferRequest, ModelInferResponse, Worker

app = AnyServe()


def _inputs(request: ModelInferRequest, kind: type) -> list[triton.InferInput]:
    return [
        kind(t.name, list(t.shape), t.datatype).set_data_from_numpy(request.tensors()[t.name]) for t in request.inputs
    ]


def _address(request: ModelInferRequest) -> str:
    return request.parameters["address"].string_param


@app.capability(type="relay")
def relay(request: ModelInferRequest) -> ModelInferResponse:
    """Passes its inputs on to `echo` of the instance at the parameter `address`."""
    with triton.InferenceServerClient(_address(request)) as client:
        result = client.infer("echo", _inputs(request, triton.InferInput))
    response = ModelInferResponse()
    response.set_tensors({o.name: result.as_numpy(o.name) for o in result.get_response().outputs})
    return response


@app.worker(capabilities=[{"type": "relay_async"}])
class Relay(Worker):
    """The same by the asyncio client, which a worker keeps."""

    def on_start(self) -> None:
        self.clients: dict[str, triton_aio.InferenceServerClient] = {}

    async def on_cleanup(self) -> None:
        for client in self.clients.values():
            await client.close()

    async def handle(self, request: ModelInferRequest) -> ModelInferResponse:
        address = _address(request)
        if address not in self.clients:
            self.clients[address] = triton_aio.InferenceServerClient(address)
        result = await self.clients[address].infer("echo", _inputs(request, triton_aio.InferInput))
        return ModelInferResponse.FromString(result.get_response().SerializeToString())


@app.capability(type="echo")
def echo(request: ModelInferRequest) -> ModelInferResponse:
    response = ModelInferResponse()
    response.set_tensors(request.tensors())
    return response
