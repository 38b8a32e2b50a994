"""Sends files as one batch and prints what each of them is."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples._running import ROOT, arguments, client_of, require, run

FILES = [
    "pyproject.toml",
    "proto/worker_management.proto",
    "examples/file_type/app.py",
    "LICENSE",
    "examples/voice/sample.wav",
]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("file", nargs="*", type=Path, help="files to look at (default: some of this repository)")
    options = parser.parse_args()
    paths = options.file or [ROOT / name for name in FILES]
    try:
        contents = [path.read_bytes() for path in paths]
    except OSError as error:
        parser.error(str(error))
    if options.address is None:
        require("magika")

    with client_of("examples.file_type.app:app", options.address) as client:
        print(f"request  {len(contents)} files, {sum(map(len, contents))} bytes")
        batch = np.array(contents, dtype=object)
        answer = client.infer({"type": "file-type"}, {"content": batch}).tensors()
        for path, label, score in zip(paths, answer["label"], answer["score"], strict=True):
            print(f"answer   {label.decode():<12} {score:.3f}  {path.name}")


if __name__ == "__main__":
    run(main)
