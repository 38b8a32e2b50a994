"""Asks the front stage for the documents nearest to some questions, then one inner stage by itself."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples._running import arguments, client_of, run

QUESTIONS = ["How do birds find their way?", "what needs yeast and water", "melting things in a furnace"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("question", nargs="*", default=QUESTIONS)
    parser.add_argument("--count", type=int, default=3, help="documents a question (default 3)")
    options = parser.parse_args()
    texts = np.array([question.encode() for question in options.question], dtype=object)

    with client_of("examples.multi_stage.app:app", options.address) as client:
        inputs = {"query": texts, "count": np.array([options.count], dtype=np.int32)}
        found = client.infer({"type": "search"}, inputs).tensors()
        for question, titles, scores in zip(options.question, found["title"], found["score"], strict=True):
            print(question)
            for title, score in zip(titles, scores, strict=True):
                if score > 0:
                    print(f"  {score:.3f}  {title.decode()}")

        terms = client.infer({"type": "tokenize"}, {"text": texts}).tensors()["term"]
        print("tokenize alone:", " ".join(term.decode() for term in terms))


if __name__ == "__main__":
    run(main)
