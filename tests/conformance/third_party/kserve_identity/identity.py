"""The only implementation of a model: its outputs are its inputs, as KServe hands them over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model


class Identity(Model):  # type: ignore[misc]  # KServe is not installed where mypy runs
    """A model with these inputs, name to datatype, of one dimension each."""

    def __init__(self, name: str, inputs: Mapping[str, str]) -> None:
        super().__init__(name)
        self.inputs = inputs
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in self.inputs.items()]

    def get_output_types(self) -> list[dict[str, Any]]:
        return self.get_input_types()

    async def predict(
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        outputs = []
        for given in payload.inputs:
            output = InferOutput(given.name, given.shape, given.datatype)
            output.set_data_from_numpy(given.as_numpy(), binary_data=payload.use_binary_outputs)
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs, use_binary_outputs=payload.use_binary_outputs)
