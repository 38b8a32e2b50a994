"""File types, all requests that Triton's dynamic batcher hands over by one run of the network."""

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
        contents = [pb_utils.get_input_tensor_by_name(request, "content").as_numpy()[0, 0] for request in requests]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("label", np.array([[label.encode()]], dtype=object)),
                    pb_utils.Tensor("score", np.array([[score]], dtype=np.float32)),
                ]
            )
            for label, score in self._types.many(contents)
        ]
