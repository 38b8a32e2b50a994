"""The command `anyserve-conformance`: the suite without pytest's own command line, and what is done with reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from anyserve_conformance import __version__, extract
from anyserve_conformance.paths import CASES
from anyserve_conformance.results import COULD_NOT

__all__ = ["main"]

COMMANDS = """\
usage: anyserve-conformance (--target HOST:PORT | --launch COMMAND | --worker COMMAND | --list) [options]
       anyserve-conformance matrix REPORT.jsonl ... -o PAGE.html
       anyserve-conformance requirements SPEC_DIRECTORY (-o FILE | --check FILE)
       anyserve-conformance coverage (-o FILE | --check FILE)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite, or a command; returns the exit status: 0 conforms, 1 does not, 2 could not find out."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"matrix": _matrix, "requirements": _requirements, "coverage": _coverage}
    if words and words[0] in commands:
        return commands[words[0]](words[1:])
    if words in (["--version"], ["-V"]):
        print(f"anyserve-conformance {__version__}")
        return 0
    if not words or {"-h", "--help"} & {*words}:
        print(COMMANDS)
        print(_options_help())
        return 0 if words else COULD_NOT
    return _run(words)


def _run(words: Sequence[str]) -> int:
    # The user's own pytest configuration and conftest files are none of the suite's business.
    own = ["-c", str(CASES.parent / "suite.ini"), "--rootdir", str(CASES), "--noconftest", "-q", "--no-header"]
    status = pytest.main([*own, "-p", "anyserve_conformance.plugin", str(CASES), *words])
    return COULD_NOT if status == pytest.ExitCode.USAGE_ERROR else int(status)


def _options_help() -> str:
    from anyserve_conformance.plugin import FLAGS, LISTS  # noqa: PLC0415 - only for the help

    lines = ["options:"]
    for flag, metavar, text in (*FLAGS, *LISTS):
        lines.append(f"  {f'{flag} {metavar}':<26} {text}")
    lines.append(f"  {'--list':<26} lists the cases; touches no target")
    lines.append(f"  {'--strict':<26} counts failed SHOULDs")
    lines.append(f"  {'--patience FACTOR':<26} stretches all waits (default 1)")
    lines.append("exit status: 0 conforms, 1 does not, 2 the suite could not do its work")
    lines.append("further options, such as -k, -x, -v and -n, are those of pytest")
    return "\n".join(lines)


def _matrix(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("anyserve-conformance matrix", description="One page from several reports.")
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT.jsonl")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="PAGE.html")
    given = parser.parse_args(words)
    from anyserve_conformance.report.matrix import merge  # noqa: PLC0415 - jinja2 is loaded only for pages

    try:
        merge(given.reports, given.output)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return COULD_NOT
    return 0


def _output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it there")
    group.add_argument("--check", type=Path, metavar="FILE", help="fail if it is not what stands there")


def _write_or_check(text: str, given: argparse.Namespace, command: str) -> int:
    if given.output is not None:
        given.output.write_text(text, encoding="utf-8")
        return 0
    if given.check.exists() and given.check.read_text(encoding="utf-8") == text:
        return 0
    print(f"{given.check} is out of date: run {command}", file=sys.stderr)
    return 1


def _requirements(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("anyserve-conformance requirements", description="Extracts the requirements.")
    parser.add_argument("directory", type=Path, metavar="SPEC_DIRECTORY")
    _output(parser)
    given = parser.parse_args(words)
    try:
        text = extract.render(extract.extract(given.directory))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return COULD_NOT
    return _write_or_check(text, given, f"anyserve-conformance requirements {given.directory} -o {given.check}")


def _coverage(words: Sequence[str]) -> int:
    from anyserve_conformance import coverage  # noqa: PLC0415 - collects all cases

    parser = argparse.ArgumentParser("anyserve-conformance coverage", description="Requirement -> cases.")
    _output(parser)
    given = parser.parse_args(words)
    try:
        text = coverage.page()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return _write_or_check(text, given, f"anyserve-conformance coverage -o {given.check}")


if __name__ == "__main__":
    sys.exit(main())
