"""Runs a module of anyserve with one mutation: `run_mutant.py NAME MODULE ARGUMENTS…`.

The mutant's text replaces what stands in a source file when that module is imported.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parent))
from mutants import MUTANTS, Mutant


class MutatingLoader(SourceFileLoader):
    """Loads a module from its source with a mutation, past any cached bytecode."""

    mutant: Mutant

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        source = self.mutant.applied(Path(self.path).read_text(encoding="utf-8"))
        return compile(source, self.path, "exec")


class MutatingFinder(MetaPathFinder):
    """Finds the one module that is mutated."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise ImportError(f"{fullname} has no source to mutate")
        loader = MutatingLoader(fullname, spec.origin)
        loader.mutant = self._mutant
        spec.loader = loader
        return spec


if __name__ == "__main__":
    name, module, *arguments = sys.argv[1:]
    if name != "none":
        sys.meta_path.insert(0, MutatingFinder(MUTANTS[name]))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
