"""Runs the suite on the reference agent and the Python worker again and again: do the verdicts stay the same?

Usage: repeat.py [--times 20] [--load] [--patience FACTOR]. With --load both cores are busy with something else.
Prints a line a run, then every case whose verdict was not the same each time. Exit status 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from support.suite import AGENT, ROOT, cases, run  # noqa: E402

WORKER = f"{sys.executable} -m anyserve.worker worker_app:app --app-dir {ROOT / 'tests' / 'conformance'}"
SUBJECTS = (
    ("--launch", AGENT),
    ("--worker", f"{WORKER} --management {{management}} --socket-dir {{socket_dir}}"),
)
BUSY = "while True: pass"


def one_run(patience: str) -> dict[str, str]:
    """Case -> outcome, of all profiles."""
    verdicts = {}
    for flag, command in SUBJECTS:
        with tempfile.TemporaryDirectory() as directory:
            run("conformance", flag, command, "--patience", patience, "--report", directory, "-q")
            verdicts.update({record["id"]: record["outcome"] for record in cases(Path(directory))})
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--load", action="store_true", help="keeps every core busy meanwhile")
    parser.add_argument("--patience", default="1")
    given = parser.parse_args()
    burners = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1) if given.load]
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        for number in range(1, given.times + 1):
            started = time.monotonic()
            verdicts = one_run(given.patience)
            for case, outcome in verdicts.items():
                seen[case][outcome] += 1
            counts = ", ".join(f"{n} {outcome}" for outcome, n in Counter(verdicts.values()).items())
            print(f"run {number}: {time.monotonic() - started:.0f} s, {counts}", flush=True)
    finally:
        for burner in burners:
            burner.kill()
    unsteady = {case: outcomes for case, outcomes in seen.items() if len(outcomes) > 1}
    for case, outcomes in unsteady.items():
        print(f"{case}: {dict(outcomes)}")
    print(f"{len(seen)} cases, {len(unsteady)} of them not the same in every run")
    return 1 if unsteady else 0


if __name__ == "__main__":
    sys.exit(main())
