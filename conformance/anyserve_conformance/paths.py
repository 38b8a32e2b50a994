"""Where the suite's data is: inside the installed package, or beside it in a clone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CASES", "data"]

_PACKAGE = Path(__file__).parent
CASES = _PACKAGE / "cases"


def data(name: str) -> Path:
    """The path of `requirements.json`, `proto`, `vectors` or `untested.md`.

    Raises:
        FileNotFoundError: the installation lacks it.
    """
    for directory in (_PACKAGE, _PACKAGE.parent):
        if (path := directory / name).exists():
            return path
    raise FileNotFoundError(f"{name} is missing from {_PACKAGE} and {_PACKAGE.parent}: install the suite again")
