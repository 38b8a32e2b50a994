"""examples/streaming: tokens one by one, the same for the same seed, no more once cancelled."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anyserve import Code, InferenceError, ModelInferRequest

Run = Callable[..., CompletedProcess[str]]
Shown = Callable[[str, str, str], bool]

ROOT = Path(__file__).resolve().parents[2]
LONG_SEED = 55  # "the sea" goes on for more than 600 tokens with it


def asking(prompt: str = "I go to sea", **parameters: int) -> ModelInferRequest:
    request = ModelInferRequest()
    request.set_tensors({"prompt": np.array([prompt.encode()], dtype=object)})
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


def test_run_example_streams_by_both_handlers_and_cancels(run_example: Run) -> None:
    lines = run_example("streaming", "--prompt", "I go to", "--seed", "7", "--max-tokens", "12").stdout.splitlines()
    assert lines[0].startswith("chat: I go to ")
    assert len(lines[0]) > len("chat: I go to ") + 12
    assert lines[2].removeprefix("chat-async: ") == lines[0].removeprefix("chat: ")  # same seed, same text
    assert lines[1] == lines[3] == "  [12 tokens, finish_reason length]"
    assert lines[4].startswith("cancelled after 5 tokens: ")
    assert len(lines) == 5


def test_the_readme_shows_what_is_printed(run_example: Run, shown_in_readme: Shown) -> None:
    assert shown_in_readme("streaming", "python examples/streaming/run_example.py", run_example("streaming").stdout)


def test_a_terminated_example_stops_its_server() -> None:
    script = ROOT / "examples" / "streaming" / "run_example.py"
    example = subprocess.Popen(
        [sys.executable, str(script), "--prompt", "the sea", "--seed", str(LONG_SEED), "--max-tokens", "600"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert example.stdout is not None
    with example:
        assert example.stdout.read(6) == "chat: "  # the server is ready and the first answer begins
        (server,) = Path(f"/proc/{example.pid}/task/{example.pid}/children").read_text().split()
        example.terminate()
        assert example.wait(60) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{server}").exists()


def test_a_wrong_parameter_is_told_in_one_line(run_example: Run) -> None:
    result = run_example("streaming", "--max-tokens", "0", status=1)
    assert result.stderr.strip().endswith(
        "the server answered INVALID_ARGUMENT: parameter max_tokens must be an integer from 1 to 100000"
    )


def test_cancelled_requests_free_their_places() -> None:
    from examples._running import client_of

    prompt = {"prompt": np.array([b"the sea"], dtype=object)}
    slow = {"seed": LONG_SEED, "tokens_per_second": 10}
    with client_of("examples.streaming.app:app", None) as client:
        for model in ("chat", "chat-async"):
            # More than may run at once, each with most of a minute to go: any that went on would keep its place.
            for _ in range(12):
                with closing(client.stream(model, prompt, parameters={**slow, "max_tokens": 600})) as responses:
                    assert "token" in next(responses).tensors()
            answered = list(client.stream(model, prompt, parameters={"max_tokens": 4}, timeout=20.0))
            assert len(answered) == 4


class Recorder:
    """A stream that keeps what is sent and cancels after a number of items."""

    def __init__(self, cancellation: threading.Event, limit: int) -> None:
        self.items: list[Any] = []
        self._cancellation, self._limit = cancellation, limit

    def send(self, item: Any) -> None:
        self.items.append(item)
        if len(self.items) == self._limit:
            self._cancellation.set()


def context_with(cancellation: threading.Event) -> Any:
    return SimpleNamespace(cancellation=cancellation)


def tokens_of(items: list[Any]) -> list[str]:
    return [item["token"][0].decode() for item in items]


def test_chat_stops_when_it_is_cancelled() -> None:
    from examples.streaming.app import chat

    cancellation = threading.Event()
    stream: Any = Recorder(cancellation, limit=3)
    chat(asking(max_tokens=50), context_with(cancellation), stream)
    assert len(stream.items) == 3


async def test_both_handlers_give_the_same_tokens() -> None:
    from examples.streaming.app import chat, chat_async

    stream: Any = Recorder(threading.Event(), limit=-1)
    chat(asking(seed=3, max_tokens=20), context_with(threading.Event()), stream)
    generated = [item async for item in chat_async(asking(seed=3, max_tokens=20))]
    assert tokens_of(generated) == tokens_of(stream.items)
    assert generated[-1]["finish_reason"][0] in (b"length", b"stop")
    assert all(item["finish_reason"][0] == b"" for item in generated[:-1])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ModelInferRequest(), "one BYTES tensor `prompt`"),
        (asking(max_tokens=100_001), "max_tokens must be an integer from 1 to 100000"),
        (asking(seed=-1), "seed must be"),
        (asking(tokens_per_second=-5), "tokens_per_second must be"),
    ],
)
def test_bad_requests_are_the_clients_fault(request_: ModelInferRequest, message: str) -> None:
    from examples.streaming.app import Ask

    with pytest.raises(InferenceError, match=message) as raised:
        Ask.of(request_)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_the_model_generates_what_its_text_allows() -> None:
    from examples.streaming.markov import Bigrams

    model = Bigrams("one two one three.\n\none four.")
    allowed = {("one", " two"), (" two", " one"), (" one", " three"), (" three", "."), ("one", " four"), (" four", ".")}
    texts: Counter[str] = Counter()
    for seed in range(50):
        chunks = list(model.generate("", seed=seed, max_tokens=100))
        tokens = [chunk.token for chunk in chunks]
        assert tokens[0] == "one"
        assert set(pairwise(tokens)) <= allowed
        assert chunks[-1].finish_reason == "stop"
        texts["".join(tokens)] += 1
    assert texts.keys() == {"one two one three.", "one four."}


def test_the_model_goes_on_from_the_prompt() -> None:
    from examples.streaming.markov import Bigrams

    model = Bigrams("one two three.")
    assert "".join(chunk.token for chunk in model.generate("say two", seed=0, max_tokens=9)) == " three."
    assert [chunk.finish_reason for chunk in model.generate("say two", seed=0, max_tokens=1)] == ["length"]
    # An unknown word, and one that nothing follows: a paragraph begins.
    for prompt in ("zebra", "two three."):
        assert "".join(chunk.token for chunk in model.generate(prompt, seed=0, max_tokens=9)) == "one two three."
