"""Certificates for tests, made on the spot by the `openssl` command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Identity", "issue"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, as PEM files."""

    cert: str
    key: str


def issue(directory: Path, name: str, issuer: Identity | None = None) -> Identity:
    """Makes a certificate for `localhost` and 127.0.0.1, signed by the issuer; without one, that of an authority."""
    made = Identity(str(directory / f"{name}.crt"), str(directory / f"{name}.key"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", made.key, "-out", made.cert]
    if issuer is not None:
        command += ["-CA", issuer.cert, "-CAkey", issuer.key, "-addext", "basicConstraints=critical,CA:FALSE"]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return made
