"""Embeddings of short texts, computed for many requests at once: a handler on stacked arrays, one on a list."""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anyserve import AnyServe, Batch, Code, InferenceError, ModelInferRequest, TensorSpec

app = AnyServe()

BUCKETS = 8192  # of three-letter pieces, by their hash
SIZE = 1024
BATCH = Batch(max_size=32, max_wait_ms=5)
TEXT = TensorSpec("text", "BYTES")
EMBEDDING = TensorSpec("embedding", "FP32", (-1, SIZE))
# A random projection, which keeps angles. Each call reads its 32 MiB once, for 1 text as for 32: that is what
# batches save, as with the weights of any model.
WEIGHTS = np.random.default_rng(0).standard_normal((BUCKETS, SIZE), np.float32)


def pieces(text: bytes) -> NDArray[np.float32]:
    """How often each piece of three letters is in the text."""
    padded = b" " + text.lower() + b"  "
    buckets = [zlib.crc32(padded[at : at + 3]) % BUCKETS for at in range(len(padded) - 2)]
    return np.bincount(buckets, minlength=BUCKETS).astype(np.float32)


def embeddings(texts: Sequence[bytes]) -> NDArray[np.float32]:
    counted = np.reshape([pieces(text) for text in texts], (-1, BUCKETS))
    projected: NDArray[np.float32] = counted @ WEIGHTS
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    return projected


@app.tensors(type="embed", inputs=[TEXT], outputs=[EMBEDDING], batch=BATCH)
def embed(text: NDArray[np.object_]) -> NDArray[np.float32]:
    """`text` has the rows of all requests of a call, and each gets its rows of what is returned."""
    return embeddings(text.tolist())


@app.tensors(type="embed-alone", inputs=[TEXT], outputs=[EMBEDDING], max_concurrency=1)
def embed_alone(text: NDArray[np.object_]) -> NDArray[np.float32]:
    """The same for one request after the other, to compare."""
    return embeddings(text.tolist())


@app.capability(type="nearest", batch=BATCH)
def nearest(requests: list[ModelInferRequest]) -> list[dict[str, NDArray[np.generic]] | InferenceError]:
    """Which of a request's texts is nearest to its first; each request has its own reply, or its own error."""
    texts = [request.tensors().get("text", np.array([])).tolist() for request in requests]
    rows = iter(embeddings([text for each in texts for text in each]))
    return [choose(each, [next(rows) for _ in each]) for each in texts]


def choose(texts: list[bytes], embedded: list[NDArray[np.float32]]) -> dict[str, NDArray[np.generic]] | InferenceError:
    if len(texts) < 2:
        return InferenceError(Code.INVALID_ARGUMENT, "`nearest` takes a text and others to choose from")
    scores = np.stack(embedded[1:]) @ embedded[0]
    return {"text": np.array([texts[1 + scores.argmax()]], object), "score": scores.max(keepdims=True)}
