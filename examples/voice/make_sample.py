"""Makes sample.wav: three sentences by two voices of flite, with silence around them.

Needs `flite` (Debian: apt-get install flite). The example itself does not.
"""

import subprocess
import tempfile
import wave
from pathlib import Path

SENTENCES = [
    ("slt", "Any process can serve a capability."),
    ("rms", "Speech is found as the file is read."),
    ("slt", "This is the end."),
]
RATE = 16_000
SILENCE = bytes(2 * RATE * 6 // 10)  # 0.6 s


def spoken(voice: str, text: str) -> bytes:
    """The PCM of one sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)  # noqa: S607
        with wave.open(str(path), "rb") as wav:
            return wav.readframes(wav.getnframes())


def main() -> None:
    with wave.open(str(Path(__file__).with_name("sample.wav")), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(RATE)
        wav.writeframes(SILENCE)
        for voice, text in SENTENCES:
            wav.writeframes(spoken(voice, text) + SILENCE)


if __name__ == "__main__":
    main()
