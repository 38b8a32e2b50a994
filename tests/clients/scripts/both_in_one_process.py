"""Imports the modules named after ADDRESS in that order, then talks by tritonclient and by AnyserveClient.

Both define `inference.ModelInferRequest`: in one descriptor pool they would clash. A
program of its own, since a process imports a module only once.
"""

import importlib
import sys

address, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)

import numpy as np  # noqa: E402
from tritonclient import grpc as triton  # noqa: E402

import anyserve  # noqa: E402

x = np.array([1.5, -2.0], np.float32)

with triton.InferenceServerClient(address) as theirs:
    result = theirs.infer("echo", [triton.InferInput("x", [2], "FP32").set_data_from_numpy(x)])
    assert result.as_numpy("x").tolist() == [1.5, -2.0]

with anyserve.AnyserveClient(address) as ours:
    reply = ours.infer("echo", {"x": x})
    assert reply.tensors()["x"].tolist() == [1.5, -2.0]

# The messages of both are of different classes, and the same on the wire.
copy = anyserve.ModelInferResponse.FromString(result.get_response().SerializeToString())
assert type(copy) is not type(result.get_response())
assert copy.tensors()["x"].tolist() == [1.5, -2.0]
print("both work")
