"""TLS on the client port: who is served, who is not, and what is said of files that cannot be used."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from anyserve import AnyserveClient, AsyncAnyserveClient, Code, InferenceError
from anyserve.control.agents import available_implementations
from support.certificates import Identity, issue
from support.command import Instance, run, serving, started, write_app
from support.processes import PATIENCE, short_directory

# `ask` calls `echo` over the client port of its own instance.
APP = """
    from anyserve import AnyServe

    app = AnyServe()

    @app.capability(type="echo")
    def echo(request):
        return {"n": [1]}

    @app.capability(type="ask")
    def ask(request, context):
        return {"n": context.call("echo", {}).tensors()["n"] + 1}
"""
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""A connection's preface and empty SETTINGS, which each server answers with its own."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(files: Path) -> Identity:
    return issue(files, "authority")


@pytest.fixture(scope="module")
def server(files: Path, authority: Identity) -> Identity:
    return issue(files, "server", authority)


@pytest.fixture(scope="module")
def client_authority(files: Path) -> Identity:
    return issue(files, "client-authority")


@pytest.fixture(scope="module")
def known(files: Path, client_authority: Identity) -> Identity:
    return issue(files, "known", client_authority)


@pytest.fixture(scope="module", params=available_implementations())
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def instance_of(directory: Path, *options: str) -> Iterator[Instance]:
    """Serves the app. Unlike `serving` it lets gRPC say on standard error what clients did wrong."""
    write_app(directory, APP)
    with started("my_app:app", *options, directory=directory) as instance:
        instance.wait_log("ready")
        yield instance
        assert instance.stop() == 0, instance.stderr
        assert instance.sockets() == []


@pytest.fixture(scope="module")
def tls(impl: str, tmp_path_factory: pytest.TempPathFactory, server: Identity) -> Iterator[Instance]:
    """An instance with TLS."""
    options = (f"--impl={impl}", f"--tls-cert={server.cert}", f"--tls-key={server.key}")
    with instance_of(tmp_path_factory.mktemp("tls"), *options) as instance:
        yield instance


@pytest.fixture(scope="module")
def mutual(
    impl: str, tmp_path_factory: pytest.TempPathFactory, server: Identity, client_authority: Identity
) -> Iterator[Instance]:
    """An instance with TLS that demands client certificates."""
    options = (f"--tls-cert={server.cert}", f"--tls-key={server.key}", f"--tls-client-ca={client_authority.cert}")
    with instance_of(tmp_path_factory.mktemp("mutual"), f"--impl={impl}", *options) as instance:
        yield instance


def context(authority: Identity, alpn: str | None = "h2", identity: Identity | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.cert)
    if alpn:
        made.set_alpn_protocols([alpn])
    if identity:
        made.load_cert_chain(identity.cert, identity.key)
    return made


def served(instance: Instance, using: ssl.SSLContext | None) -> bool:
    """Whether the client port says a word of HTTP/2 to such a client."""
    host, port = instance.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as plain:
        try:
            connection = plain if using is None else using.wrap_socket(plain, server_hostname="localhost")
            with connection:
                connection.sendall(HTTP2)
                answer = connection.recv(9)
        except (ssl.SSLError, ConnectionError):
            return False
    return len(answer) > 4 and answer[3] == 4  # SETTINGS


def test_serves(tls: Instance, authority: Identity) -> None:
    with AnyserveClient(tls.address, tls_ca=authority.cert) as client:
        assert client.infer("echo", {}).tensors()["n"].tolist() == [1]
        assert client.server_ready()


async def test_serves_asyncio(tls: Instance, authority: Identity) -> None:
    async with AsyncAnyserveClient(tls.address, tls_ca=authority.cert) as client:
        assert (await client.infer("echo", {})).tensors()["n"].tolist() == [1]


def test_large_messages(tls: Instance, authority: Identity) -> None:
    with AnyserveClient(tls.address, tls_ca=authority.cert) as client:
        request = {"x": list(range(1 << 20))}
        assert client.infer("echo", request).tensors()["n"].tolist() == [1]


def test_the_management_port_and_workers_need_no_certificates(
    mutual: Instance, authority: Identity, known: Identity
) -> None:
    assert len(mutual.client.workers()) == 1
    with AnyserveClient(mutual.address, tls_ca=authority.cert, tls_cert=known.cert, tls_key=known.key) as client:
        assert client.infer("ask", {}).tensors()["n"].tolist() == [2]


def test_command_line_client(mutual: Instance, tmp_path: Path, authority: Identity, known: Identity) -> None:
    options = (f"--address={mutual.address}", f"--tls-ca={authority.cert}")
    identity = (f"--tls-cert={known.cert}", f"--tls-key={known.key}")
    done = run("infer", "echo", *options, *identity, directory=tmp_path)
    assert (done.status, done.stdout) == (0, "n: INT64 [1] [1]"), done.stderr
    done = run("infer", "echo", *options, f"--tls-cert={known.cert}", directory=tmp_path)
    assert done.status == 1
    assert "tls_cert and tls_key must be given together" in done.stderr
    done = run("infer", "echo", *options, "--tls-cert=/none", "--tls-key=/none", directory=tmp_path)
    assert done.status == 1
    assert "No such file or directory: '/none'" in done.stderr


def test_the_port_is_served_by_tls_alone(tls: Instance, authority: Identity) -> None:
    host, port = tls.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as silent:
        silent.sendall(b"\x16\x03\x01")  # a handshake that does not end
        assert served(tls, context(authority))
        assert not served(tls, None)
        assert served(tls, context(authority)), "it goes on"


def test_clients_without_h2_are_not_served(tls: Instance, authority: Identity) -> None:
    assert not served(tls, context(authority, alpn=None))
    assert not served(tls, context(authority, alpn="http/1.1"))


def test_versions(tls: Instance, authority: Identity) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        using = context(authority)
        using.minimum_version = using.maximum_version = version
        assert served(tls, using)
    old = context(authority)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    assert not served(tls, old)


def test_client_certificates(mutual: Instance, files: Path, authority: Identity, known: Identity) -> None:
    stranger = issue(files, "stranger", authority)
    assert served(mutual, context(authority, identity=known))
    assert not served(mutual, context(authority))
    assert not served(mutual, context(authority, identity=stranger))


def test_grpc_client_without_certificate(mutual: Instance, authority: Identity) -> None:
    with AnyserveClient(mutual.address, tls_ca=authority.cert) as client:
        with pytest.raises(InferenceError) as caught:
            client.infer("echo", {}, timeout=PATIENCE)
        assert caught.value.code is Code.UNAVAILABLE


def test_grpc_client_without_tls(tls: Instance) -> None:
    with grpc.insecure_channel(tls.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_environment(impl: str, tmp_path: Path, server: Identity, authority: Identity) -> None:
    env = {"ANYSERVE_TLS_CERT": server.cert, "ANYSERVE_TLS_KEY": server.key}
    with serving(APP, f"--impl={impl}", directory=tmp_path, env=env) as instance:
        assert served(instance, context(authority))


def bad_files(files: Path, server: Identity, authority: Identity) -> Iterator[tuple[str, list[str]]]:
    """What must be said, and of which options."""
    cert, key = f"--tls-cert={server.cert}", f"--tls-key={server.key}"
    missing, text, locked = files / "missing", files / "text", files / "locked"
    text.write_text("certificate")
    command = ["openssl", "ec", "-in", server.key, "-aes128", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    no_file, no_certificate = "No such file or directory", "there is no certificate in PEM format in it"
    yield f"--tls-cert {missing}: {no_file}", [f"--tls-cert={missing}", key]
    yield f"--tls-key {missing}: {no_file}", [cert, f"--tls-key={missing}"]
    yield f"--tls-client-ca {missing}: {no_file}", [cert, key, f"--tls-client-ca={missing}"]
    yield f"--tls-cert {files}: Is a directory", [f"--tls-cert={files}", key]
    yield f"--tls-cert {text}: {no_certificate}", [f"--tls-cert={text}", key]
    yield f"--tls-cert {server.key}: {no_certificate}", [f"--tls-cert={server.key}", key]
    yield f"--tls-client-ca {text}: {no_certificate}", [cert, key, f"--tls-client-ca={text}"]
    yield f"--tls-key {text}: there is no private key in PEM format in it", [cert, f"--tls-key={text}"]
    wrong = f"it is not the key of the certificate in {server.cert}"
    yield f"--tls-key {authority.key}: {wrong}", [cert, f"--tls-key={authority.key}"]
    yield f"--tls-key {locked}: it has a passphrase: give a key without one", [cert, f"--tls-key={locked}"]


def test_files_that_cannot_be_used(
    impl: str, tmp_path: Path, files: Path, server: Identity, authority: Identity
) -> None:
    with short_directory() as socket_dir:
        ports = ("--host=127.0.0.1", "--port=0", "--management-port=0", f"--socket-dir={socket_dir}")
        for message, options in bad_files(files, server, authority):
            done = run(f"--impl={impl}", *ports, *options, directory=tmp_path)
            assert (done.status, done.stderr.strip()) == (1, f"anyserve: error: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tls-cert=c"], "--tls-cert and --tls-key must be given together"),
        (["--tls-key=k"], "--tls-cert and --tls-key must be given together"),
        (["--tls-client-ca=c"], "--tls-client-ca needs --tls-cert and --tls-key"),
    ],
)
def test_options_that_need_others(tmp_path: Path, options: list[str], message: str) -> None:
    done = run(*options, directory=tmp_path)
    assert done.status == 2
    assert message in done.stderr
