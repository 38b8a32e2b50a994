"""The first example: one handler that works on the message, one that works on arrays."""

from anyserve import AnyServe, Code, InferenceError, ModelInferRequest, ModelInferResponse

app = AnyServe()


@app.capability(type="echo")
def echo(request: ModelInferRequest) -> ModelInferResponse:
    response = ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        # Input and output tensors are two messages with the same fields.
        response.outputs.add().MergeFromString(tensor.SerializeToString())
    return response


@app.model("add", version="1")
def add(request: ModelInferRequest) -> ModelInferResponse:
    tensors = request.tensors()
    if tensors.keys() != {"a", "b"}:
        raise InferenceError(Code.INVALID_ARGUMENT, f"add takes the tensors a and b, not {sorted(tensors)}")
    response = ModelInferResponse()
    response.set_tensors({"sum": tensors["a"] + tensors["b"]})
    return response
