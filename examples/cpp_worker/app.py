"""The Python worker beside the one in C++: the same capability, so that requests go to either."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anyserve import AnyServe, TensorSpec

app = AnyServe()

VECTORS = TensorSpec("vectors", "FP32", (-1, -1))


@app.tensors(type="normalize", inputs=[VECTORS], outputs=[VECTORS, TensorSpec("served_by", "BYTES", (1,))])
def normalize(vectors: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    """Each row with the length 1."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return {
        "vectors": (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32),
        "served_by": np.array([b"Python"], dtype=object),
    }
