"""Have the pure parts become slower? Instruction counts of this tree against those of a base, by pytest-benchmark.

Usage: compare.py BASE [--limit PERCENT] [pytest's options, such as -k native]. BASE is a git ref, which is checked out
and measured, or another tree, or a file of counts that an earlier run has left. Run by `make bench-compare BASE=...`.

Exit status 1 if a part takes more instructions than the base and the limit allow. Counts of this tree are left in
build/bench-compare/this.json, those of a base in base.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pytest_benchmark.session import PerformanceRegression

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def main(arguments: Sequence[str]) -> int:
    """Measures what has to be, compares, and returns the exit status."""
    parser = argparse.ArgumentParser(description="Compares instruction counts of the pure parts with those of a base.")
    parser.add_argument("base", metavar="BASE", help="a git ref, a tree, or a file of counts")
    parser.add_argument("--limit", type=int, default=2, metavar="PERCENT", help="growth that is let pass [2]")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "bench-compare", help="for all it leaves")
    chosen, options = parser.parse_known_args(arguments)
    directory, given = chosen.directory.resolve(), Path(chosen.base).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    base = directory / "base.json"
    if given.is_file():
        if given != base:
            shutil.copy(given, base)  # it may be this.json, which is written anew
    elif failed := measured(given if given.is_dir() else checked_out(chosen.base, directory / "base"), base, *options):
        return failed
    os.chdir(ROOT)  # pytest-benchmark shows the base's path as it is given
    growth = (f"--benchmark-compare={os.path.relpath(base)}", f"--benchmark-compare-fail=min:{chosen.limit}%")
    try:
        return pytest.main([*pytest_options(directory / "this.json"), *growth, *options])
    except PerformanceRegression:  # pytest-benchmark has said which
        return 1


def checked_out(ref: str, tree: Path) -> Path:
    """Has a tree of that ref; what has not changed since it was there before keeps its time, and so its build."""
    if (tree / ".git").exists():
        command = ["git", "-C", str(tree), "checkout", "--quiet", "--detach", ref]
    else:
        command = ["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--force", "--detach", str(tree), ref]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{ref} is no git ref, no directory and no file of counts")
    return tree


def measured(tree: Path, counts: Path, *options: str) -> int:
    """Counts the parts of a tree, in a pytest of its own; its exit status."""
    command = [sys.executable, "-m", "pytest", "--quiet", "--benchmark-quiet", *pytest_options(counts), *options]
    return subprocess.run(command, env=os.environ | {"BENCH_TREE": str(tree)}, cwd=ROOT, check=False).returncode


def pytest_options(counts: Path) -> list[str]:
    """What is measured, where the counts are written, and how they are shown."""
    columns = ["--benchmark-columns=min", "--benchmark-sort=fullname", "--benchmark-group-by=fullname"]
    return [str(HERE), "--benchmark-only", f"--benchmark-json={counts}", *columns]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
