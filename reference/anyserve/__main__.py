"""`python -m anyserve`, and the command `anyserve`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from anyserve.cli import main

__all__ = ["run"]


def run() -> None:
    """Runs the command line, and ends the process.

    Not by the interpreter's own end: objects of grpc that are collected there wait now
    and then for threads that have ended already, and the process would never do.
    """
    try:
        main(prog_name="anyserve")
    except SystemExit as ended:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed by whoever read it
                stream.flush()
        if ended.code is None or isinstance(ended.code, int):
            os._exit(ended.code or 0)
        raise


if __name__ == "__main__":
    run()
