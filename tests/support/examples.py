"""How many examples a property test takes: few, and always the same ones.

With ANYSERVE_EXAMPLES=50 it takes 50 times as many, and others each time.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

__all__ = ["examples"]

MORE = int(os.environ.get("ANYSERVE_EXAMPLES", "1"))


def examples(count: int, **options: Any) -> settings:
    """Settings of a test that takes `count` examples by default; a decorator."""
    return settings(max_examples=count * MORE, derandomize=MORE == 1, deadline=None, **options)
