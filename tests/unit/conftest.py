"""The pure parts of each implementation, for tests of what both must do."""

from __future__ import annotations

import pytest

from support.policies import POLICIES, Policy


@pytest.fixture(params=POLICIES.values(), ids=str, scope="session")
def policy(request: pytest.FixtureRequest) -> Policy:
    """Each implementation's pure parts."""
    found: Policy = request.param
    return found
