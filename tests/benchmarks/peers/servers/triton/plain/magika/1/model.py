"""File types, one request after the other."""

import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path += os.environ["PYTHONPATH"].split(os.pathsep)  # the Python of the stub is an isolated one
from file_types import FileTypes


class TritonPythonModel:
    def initialize(self, args):
        self._types = FileTypes()

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        (content,) = pb_utils.get_input_tensor_by_name(request, "content").as_numpy()
        label, score = self._types.one(content)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("label", np.array([label.encode()], dtype=object)),
                pb_utils.Tensor("score", np.array([score], dtype=np.float32)),
            ]
        )
