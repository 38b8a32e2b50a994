"""`python run_with.py MODULE.so ARGUMENTS…`: the command `anyserve`, with the native agent of another build."""

from __future__ import annotations

import importlib.util
import sys

NAME = "anyserve._native"

spec = importlib.util.spec_from_file_location(NAME, sys.argv.pop(1))
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules[NAME] = module
spec.loader.exec_module(module)

from anyserve.__main__ import run  # noqa: E402 (it looks for the module)

run()
