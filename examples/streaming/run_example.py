"""Streams chat answers token by token, by both handlers of app.py, and cancels one in the middle."""

import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from anyserve import AnyserveClient
from examples._running import arguments, client_of, run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--prompt", default="Whenever I go to sea I", help="the answer goes on from its last word")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--max-tokens", type=int, default=40)
    options = parser.parse_args()
    asked = {"seed": options.seed, "max_tokens": options.max_tokens, "tokens_per_second": 50}

    with client_of("examples.streaming.app:app", options.address) as client:
        for model in ("chat", "chat-async"):
            print(f"{model}: {options.prompt}", end="", flush=True)
            show(client, model, options.prompt, asked)
        cancel(client, options.prompt)


def show(client: AnyserveClient, model: str, prompt: str, asked: dict[str, int]) -> None:
    """Prints each token as it arrives."""
    count, reason = 0, ""
    for response in client.stream(model, {"prompt": np.array([prompt.encode()], dtype=object)}, parameters=asked):
        tensors = response.tensors()
        print(tensors["token"][0].decode(), end="", flush=True)
        count, reason = count + 1, tensors["finish_reason"][0].decode()
    print(f"\n  [{count} tokens, finish_reason {reason}]")


def cancel(client: AnyserveClient, prompt: str) -> None:
    """Asks for more than it reads: closing the iterator cancels, and the handler stops."""
    inputs = {"prompt": np.array([prompt.encode()], dtype=object)}
    asked = {"max_tokens": 1000, "tokens_per_second": 50}
    with closing(client.stream("chat", inputs, parameters=asked)) as responses:
        tokens = [response.tensors()["token"][0].decode() for response in islice(responses, 5)]
    print(f"cancelled after {len(tokens)} tokens: {prompt}{''.join(tokens)}")


if __name__ == "__main__":
    run(main)
