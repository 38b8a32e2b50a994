"""Identity models for kserve-core on an agent: one scripted worker with a model of each datatype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anyserve_conformance import proto
from anyserve_conformance.agent import Agent
from anyserve_conformance.subjects import ModelSpec, Subjects, TensorSpec
from anyserve_conformance.transcript import Transcript

__all__ = ["identity", "serve_identities"]

VERSION = "1"
# FP32 first: `model` is the first.
TENSORS = (
    "FP32",
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "FP64",
    "BYTES",
)


def identity(payload: bytes) -> bytes:
    """Inputs as outputs, contents as they came."""
    request = proto.ModelInferRequest.FromString(payload)
    reply = proto.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        output = reply.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.HasField("contents"):
            output.contents.CopyFrom(tensor.contents)
    data: bytes = reply.SerializeToString()
    return data


@contextmanager
def serve_identities(subjects: Subjects) -> Iterator[list[ModelSpec]]:
    """Registers the models, with two inputs on the last one, and takes them away again."""
    agent = Agent(subjects.agent({}), Transcript(), subjects.patience)
    specs: list[ModelSpec] = []
    try:
        worker = agent.listener("identity", answer=identity)
        inputs: list[tuple[TensorSpec, ...]] = [(TensorSpec("INPUT0", datatype, (-1,)),) for datatype in TENSORS]
        inputs.append((TensorSpec("INPUT0", "FP32", (2, 3)), TensorSpec("INPUT1", "BYTES", (-1,))))
        for tensors in inputs:
            spec = ModelSpec(agent.name("-".join(t.datatype.lower() for t in tensors)), VERSION, tensors)
            metadata = [proto.TensorMetadata(name=t.name, datatype=t.datatype, shape=t.shape) for t in tensors]
            agent.management.register(worker, spec.name, VERSION, inputs=metadata, outputs=metadata, max_concurrency=64)
            specs.append(spec)
        yield specs
    finally:
        agent.close()
