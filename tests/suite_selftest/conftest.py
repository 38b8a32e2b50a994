"""Modules of this directory, and the suite, are imported by their names; nothing needs to be installed."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "conformance")]
