"""`pytest conformance` from a clone: the plugin is the suite's own, and is found whatever pytest takes for its root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

pytest_plugins = ["anyserve_conformance.plugin"]
