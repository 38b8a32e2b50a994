"""Identity on a numpy array."""

import numpy as np

from anyserve import AnyServe, TensorSpec

app = AnyServe()


@app.tensors(type="echo", inputs=[TensorSpec("x", "FP32")], outputs=[TensorSpec("y", "FP32")])
def echo(x: np.ndarray) -> np.ndarray:
    return x
