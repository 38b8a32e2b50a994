"""Builds parts of `native/` for tests, each configuration once, in build/native-NAME, and says why it cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["ROOT", "build", "need", "sanitized"]

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 1200
# The fuzzers stand on the same build as the tests: what both need is compiled once.
SANITIZED = {
    "asan": ("ANYSERVE_SANITIZE=address,undefined", "ANYSERVE_FUZZERS=ON"),
    "tsan": ("ANYSERVE_SANITIZE=thread",),
}


def build(name: str, *definitions: str, targets: tuple[str, ...], compiler: str = "c++") -> Path:
    """The directory of a build of `targets`; skips the test where the tools for it are not installed.

    Args:
        name: of the configuration; builds of the same name share what is compiled.
        definitions: for CMake, `ANYSERVE_TESTS=ON`.
        targets: what to build.
        compiler: the C++ compiler's command.

    Raises:
        AssertionError: it does not build.
    """
    need(compiler, "cmake", "ninja", "nanobind")
    directory = ROOT / "build" / f"native-{name}"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    _run(
        *("cmake", "-S", str(ROOT / "native"), "-B", str(directory), "-G", "Ninja"),
        *(f"-DCMAKE_CXX_COMPILER={compiler}", f"-DPython_EXECUTABLE={sys.executable}"),
        f"-Dnanobind_DIR={nanobind_directory()}",
        *(f"-D{definition}" for definition in definitions),
        environment=environment,
    )
    _run("cmake", "--build", str(directory), "--target", *targets, environment=environment)
    return directory


def sanitized(name: str, *definitions: str, target: str) -> Path:
    """The directory of a build of `target` under `asan` (with UBSan) or `tsan`.

    By clang where it is there: its libFuzzer looks for more than our driver does, and g++ takes twice the time.
    """
    return build(
        name,
        *(*SANITIZED[name], "ANYSERVE_TESTS=ON", "ANYSERVE_BINDINGS=ON", *definitions),
        targets=(target,),
        compiler="clang++" if shutil.which("clang++") else "c++",
    )


def need(compiler: str, *modules: str) -> None:
    """Skips the test where something is not installed that a build needs."""
    missing = [tool for tool in (compiler, "pkg-config") if shutil.which(tool) is None]
    missing += [module for module in modules if importlib.util.find_spec(module) is None]
    for header in ("gtest/gtest.h", "nlohmann/json.hpp", "protozero/version.hpp", "nghttp2/nghttp2.h"):
        if not any((Path(prefix) / header).exists() for prefix in ("/usr/include", "/usr/local/include")):
            missing.append(header)
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def nanobind_directory() -> str:
    """Where CMake finds nanobind."""
    shown = subprocess.run(
        [sys.executable, "-m", "nanobind", "--cmake_dir"], capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


def _run(*command: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8_000:]}"
