"""Chat tokens, streamed one by one: as a handler with a `stream`, and as an async generator.

The text comes from a bigram model of the first chapter of Moby-Dick (loomings.txt).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyserve import AnyServe, Code, Context, InferenceError, ModelInferRequest, Stream, TensorSpec
from examples.streaming.markov import Bigrams, Chunk

MAX_TOKENS = 100_000
INPUTS = [TensorSpec("prompt", "BYTES", (1,))]
OUTPUTS = [TensorSpec("token", "BYTES", (1,)), TensorSpec("finish_reason", "BYTES", (1,))]

app = AnyServe()
model = Bigrams(Path(__file__).with_name("loomings.txt").read_text(encoding="utf-8"))


@app.capability(type="chat", stream=True, inputs=INPUTS, outputs=OUTPUTS)
def chat(request: ModelInferRequest, context: Context, stream: Stream) -> None:
    ask = Ask.of(request)
    for chunk in ask.chunks():
        # Set when the client cancels, goes away or runs out of time: nobody reads the rest.
        if context.cancellation.wait(ask.pause):
            return
        stream.send(tensors_of(chunk))


@app.capability(type="chat", model="chat-async", inputs=INPUTS, outputs=OUTPUTS)
async def chat_async(request: ModelInferRequest) -> AsyncIterator[dict[str, np.ndarray]]:
    ask = Ask.of(request)
    for chunk in ask.chunks():
        await asyncio.sleep(ask.pause)  # a cancelled request ends the generator here or at the yield
        yield tensors_of(chunk)


def tensors_of(chunk: Chunk) -> dict[str, np.ndarray]:
    return {
        "token": np.array([chunk.token.encode()], dtype=object),
        "finish_reason": np.array([chunk.finish_reason.encode()], dtype=object),
    }


@dataclass(frozen=True, slots=True)
class Ask:
    """What the client asked for: a prompt, and the parameters `seed`, `max_tokens` and `tokens_per_second`."""

    prompt: str
    seed: int
    max_tokens: int
    pause: float  # seconds between tokens

    @classmethod
    def of(cls, request: ModelInferRequest) -> "Ask":
        prompt = request.tensors().get("prompt")
        if prompt is None or prompt.shape != (1,) or not isinstance(prompt[0], bytes):
            raise InferenceError(Code.INVALID_ARGUMENT, "chat takes one BYTES tensor `prompt` of shape [1]")
        seed = _integer(request, "seed", default=0, least=0, most=2**63 - 1)
        max_tokens = _integer(request, "max_tokens", default=64, least=1, most=MAX_TOKENS)
        rate = _integer(request, "tokens_per_second", default=0, least=0, most=1000)
        return cls(prompt[0].decode(errors="replace"), seed, max_tokens, 1 / rate if rate else 0.0)

    def chunks(self) -> Iterator[Chunk]:
        return model.generate(self.prompt, seed=self.seed, max_tokens=self.max_tokens)


def _integer(request: ModelInferRequest, name: str, *, default: int, least: int, most: int) -> int:
    if name not in request.parameters:
        return default
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = int(parameter.uint64_param if kind == "uint64_param" else parameter.int64_param)
    if kind not in ("int64_param", "uint64_param") or not least <= value <= most:
        raise InferenceError(Code.INVALID_ARGUMENT, f"parameter {name} must be an integer from {least} to {most}")
    return value
