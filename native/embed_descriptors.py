"""Writes the C++ file that embeds what server reflection tells: the descriptors of the client port's services.

The standard services go under the names that gRPC gives them. Version v1 of
reflection differs from v1alpha in the package name alone, so both are made of one
file. Run by CMake; needs nothing but the standard library.

Usage: embed_descriptors.py PROTOC PROTO_DIR OUTPUT
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

BYTES_A_LINE = 24
V1ALPHA, V1 = "package grpc.reflection.v1alpha;", "package grpc.reflection.v1;"

SOURCE = """\
// Made by embed_descriptors.py of proto/*.proto.
#include "anyserve/descriptors.hpp"

namespace anyserve {{
namespace {{

constexpr char kDescriptorSet[] =
{lines};

}}  // namespace

std::string_view descriptor_set() noexcept {{ return {{kDescriptorSet, sizeof kDescriptorSet - 1}}; }}

}}  // namespace anyserve
"""


def main(protoc: str, proto_dir: Path, output: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        names = list(_lay_out(proto_dir, root))
        serialized = root / "descriptors.bin"
        subprocess.run([protoc, f"-I{root}", f"--descriptor_set_out={serialized}", *names], check=True)
        output.write_text(SOURCE.format(lines="\n".join(_literals(serialized.read_bytes()))), encoding="ascii")


def _lay_out(proto_dir: Path, root: Path) -> Iterator[str]:
    """Puts the files where their names say, for protoc; yields the names, in the order in which they are embedded."""
    reflection = (proto_dir / "reflection.proto").read_text(encoding="utf-8")
    if reflection.count(V1ALPHA) != 1:
        raise SystemExit(f"reflection.proto: expected {V1ALPHA!r} exactly once")
    texts = {
        "grpc_predict_v2.proto": (proto_dir / "grpc_predict_v2.proto").read_text(encoding="utf-8"),
        "grpc/health/v1/health.proto": (proto_dir / "health.proto").read_text(encoding="utf-8"),
        "grpc/reflection/v1alpha/reflection.proto": reflection,
        "grpc/reflection/v1/reflection.proto": reflection.replace(V1ALPHA, V1),
    }
    for name, text in texts.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        yield name


def _literals(data: bytes) -> Iterator[str]:
    """String literals that the compiler joins; three octal digits end an escape, whatever comes behind them."""
    for start in range(0, len(data), BYTES_A_LINE):
        escaped = "".join(f"\\{byte:03o}" for byte in data[start : start + BYTES_A_LINE])
        yield f'    "{escaped}"'


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
