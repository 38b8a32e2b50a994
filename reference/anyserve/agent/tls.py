"""The files of TLS on the client port: read, checked and handed to gRPC. gRPC itself tells little of what is wrong."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from anyserve.agent.config import TlsFileError

__all__ = ["server_credentials"]

NO_CERTIFICATE = "there is no certificate in PEM format in it"
NO_KEY = "there is no private key in PEM format in it"
PASSPHRASE = "it has a passphrase: give a key without one"  # noqa: S105 (says what is wrong)


def server_credentials(cert: str, key: str, client_ca: str | None) -> grpc.ServerCredentials:
    """What gRPC needs to serve by TLS. It takes TLS 1.2 and later, and clients that offer `h2` by ALPN.

    Args:
        cert: PEM file of the server's certificate, and those between it and its root.
        key: PEM file of its private key.
        client_ca: PEM file of those whose certificates clients have to show; None: clients need none.

    Raises:
        TlsFileError: a file cannot be read, or is not what it should be.
    """
    chain, private_key = _read("--tls-cert", cert), _read("--tls-key", key)
    roots = None if client_ca is None else _read("--tls-client-ca", client_ca)
    _check_certificates("--tls-cert", cert)
    _check_key(cert, key)
    if client_ca is not None:
        _check_certificates("--tls-client-ca", client_ca)
    return grpc.ssl_server_credentials([(private_key, chain)], roots, require_client_auth=roots is not None)


def _read(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsFileError(f"{option} {path}: {error.strerror}") from error


def _check_certificates(option: str, path: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsFileError(f"{option} {path}: {NO_CERTIFICATE}") from error


def _check_key(cert: str, key: str) -> None:
    asked = False

    def refuse_passphrase() -> str:  # nobody is asked: an agent starts unattended
        nonlocal asked
        asked = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, refuse_passphrase)
    except ssl.SSLError as error:
        mismatch = error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")
        wrong = f"it is not the key of the certificate in {cert}" if mismatch else PASSPHRASE if asked else NO_KEY
        raise TlsFileError(f"--tls-key {key}: {wrong}") from error
