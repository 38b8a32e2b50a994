"""A search in stages that call one another by capability, not by import.

    search (async) -> embed -> tokenize
                   -> nearest

Each stage is a capability of its own: clients may call any of them, and a stage can be
replaced, or served by another process, without a change to the others.
"""

from pathlib import Path

import numpy as np

from anyserve import AnyServe, Code, Context, InferenceError, TensorSpec
from examples.multi_stage import tfidf

Arrays = dict[str, np.ndarray]

app = AnyServe()
corpus = tfidf.Corpus.load(Path(__file__).with_name("documents.txt"))


@app.tensors(
    type="search",
    inputs=[TensorSpec("query", "BYTES"), TensorSpec("count", "INT32", (1,))],
    outputs=[TensorSpec("title", "BYTES", (-1, -1)), TensorSpec("score", "FP32", (-1, -1))],
)
async def search(query: np.ndarray, count: np.ndarray, context: Context) -> Arrays:
    embedded = await context.acall({"type": "embed", "model": "tfidf"}, {"text": query})
    vectors = embedded.tensors()["vector"]
    found = (await context.acall({"type": "nearest"}, {"vector": vectors, "count": count})).tensors()
    titles = np.array([title.encode() for title in corpus.titles], dtype=object)
    return {"title": titles[found["index"]], "score": found["score"]}


@app.tensors(
    type="tokenize",
    inputs=[TensorSpec("text", "BYTES")],
    outputs=[TensorSpec("term", "BYTES"), TensorSpec("length", "INT32")],
)
def tokenize(text: np.ndarray) -> Arrays:
    """The terms of all texts in one row, and how many of them each text has."""
    rows = [tfidf.terms_of(value.decode(errors="replace")) for value in text]
    terms = [term.encode() for row in rows for term in row]
    return {"term": np.array(terms, dtype=object), "length": np.array([len(row) for row in rows], dtype=np.int32)}


@app.tensors(
    type="embed",
    model="tfidf",
    inputs=[TensorSpec("text", "BYTES")],
    outputs=[TensorSpec("vector", "FP32", (-1, len(corpus.column)))],
)
def embed(text: np.ndarray, context: Context) -> Arrays:
    tokenized = context.call({"type": "tokenize"}, {"text": text}).tensors()
    ends = np.cumsum(tokenized["length"])
    rows = [[term.decode() for term in row] for row in np.split(tokenized["term"], ends[:-1])]
    return {"vector": tfidf.embed(rows, corpus.column, corpus.idf)}


@app.tensors(
    type="nearest",
    inputs=[TensorSpec("vector", "FP32", (-1, len(corpus.column))), TensorSpec("count", "INT32", (1,))],
    outputs=[TensorSpec("index", "INT64", (-1, -1)), TensorSpec("score", "FP32", (-1, -1))],
)
def nearest(vector: np.ndarray, count: np.ndarray) -> Arrays:
    wanted = int(count[0])
    if not 1 <= wanted <= len(corpus.titles):
        raise InferenceError(Code.INVALID_ARGUMENT, f"count must be from 1 to {len(corpus.titles)}, not {wanted}")
    index, score = corpus.nearest(vector, wanted)
    return {"index": index, "score": score}
