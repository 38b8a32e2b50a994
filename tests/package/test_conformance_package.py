"""The conformance suite stands alone: where anyserve is not installed, as a distribution and from a clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyserve_conformance.launch import reserved_ports

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
CONFORMANCE = ROOT / "conformance"
CONTROL = ROOT / "tests" / "conformance" / "control_server.py"
CHOSEN = ("--profile", "kserve-core", "--model", "identity=INPUT0:FP32:4", "--requirement", "serving.infer.*")


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """Runs a command outside of any environment of anyserve's; its output."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == status, f"exit status {done.returncode}: {command}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody has who takes only the suite out of a clone; `proto` is a link in the repository."""
    directory = tmp_path_factory.mktemp("clone") / "conformance"
    shutil.copytree(CONFORMANCE, directory, ignore=shutil.ignore_patterns("__pycache__", "build", "dist"))
    return directory


@pytest.fixture(scope="module")
def python(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with what requirements.txt names."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-r", clone / "requirements.txt", cwd=directory)
    run(python, "-c", "import anyserve", cwd=directory, status=1)
    return python


@pytest.fixture(scope="module")
def installed(python: Path, clone: Path) -> Path:
    """The command, of the distribution in that environment."""
    run(python, "-m", "pip", "install", "-q", clone, cwd=python.parent)
    return python.parent / "anyserve-conformance"


@pytest.fixture(scope="module")
def target(python: Path) -> Iterator[str]:
    """The address of a server in that environment."""
    with reserved_ports(1) as (port,):
        process = subprocess.Popen([python, CONTROL, "--port", str(port)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("serving on ")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def test_from_a_clone(python: Path, clone: Path, target: str) -> None:
    output = run(python, "-m", "pytest", "conformance", "--target", target, *CHOSEN, cwd=clone.parent)
    assert f"{target} conforms" in output


def test_as_a_distribution(installed: Path, target: str, tmp_path: Path) -> None:
    output = run(installed, "--target", target, *CHOSEN, "--report", tmp_path / "report", cwd=tmp_path)
    assert f"{target} conforms" in output
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.jsonl", "report.html", "junit.xml"}
    page = tmp_path / "matrix.html"
    run(installed, "matrix", tmp_path / "report" / "report.jsonl", "-o", page, cwd=tmp_path)
    assert "<!doctype html>" in page.read_text(encoding="utf-8").lower()


def test_its_catalogue(installed: Path, tmp_path: Path) -> None:
    lines = run(installed, "--list", cwd=tmp_path).splitlines()
    assert sum(line.count("\t") == 4 for line in lines) > 1_000


def test_a_dead_target(installed: Path, tmp_path: Path) -> None:
    output = run(installed, "--target", "127.0.0.1:1", cwd=tmp_path, status=2)
    assert "127.0.0.1:1" in output
    assert len(output.splitlines()) == 1


def test_a_bad_flag(installed: Path, tmp_path: Path) -> None:
    run(installed, "--no-such-flag", cwd=tmp_path, status=2)


def test_wheel_and_sdist(clone: Path, tmp_path: Path) -> None:
    """The wheel that is built from the sdist has the data that a clone has beside the package."""
    run(sys.executable, "-m", "build", "--outdir", tmp_path, clone, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("requirements.json", "untested.md", "suite.ini", "proto/grpc_predict_v2.proto", "vectors/frames.json"):
        assert f"anyserve_conformance/{name}" in names, f"{name} is not in the wheel"
    assert not any(name.startswith("anyserve/") for name in names)


def test_imports_nothing_of_anyserve() -> None:
    sources = list((CONFORMANCE / "anyserve_conformance").rglob("*.py"))
    assert len(sources) > 50
    for source in sources:
        for line in source.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].partition(".")[0] != "anyserve", f"{source}: {line}"


def test_requirements_are_those_of_the_distribution() -> None:
    project = tomllib.loads((CONFORMANCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (CONFORMANCE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line for line in lines if line and not line.startswith("#")) == sorted(project["dependencies"])
