"""A virtual environment for each peer, made when it is first wanted and kept for the next run."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from benchmarks.subjects import ROOT

__all__ = ["DIRECTORY", "SERVERS", "NotInstalled", "environment", "messages", "version"]

DIRECTORY = ROOT / "build" / "peers"
SERVERS = Path(__file__).with_name("servers")
PROTO = ROOT / "proto"
INSTALL_SECONDS = 1800


class NotInstalled(Exception):
    """An environment could not be made. Its text is what pip said last."""


def environment(name: str, say: Callable[[str], None]) -> Path:
    """The directory of a peer's environment, with what its requirements.txt asks for.

    Args:
        name: of the peer, and of its directory under servers/.
        say: takes a line that tells how far it is.

    Raises:
        NotInstalled: pip failed.
    """
    place = DIRECTORY / name
    wanted = f"{sys.version}\n{_digest(SERVERS / name / 'requirements.txt')}\n"
    stamp = place / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"{name}: installing into {(place / 'venv').relative_to(ROOT)} …")
        began = time.monotonic()
        _install(place, SERVERS / name / "requirements.txt")
        stamp.write_text(wanted)
        say(f"{name}: installed in {time.monotonic() - began:.0f} s")
    return place / "venv"


def messages() -> Path:
    """Where `grpc_predict_v2_pb2` is, as anybody generates it; anyserve's own belongs to its package."""
    place = DIRECTORY / "proto"
    place.mkdir(parents=True, exist_ok=True)
    protoc = Path(sys.executable).with_name("protoc")
    subprocess.run([protoc, f"-I{PROTO}", f"--python_out={place}", "grpc_predict_v2.proto"], check=True)
    return place


def version(environment_: Path, distribution: str) -> str:
    """Of what is installed in an environment."""
    (found,) = metadata.distributions(
        name=distribution, path=list(map(str, environment_.glob("lib/python*/site-packages")))
    )
    return found.version


def _install(place: Path, requirements: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place / "venv", with_pip=False)
    pip = [sys.executable, "-m", "pip", f"--python={place / 'venv' / 'bin' / 'python'}", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--progress-bar=off", "-r", requirements],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    (place / "install.log").write_text(done.stdout)
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.startswith("ERROR")] or done.stdout.splitlines()
        raise NotInstalled(said[-1] if said else f"pip ended with {done.returncode}")


def _digest(requirements: Path) -> str:
    """Of a requirements file and of those that it includes."""
    digest = hashlib.sha256(requirements.read_bytes())
    for line in requirements.read_text().splitlines():
        if line.startswith("-r "):
            digest.update(_digest(requirements.parent / line.removeprefix("-r ")).encode())
    return digest.hexdigest()
