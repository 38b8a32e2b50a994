"""The servers that are measured: how each is started, asked, and why in that way."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.environments import SERVERS, messages
from benchmarks.peers.questions import Form, http_base64, http_octets, kserve_grpc
from benchmarks.subjects import ROOT, free_port

__all__ = ["PEERS", "Command", "Peer", "Start", "chosen"]

CONFORMANCE = ROOT / "tests" / "conformance" / "third_party"


@dataclass(frozen=True, slots=True)
class Start:
    """What a server is started with.

    Args:
        environment: where its Python is.
        port: where it is to listen.
        model: `echo` or `magika`.
        directory: to run in; of its own, and of a short path.
    """

    environment: Path
    port: int
    model: str
    directory: Path

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python")


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, and changes to the environment of the process."""

    arguments: list[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """A server.

    Args:
        name: in the tables.
        home: of its files under servers/, and its name in BENCH_PEERS.
        distribution: whose version is told.
        form: how it is asked.
        command: starts it with one model.
        note: what a reader needs to know to judge.
        models: what it is measured with.
    """

    name: str
    home: str
    distribution: str
    form: Form
    command: Callable[[Start], Command]
    note: str
    models: tuple[str, ...] = ("echo", "magika")

    @property
    def foreign(self) -> bool:
        """Whether it gets an environment of its own; what is ours, or written by hand, runs in the benchmark's."""
        return (SERVERS / self.home / "requirements.txt").exists()


def _anyserve(impl: str) -> Callable[[Start], Command]:
    apps = {"echo": f"{SERVERS}/anyserve|echo:app", "magika": f"{ROOT}|examples.file_type.app:app"}

    def command(start: Start) -> Command:
        directory, _, app = apps[start.model].partition("|")
        return _agent(start, impl, directory, app)

    return command


def _anyserve_batched(start: Start) -> Command:
    return _agent(start, "native", f"{SERVERS}/anyserve", "file_types_batched:app")


def _agent(start: Start, impl: str, app_directory: str, app: str) -> Command:
    options = [f"--impl={impl}", "--host=127.0.0.1", f"--port={start.port}", "--management-port=0", "--workers=1"]
    options += [f"--socket-dir={start.directory}", f"--app-dir={app_directory}"]
    return Command([sys.executable, "-m", "anyserve", app, *options], _path(SERVERS / "shared"))


def _grpcio(kind: str) -> Callable[[Start], Command]:
    def command(start: Start) -> Command:
        script = SERVERS / "grpcio" / "kserve_echo.py"
        return Command([sys.executable, str(script), str(start.port), kind], _path(messages()))

    return command


def _triton(repository: str) -> Callable[[Start], Command]:
    def command(start: Start) -> Command:
        site = next((start.environment / "lib").glob("python3.*/site-packages"))
        server = site / "pytriton" / "tritonserver"
        # The wheel has a stub for each Python, and its server looks for one beside the backend.
        stub = server / "python_backend_stubs" / "{}.{}".format(*sys.version_info[:2]) / "triton_python_backend_stub"
        shutil.copy(stub, server / "backends" / "python")
        options = [
            f"--model-repository={SERVERS / 'triton' / repository}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",  # which would start the Python of each model twice
            f"--load-model={start.model}",
            f"--backend-directory={server / 'backends'}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={start.port}",
            "--allow-http=false",
            "--allow-metrics=false",
        ]
        # The stub embeds the libpython that it finds, and that one finds the environment by the python on PATH.
        libraries = os.pathsep.join([str(site / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))])
        path = f"{start.environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        env = {"LD_LIBRARY_PATH": libraries, "PATH": path, **_path(SERVERS / "shared")}
        return Command([str(server / "bin" / "tritonserver"), *options], env)

    return command


def _mlserver(start: Start) -> Command:
    home = SERVERS / "mlserver" / start.model
    env = {
        "MLSERVER_GRPC_PORT": str(start.port),
        "MLSERVER_HTTP_PORT": str(free_port()),
        **_path(CONFORMANCE / "mlserver_identity", home, SERVERS / "shared"),
    }
    return Command([str(start.environment / "bin" / "mlserver"), "start", str(home)], env)


def _kserve(start: Start) -> Command:
    script = SERVERS / "kserve" / "serve.py"
    env = _path(CONFORMANCE / "kserve_identity", SERVERS / "shared")
    return Command([start.python, str(script), str(start.port), str(free_port()), start.model], env)


