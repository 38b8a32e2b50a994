"""Both implementations in one test. Where an installation has but one of them there is nothing to compare."""

from __future__ import annotations

import pytest

from support.policies import POLICIES, Policy


@pytest.fixture(scope="session")
def both() -> tuple[Policy, Policy]:
    """The pure parts of the reference and of the native agent."""
    if "native" not in POLICIES:
        pytest.skip("anyserve._native is not installed: it was built without a compiler")
    return POLICIES["reference"], POLICIES["native"]
