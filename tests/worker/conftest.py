"""What the tests of workers share; `tests/cli` and `tests/faults` use it too."""

from __future__ import annotations

import sys
from pathlib import Path

# The tests are no package: the files that begin with `_` are found here.
sys.path.insert(0, str(Path(__file__).parent))
