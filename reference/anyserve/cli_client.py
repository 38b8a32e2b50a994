"""`anyserve workers` and `anyserve infer`: commands that talk to a running instance."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from anyserve._proto import worker_management_pb2
    from anyserve.messages import ModelInferResponse

__all__ = ["infer", "workers"]


@click.command()
@click.option("--management-address", default="localhost:9000", show_default=True, help="The management port.")
@click.option("--management-token", default=None, envvar="ANYSERVE_MANAGEMENT_TOKEN", help="The token it demands.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--timeout", default=5.0, show_default=True, type=click.FloatRange(0.001), help="Seconds.")
def workers(management_address: str, management_token: str | None, as_json: bool, timeout: float) -> None:
    """List the workers of a running instance and what they serve."""
    from anyserve import AnyserveClient, InferenceError  # noqa: PLC0415 (slow to import)

    try:
        with AnyserveClient(
            management_address=management_address, management_token=management_token, timeout=timeout
        ) as client:
            found = client.workers()
    except (InferenceError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([_worker_dict(worker) for worker in found], indent=2))
    elif not found:
        click.echo("no workers are registered")
    else:
        _print_table(("WORKER", "MODEL", "VERSION", "CAPABILITY", "BUSY", "HEARTBEAT"), _worker_rows(found))


@click.command()
@click.argument("model", required=False)
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    metavar="NAME[:DATATYPE]=VALUE",
    help="A tensor. VALUE is JSON (a number, a string, or nested lists), other text as it stands, "
    "or @FILE for a file's bytes. DATATYPE as in FP32; found from the value if left out.",
)
@click.option(
    "--capability",
    "-c",
    "capability",
    multiple=True,
    metavar="KEY=PATTERN",
    help="Route by capability instead of MODEL; may be given several times.",
)
@click.option("--version", "model_version", default="", help="Model version.")
@click.option("--id", "request_id", default="", help="Request id.")
@click.option(
    "--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A request parameter (JSON)."
)
@click.option("--stream", is_flag=True, help="Use ModelStreamInfer and print each reply as it comes.")
@click.option("--address", default="localhost:8000", show_default=True, help="The instance's client port.")
@click.option("--tls-ca", default=None, metavar="FILE", help="Talk TLS; who may have issued its certificate (PEM).")
@click.option("--tls-cert", default=None, metavar="FILE", help="Client certificate (PEM), if the instance wants one.")
@click.option("--tls-key", default=None, metavar="FILE", help="Private key of that certificate (PEM).")
@click.option("--timeout", default=60.0, show_default=True, type=click.FloatRange(0.001), help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print each reply as one line of JSON.")
def infer(model: str | None, inputs: tuple[str, ...], capability: tuple[str, ...], **options: Any) -> None:
    """Send one inference request to a running instance and print the reply.

    Example: anyserve infer add -i 'a:FP32=[1, 2]' -i 'b:FP32=[3, 4]'
    """
    from anyserve import AnyserveClient, InferenceError  # noqa: PLC0415 (slow to import)

    if bool(model) == bool(capability):
        raise click.UsageError("name a MODEL, or one or more --capability KEY=PATTERN")
    target: str | Mapping[str, str] = model or _unique((_split(c, "--capability") for c in capability), "--capability")
    arrays, datatypes = _tensors(inputs)
    common: dict[str, Any] = {
        "version": options["model_version"],
        "request_id": options["request_id"],
        "parameters": {
            name: _json_or_text(value)
            for name, value in _unique((_split(p, "--parameter") for p in options["parameters"]), "--parameter").items()
        },
        "datatypes": datatypes,
    }
    try:
        tls = {name: options[name] for name in ("tls_ca", "tls_cert", "tls_key")}
        with AnyserveClient(options["address"], timeout=options["timeout"], **tls) as client:
            if options["stream"]:
                for reply in client.stream(target, arrays, **common):
                    _print_reply(reply, options["as_json"])
            else:
                _print_reply(client.infer(target, arrays, **common), options["as_json"])
    except (InferenceError, OSError, ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from error


def _tensors(inputs: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    arrays: dict[str, Any] = {}
    datatypes: dict[str, str] = {}
    for key, text in _unique((_split(item, "--input") for item in inputs), "--input").items():
        name, _, datatype = key.partition(":")
        if name in arrays:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="--input")
        if datatype:
            datatypes[name] = datatype.upper()
        arrays[name] = _array(name, _value(text, datatype.upper()), datatype.upper())
    return arrays, datatypes


def _array(name: str, value: Any, datatype: str) -> Any:
    import numpy as np  # noqa: PLC0415 (slow to import)

    from anyserve.tensors import DATATYPES  # noqa: PLC0415

    if isinstance(value, bytes):
        return np.array(value, dtype=object)
    try:
        found = np.array(value)
    except ValueError:
        raise click.ClickException(
            f"input {name!r}: {json.dumps(value)} is no tensor, its lists differ in length"
        ) from None
    if found.size == 0 and datatype in DATATYPES:
        return found.astype(DATATYPES[datatype])  # nothing in it says what it is
    return value if datatype else found


def _unique(items: Iterable[tuple[str, str]], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in items:
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found


def _value(text: str, datatype: str) -> Any:
    if not text.startswith("@"):
        value = _json_or_text(text)
        return text if datatype == "BYTES" and isinstance(value, int | float | bool) else value
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"cannot read {text[1:]}: {error.strerror}", param_hint="--input") from error


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _split(item: str, option: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{item!r} is not NAME=VALUE", param_hint=option)
    return name, value


def _print_reply(reply: ModelInferResponse, as_json: bool) -> None:
    outputs = {t.name: (t.datatype, list(t.shape)) for t in reply.outputs}
    arrays = {name: _plain(array.tolist()) for name, array in reply.tensors().items()}
    if as_json:
        click.echo(
            json.dumps(
                {
                    "model_name": reply.model_name,
                    "model_version": reply.model_version,
                    "id": reply.id,
                    "outputs": {
                        name: {"datatype": datatype, "shape": shape, "data": arrays[name]}
                        for name, (datatype, shape) in outputs.items()
                    },
                }
            )
        )
    else:
        for name, (datatype, shape) in outputs.items():
            click.echo(f"{name}: {datatype} {shape} {json.dumps(arrays[name], ensure_ascii=False)}")
        if not outputs:
            click.echo("(no outputs)")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no number for it
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _worker_dict(worker: worker_management_pb2.Worker) -> dict[str, Any]:
    return {
        "worker_id": worker.worker_id,
        "address": worker.address,
        "in_flight": worker.in_flight,
        "connections": worker.connections,
        "heartbeat_age_ms": worker.heartbeat_age_ms,
        "registrations": [
            {
                "model_name": r.model_name,
                "model_version": r.model_version,
                "capability": dict(r.capability),
                "stream": r.stream,
                "max_concurrency": r.max_concurrency,
                "priority": r.priority,
                "platform": r.platform,
            }
            for r in worker.registrations
        ],
    }


def _worker_rows(found: Iterable[worker_management_pb2.Worker]) -> Iterable[tuple[str, ...]]:
    for worker in found:
        age = "never" if worker.heartbeat_age_ms < 0 else f"{worker.heartbeat_age_ms / 1000:.1f} s ago"
        for r in worker.registrations:
            capability = ", ".join(f"{k}={v}" for k, v in sorted(r.capability.items()))
            yield (
                worker.worker_id,
                r.model_name or "-",
                r.model_version or "-",
                capability,
                str(worker.in_flight),
                age,
            )


def _print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
