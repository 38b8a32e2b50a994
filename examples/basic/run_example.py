"""Sends one request to each capability of app.py and prints request and answer."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples._running import arguments, client_of, run


def main() -> None:
    options = arguments(__doc__).parse_args()
    with client_of("examples.basic.app:app", options.address) as client:
        text = np.array([b"hello", b"world"], dtype=object)
        print("request  echo    text =", text)
        print("answer   echo    text =", client.infer("echo", {"text": text}).tensors()["text"])

        a, b = np.array([1, 2, 3], dtype=np.float32), np.array([10, 20, 30], dtype=np.float32)
        print("request  add:1   a =", a, " b =", b)
        print("answer   add:1   sum =", client.infer("add", {"a": a, "b": b}, version="1").tensors()["sum"])


if __name__ == "__main__":
    run(main)
