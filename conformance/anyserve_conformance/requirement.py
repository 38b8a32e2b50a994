"""What a case declares, and the requirements that it can name."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import pytest

from anyserve_conformance.paths import data
from anyserve_conformance.vectors import Vector

__all__ = ["NotApplicable", "Requirement", "catalogue", "not_applicable", "requirement", "skipped", "vector_cases"]

Skipped: Any = pytest.skip.Exception
Case = TypeVar("Case", bound=Callable[..., Any])


@dataclass(frozen=True)
class Requirement:
    """One sentence of the specification."""

    name: str
    sentence: str
    duty: str
    keyword: str
    page: str

    @property
    def area(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


@functools.cache
def catalogue() -> Mapping[str, Requirement]:
    """All requirements by name, in the order of the specification."""
    entries = json.loads(data("requirements.json").read_text(encoding="utf-8"))["requirements"]
    return {entry["name"]: Requirement(**entry) for entry in entries}


def requirement(*names: str, look_at: str = "", needs: Mapping[str, object] | None = None) -> Callable[[Case], Case]:
    """Marks a case with the requirements that it checks, the main one first.

    Args:
        look_at: the rest of "if this fails, look at …"; the module's LOOK_AT where it is not given.
        needs: option values that the agent must have for it, such as `{"queue-size": 2}`.
    """

    def decorate(case: Case) -> Case:
        marked: Case = _mark(names, look_at, needs)(case)
        return marked

    return decorate


def vector_cases(
    vectors: Iterable[Vector], *, look_at: str = "", needs: Mapping[str, object] | None = None
) -> list[Any]:
    """Parameters for a case that is run once for each golden vector, under the vector's requirement.

    Raises:
        ValueError: there are none.
    """
    cases = [pytest.param(v, id=v.name, marks=_mark((v.requirement,), look_at, needs)) for v in vectors]
    if not cases:
        raise ValueError("no vectors were chosen")
    return cases


def _mark(names: tuple[str, ...], look_at: str, needs: Mapping[str, object] | None) -> pytest.MarkDecorator:
    return pytest.mark.requirement(*names, look_at=look_at, needs=dict(needs or {}))


class NotApplicable(Skipped):  # type: ignore[misc]
    """The case asks for something that this subject need not have."""


def not_applicable(why: str) -> NoReturn:
    """Ends a case: what it checks does not exist on this subject."""
    raise NotApplicable(why, _use_item_location=True)


def skipped(why: str) -> NoReturn:
    """Ends a case: it could be checked if the suite were run otherwise, as `why` says."""
    raise Skipped(why, _use_item_location=True)
