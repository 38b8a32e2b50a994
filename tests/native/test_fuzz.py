"""Each fuzzer for a few seconds, from the corpus that the golden vectors make. `make fuzz` runs them for longer."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.native_build import ROOT, need, sanitized

FUZZERS = sorted(path.stem for path in (ROOT / "native" / "fuzz").glob("*_fuzz.cpp"))
SECONDS = int(os.environ.get("FUZZ_SECONDS", "5"))


@pytest.mark.timeout(SECONDS + 1200)
@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_fuzz(fuzzer: str) -> None:
    need("clang++")  # whose libFuzzer it is
    directory = sanitized("asan", target="fuzzers")
    seeds = directory / "fuzz" / "seeds" / fuzzer.removesuffix("_fuzz")
    # What is found between runs of `make fuzz` is kept; what has failed stays as a file beside it.
    corpus = ROOT / "build" / "corpus" / fuzzer
    corpus.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [
            *(directory / "fuzz" / fuzzer, f"-max_total_time={SECONDS}", "-rss_limit_mb=2048", "-timeout=10"),
            *(f"-artifact_prefix={corpus.parent}/{fuzzer}-", corpus, seeds),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS + 300,
        check=False,
    )
    print(done.stdout[-500:])
    assert done.returncode == 0, done.stdout[-10_000:]
