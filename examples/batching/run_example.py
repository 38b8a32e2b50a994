"""Asks for embeddings from many threads, with batches and without, and tells how many a second there were."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from anyserve import AnyserveClient, InferenceError
from examples._running import arguments, client_of, run

TEXTS = [
    "Where is the library?",
    "Could you tell me where the library is?",
    "How much does the ticket cost?",
    "The train leaves at nine.",
]


def requests_per_second(client: AnyserveClient, model: str, requests: int, threads: int) -> float:
    """Each thread awaits its reply before it sends the next request."""

    def ask(n: int) -> None:
        client.infer(model, {"text": np.array([TEXTS[n % len(TEXTS)]], object)})

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(threads)))  # both sides are warm
        began = time.perf_counter()
        list(pool.map(ask, range(requests)))
    return requests / (time.perf_counter() - began)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=640)
    parser.add_argument("--threads", type=int, default=64)
    options = parser.parse_args()

    with client_of("examples.batching.app:app", options.address) as client:
        answer = client.infer("nearest", {"text": np.array(TEXTS, object)}).tensors()
        print(f"nearest  {TEXTS[0]}  ->  {answer['text'][0].decode()}  ({answer['score'][0]:.2f})")
        try:
            client.infer("nearest", {"text": np.array(TEXTS[:1], object)})
        except InferenceError as error:
            print(f"error    {error.code.name}: {error.message}")
        for model in ("embed-alone", "embed"):
            rate = requests_per_second(client, model, options.requests, options.threads)
            print(f"{model:<12} {rate:6.0f} requests/s from {options.threads} threads")


if __name__ == "__main__":
    run(main)
