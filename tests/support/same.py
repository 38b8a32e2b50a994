"""What two implementations do with the same, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from support.policies import Policy

__all__ = ["same"]


def same(policies: Iterable[Policy], act: Callable[[Policy], Any], *, words: bool = True) -> Any:
    """Does something with each implementation; what comes of it, which must be the same.

    Args:
        policies: the implementations.
        act: what to do with one.
        words: a refusal must be told in the same words, not only by the same exception.

    Raises:
        AssertionError: the results or the refusals differ.
    """
    first, *others = ((policy, _outcome(act, policy, words)) for policy in policies)
    for policy, outcome in others:
        assert outcome == first[1], f"{policy}: {outcome}\n{first[0]}: {first[1]}"
    return first[1][1]


def _outcome(act: Callable[[Policy], Any], policy: Policy, words: bool) -> tuple[str, Any]:
    refusals = tuple(getattr(policy, name) for name in _REFUSALS)
    try:
        return "result", act(policy)
    except refusals as refusal:
        return type(refusal).__name__, str(refusal) if words else None


_REFUSALS = (
    "InvalidCapability",
    "InvalidQuery",
    "RegistryFull",
    "QueueFull",
    "NothingLeft",
    "FrameTooLong",
    "MalformedMessage",
)
