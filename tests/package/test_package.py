"""The distributions: what is inside, and that they install and work where there is no compiler.

Every pip and build run here sees a PATH with nothing on it but the Python it runs in, and a C++
compiler that is not there, so the machine's own cannot help. The wheel with the native agent is
the one that tox builds for its other environments.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

# Building and installing download packages, over a line that may be slow.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "proto", "reference", "native")
PROTO_MODULES = ("grpc_predict_v2_pb2", "worker_management_pb2")

USE_OF_PROTO = """
from anyserve._proto import grpc_predict_v2_pb2, worker_management_pb2
request = grpc_predict_v2_pb2.ModelInferRequest(model_name="echo")
assert grpc_predict_v2_pb2.ModelInferRequest.FromString(request.SerializeToString()) == request
assert worker_management_pb2.Worker().DESCRIPTOR.file.pool is request.DESCRIPTOR.file.pool
import anyserve
print(anyserve.__file__)
"""

# What a user's own type check meets: the public names, the generated messages, the attached methods.
TYPED_APP = """
from anyserve import AnyServe, ModelInferRequest, ModelInferResponse
from anyserve._proto import grpc_predict_v2_pb2

app = AnyServe()

@app.capability(type="echo")
def echo(request: ModelInferRequest) -> ModelInferResponse:
    tensor = grpc_predict_v2_pb2.ModelInferResponse.InferOutputTensor(name="out", datatype="INT32", shape=[1])
    response = ModelInferResponse(model_name=request.model_name, outputs=[tensor])
    response.set_tensors(request.tensors())
    return response

name: str = ModelInferRequest().id
wrong: int = ModelInferRequest().id
"""


def run(*command: str | Path, path: Path, cwd: Path) -> str:
    """Runs `command` with nothing but `path` on PATH; its output, or a failure that shows it."""
    hidden = {"CC", "CXX", "PYTHONPATH", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment | {"PATH": str(path), "CXX": "/nowhere/c++"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout


def new_environment(where: Path) -> Path:
    """An empty virtual environment; the path of its bin."""
    venv.create(where, with_pip=True, symlinks=True)
    return where / "bin"


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build needs, so that no test writes into the work tree."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def distributions(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, sources, path=Path(sys.executable).parent, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin of an environment that holds the wheel and its dependencies, and nothing else."""
    where = tmp_path_factory.mktemp("installed")
    path = new_environment(where / "venv")
    run(path / "python", "-m", "pip", "install", wheel, path=path, cwd=where)
    return path


def test_wheel_is_for_every_python_and_platform(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_ships_types_and_generated_modules(wheel: Path) -> None:
    names = set(names_in(wheel))
    generated = {f"anyserve/_proto/{module}{end}" for module in PROTO_MODULES for end in (".py", ".pyi")}
    assert {"anyserve/py.typed", "anyserve/__init__.py"} | generated <= names


def test_wheel_holds_the_package_and_its_licence_only(wheel: Path) -> None:
    names = names_in(wheel)
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in names} == {"anyserve"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".so", ".pyc", ".proto"))]


def test_sdist_holds_the_sources_and_no_generated_code(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"CMakeLists.txt", "LICENSE", "pyproject.toml", "proto/grpc_predict_v2.proto"} <= names
    assert {"native/CMakeLists.txt", "native/src/agent.cpp", "native/include/anyserve/agent.hpp"} <= names
    assert not [name for name in names if "_pb2" in name or name.startswith(("tests", ".ci", "build"))]


def test_installed_wheel_works_without_a_compiler(installed: Path, tmp_path: Path) -> None:
    run(installed / "python", "-m", "pip", "check", path=installed, cwd=tmp_path)
    where = run(installed / "python", "-c", USE_OF_PROTO, path=installed, cwd=tmp_path)
    assert str(installed.parent) in where
    assert "anyserve" in run(installed / "anyserve", "--version", path=installed, cwd=tmp_path)


def test_installed_wheel_types_a_users_app(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "my_app.py").write_text(TYPED_APP)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed / "python", "my_app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(found) == 1, done.stdout + done.stderr
    assert found[0].startswith(f"my_app.py:{TYPED_APP.splitlines().index('wrong: int = ModelInferRequest().id') + 1}:")


def test_editable_install_runs_the_sources(sources: Path, tmp_path: Path) -> None:
    path = new_environment(tmp_path / "venv")
    run(path / "python", "-m", "pip", "install", "--editable", sources, path=path, cwd=tmp_path)
    where = run(path / "python", "-c", USE_OF_PROTO, path=path, cwd=tmp_path)
    assert where.strip() == str(sources / "reference/anyserve/__init__.py")