def _mosec(suffix: str) -> Callable[[Start], Command]:
    def command(start: Start) -> Command:
        options = ["--address=127.0.0.1", f"--port={start.port}", "--log-level=warning", "--timeout=60000"]
        options.append(f"--path={start.directory}/mosec")
        script = str(SERVERS / "mosec" / "serve.py")
        return Command([start.python, script, start.model + suffix, *options], _path(SERVERS / "shared"))

    return command


def _ray(start: Start) -> Command:
    script = str(SERVERS / "ray" / "run.py")
    env = {"RAY_USAGE_STATS_ENABLED": "0", **_path(messages(), SERVERS / "ray", SERVERS / "shared")}
    arguments = [str(start.port), str(free_port()), str(start.directory), start.model]
    return Command([start.python, script, *arguments], env)


def _litserve(start: Start) -> Command:
    script = str(SERVERS / "litserve" / "serve.py")
    return Command([start.python, script, str(start.port), start.model], _path(SERVERS / "shared"))


def _bentoml(start: Start) -> Command:
    service = f"service:{start.model.title()}"
    options = [f"--port={start.port}", "--host=127.0.0.1", f"--working-dir={SERVERS / 'bentoml'}"]
    env = {"BENTOML_DO_NOT_TRACK": "True", **_path(SERVERS / "shared")}
    return Command([str(start.environment / "bin" / "bentoml"), "serve", service, *options], env)


def _path(*directories: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(map(str, directories))}


GRPC = kserve_grpc()
PEERS = (
    Peer("native", "native", "anyserve", GRPC, _anyserve("native"), "C++ agent, one Python worker"),
    Peer(
        "native, batched",
        "native",
        "anyserve",
        GRPC,
        _anyserve_batched,
        "the same with Batch(max_size=32, max_wait_ms=5)",
        ("magika",),
    ),
    Peer("reference", "reference", "anyserve", GRPC, _anyserve("reference"), "agent in Python, one Python worker"),
    Peer("grpc.aio", "grpc_aio", "grpcio", GRPC, _grpcio("aio"), "written by hand, one process", ("echo",)),
    Peer(
        "grpcio threads",
        "grpc_threads",
        "grpcio",
        GRPC,
        _grpcio("threads"),
        "by hand, 10 threads, one process",
        ("echo",),
    ),
    Peer(
        "triton",
        "triton",
        "nvidia-pytriton",
        GRPC,
        _triton("plain"),
        "Triton 2.51 with its Python backend, one instance; HTTP and metrics off",
    ),
    Peer(
        "triton, batched",
        "triton",
        "nvidia-pytriton",
        kserve_grpc(batch_axis=True),
        _triton("batched"),
        "dynamic batching: at most 32, 5 ms",
        ("magika",),
    ),
    Peer(
        "mlserver",
        "mlserver",
        "mlserver",
        GRPC,
        _mlserver,
        "parallel_workers=0: one process, less than the default; metrics off; echo hands on the "
        "lists that MLServer decodes to",
    ),
    Peer("kserve", "kserve", "kserve", GRPC, _kserve, "one worker; log of latencies off"),
    Peer("mosec", "mosec", "mosec", http_octets("/inference"), _mosec(""), "one worker"),
    Peer(
        "mosec, batched",
        "mosec",
        "mosec",
        http_octets("/inference"),
        _mosec("_batched"),
        "max_batch_size=32, max_wait_time=5",
        ("magika",),
    ),
    Peer("ray", "ray", "ray", GRPC, _ray, "one replica behind Ray Serve's gRPC proxy; no dashboard, no access log"),
    Peer(
        "litserve",
        "litserve",
        "litserve",
        http_octets("/predict"),
        _litserve,
        "one API server, one worker; fast_queue; bodies as FastAPI's bytes instead of JSON",
    ),
    Peer(
        "bentoml", "bentoml", "bentoml", http_base64(), _bentoml, "workers=1; access log off; it has no gRPC any more"
    ),
)


def chosen(model: str) -> list[Peer]:
    """Those that are measured with a model: BENCH_PEERS names some, by their homes; `native` always is."""
    names = os.environ.get("BENCH_PEERS", "").split(",")
    unknown = {name for name in names if name} - {peer.home for peer in PEERS}
    assert not unknown, f"BENCH_PEERS: {', '.join(sorted(unknown))}: not among {sorted({peer.home for peer in PEERS})}"
    return [
        peer
        for peer in PEERS
        if model in peer.models and (not any(names) or peer.home in names or peer.home == "native")
    ]
