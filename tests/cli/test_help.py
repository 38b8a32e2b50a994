"""What the command line says about itself."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from anyserve.cli import main
from support.command import run

OPTIONS = re.findall(
    "--[a-z0-9-]+",
    """
    --host --port --management-host --management-port --management-token --workers --impl --factory --app-dir
    --reload --grace --socket-dir --orphan-timeout --heartbeat-interval --heartbeat-timeout --connect-timeout
    --queue-size --max-message-bytes --max-concurrent-rpcs --max-stream-requests --default-max-concurrency
    --max-workers --max-registrations --max-watchers --http2-limit --log-format --log-level --help --version
    --tls-cert --tls-key --tls-client-ca --io-threads --worker-io
    --shared-memory-threshold --shared-memory-bytes
    """,
)


def test_help_tells_every_option(tmp_path: Path) -> None:
    done = run("--help", directory=tmp_path)
    assert done.status == 0
    assert [option for option in OPTIONS if option not in done.stdout.split()] == []
    assert done.stdout.startswith("Usage: anyserve [OPTIONS] [APP]")
    assert "ANYSERVE_PORT" in done.stdout
    for command in ("infer", "workers"):
        assert f"\n  {command} " in done.stdout
    assert done.stderr == ""


def test_help_tells_every_option_that_there_is(tmp_path: Path) -> None:
    serve = main.commands["serve"]  # type: ignore[attr-defined]
    options = {name for parameter in serve.params for name in parameter.opts if name.startswith("--")}
    assert options <= set(OPTIONS)
    assert all(getattr(parameter, "help", None) or parameter.name == "app" for parameter in serve.params), (
        "an option has no help text"
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("infer", ["--input", "--capability", "--version", "--id", "--parameter", "--stream", "--address", "--json"]),
        ("workers", ["--management-address", "--management-token", "--json", "--timeout"]),
        ("serve", ["--port", "--management-port", "[APP]"]),
    ],
)
def test_help_of_a_command(tmp_path: Path, command: str, words: list[str]) -> None:
    done = run(command, "--help", directory=tmp_path)
    assert done.status == 0
    assert [word for word in words if word not in done.stdout] == []


def test_help_shows_defaults(tmp_path: Path) -> None:
    text = " ".join(run("--help", directory=tmp_path).stdout.split())
    for default in ("default: 8000", "default: 9000", "default: 67108864", "default: 1024", "default: text"):
        assert default in text


def test_short_help(tmp_path: Path) -> None:
    assert run("-h", directory=tmp_path).stdout == run("--help", directory=tmp_path).stdout


def test_version(tmp_path: Path) -> None:
    done = run("--version", directory=tmp_path)
    assert done.status == 0
    assert done.stdout.startswith(f"anyserve {version('anyserve')}")
    assert "reference" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "No such option"),
        (["my_app:app", "--port=70000"], "--port"),
        (["my_app:app", "--port=http"], "--port"),
        (["my_app:app", "--workers=0"], "--workers"),
        (["my_app:app", "--impl=java"], "--impl"),
        (["my_app:app", "--app-dir=nowhere"], "--app-dir"),
        (["my_app:app", "--max-message-bytes=0"], "--max-message-bytes"),
        (["my_app:app", "--log-format=xml"], "--log-format"),
        (["my_app:app", "and_more:app"], "unexpected extra argument"),
        (["--reload"], "--reload needs an APP"),
    ],
)
def test_misuse_exits_with_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run(*arguments, directory=tmp_path)
    assert done.status == 2
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
