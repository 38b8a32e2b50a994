"""The command line: `anyserve APP` serves; `anyserve workers` and `anyserve infer` talk to a running instance."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from typing import Any

import click

from anyserve import logs
from anyserve.agent.config import MAX_IO_THREADS, AgentConfig, UnknownLimit
from anyserve.cli_client import infer, workers
from anyserve.control.agents import IMPLEMENTATIONS, available_implementations
from anyserve.sockets import SocketDirectoryError, default_socket_dir
from anyserve.worker.loops import WORKER_IO, available_worker_io

__all__ = ["main"]

DEFAULTS = AgentConfig()


class _DefaultCommand(click.Group):
    """A group whose `serve` needs not be named, so that `anyserve my_app:app` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h", "--version")):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        serve = self.commands["serve"]
        serve_context = click.Context(serve, info_name="anyserve", show_default=True)
        serve.format_usage(serve_context, formatter)
        serve.format_help_text(serve_context, formatter)
        serve.format_options(serve_context, formatter)
        with formatter.section("About"):
            formatter.write_dl([record for p in self.get_params(ctx) if (record := p.get_help_record(ctx))])
        self.format_commands(ctx, formatter)


def _pairs(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """NAME=NUMBER, each as a pair."""
    pairs = []
    for value in values:
        name, _, number = value.partition("=")
        try:
            pairs.append((name, float(number)))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not NAME=NUMBER") from None
    return tuple(pairs)


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"anyserve {version('anyserve')} (agents: {', '.join(available_implementations())})")
        ctx.exit()


@click.group(
    cls=_DefaultCommand,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ANYSERVE", "show_default": True},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and which agents are there.",
)
def main() -> None:
    """anyserve serves any capability from any process over KServe v2 gRPC."""


@main.command(context_settings={"auto_envvar_prefix": "ANYSERVE"})
@click.argument("app", required=False)
@click.option(
    "--host", default=DEFAULTS.host, help="Address of the client port, or unix:/path for a Unix socket instead."
)
@click.option("--port", default=DEFAULTS.port, type=click.IntRange(0, 65535), help="Client port; 0 takes a free one.")
@click.option("--tls-cert", default=None, metavar="FILE", help="Certificate chain (PEM): serve clients by TLS alone.")
@click.option("--tls-key", default=None, metavar="FILE", help="Private key of that certificate (PEM).")
@click.option(
    "--tls-client-ca",
    default=None,
    metavar="FILE",
    help="Demand client certificates that one of these has issued (PEM).",
)
@click.option("--management-host", default=DEFAULTS.management_host, help="Address of the management port.")
@click.option(
    "--management-port",
    default=DEFAULTS.management_port,
    type=click.IntRange(0, 65535),
    help="Management port, where workers register; 0 takes a free one.",
)
@click.option(
    "--management-token",
    default=None,
    help="Demand `authorization: Bearer TOKEN` at the management port. "
    "Better given as ANYSERVE_MANAGEMENT_TOKEN: command lines are visible to others.",
)
@click.option("--workers", default=1, type=click.IntRange(1, 256), help="Processes per group of the app.")
@click.option(
    "--impl",
    default=None,
    type=click.Choice(IMPLEMENTATIONS),
    help="Which agent; native where it is installed, else reference.",
)
@click.option(
    "--worker-io",
    default=None,
    type=click.Choice(WORKER_IO),
    help="What moves requests and replies in the workers; native where it is installed, else python.",
)
@click.option("--factory", is_flag=True, help="APP names a function that returns the app.")
@click.option("--app-dir", default=".", type=click.Path(exists=True, file_okay=False), help="Where to import APP from.")
@click.option("--reload", is_flag=True, help="Replace the workers when a Python file in the app's directory changes.")
@click.option("--grace", default=30.0, type=click.FloatRange(0), help="Seconds for calls under way when stopping.")
@click.option("--socket-dir", default=default_socket_dir, help="Private directory (0700) of the workers' sockets.")
@click.option(
    "--orphan-timeout",
    default=30.0,
    type=click.FloatRange(0.1),
    help="Seconds that a worker stays without its agent, waiting for one to come back.",
)
@click.option("--heartbeat-interval", default=1.0, type=click.FloatRange(0.01), help="Seconds between heartbeats.")
@click.option(
    "--heartbeat-timeout",
    default=DEFAULTS.heartbeat_timeout,
    type=click.FloatRange(0.1),
    help="Seconds without a heartbeat after which a worker is dropped.",
)
@click.option(
    "--connect-timeout",
    default=DEFAULTS.connect_timeout,
    type=click.FloatRange(0.001),
    help="Seconds to wait for room in a worker's accept backlog.",
)
@click.option(
    "--queue-size", default=DEFAULTS.queue_size, type=click.IntRange(0), help="Requests waiting in one queue."
)
@click.option(
    "--max-message-bytes",
    default=DEFAULTS.max_message_bytes,
    type=click.IntRange(1, (1 << 31) - 1),
    help="Greatest request or reply.",
)
@click.option(
    "--shared-memory-threshold",
    default=DEFAULTS.shared_memory_threshold,
    type=click.IntRange(0),
    help="Requests and replies from so many bytes on go by shared memory, to workers that take it; 0: none do.",
)
@click.option(
    "--shared-memory-bytes",
    default=DEFAULTS.shared_memory_bytes,
    type=click.IntRange(0),
    help="Shared memory in all; beyond it requests and replies go by sockets.",
)
@click.option(
    "--http2-limit",
    "http2_limits",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_pairs,
    help="A limit of the client side's HTTP/2, e.g. max-streams=1000 or idle-timeout=600; may be given again. "
    "docs/spec/serving.md lists them.",
)
@click.option(
    "--io-threads",
    default=DEFAULTS.io_threads,
    type=click.IntRange(1, MAX_IO_THREADS),
    help="Threads of the native agent that serve clients and talk to workers; more help only where cores are idle.",
)
@click.option(
    "--max-concurrent-rpcs", default=DEFAULTS.max_concurrent_rpcs, type=click.IntRange(1), help="Client calls at once."
)
@click.option(
    "--max-stream-requests",
    default=DEFAULTS.max_stream_requests,
    type=click.IntRange(1),
    help="Requests at once within one ModelStreamInfer call.",
)
@click.option(
    "--default-max-concurrency",
    default=DEFAULTS.default_max_concurrency,
    type=click.IntRange(1),
    help="Exchanges at once over all registrations of a worker that state no number.",
)
@click.option("--max-workers", default=DEFAULTS.max_workers, type=click.IntRange(1), help="Registered workers.")
@click.option(
    "--max-registrations",
    default=DEFAULTS.max_registrations,
    type=click.IntRange(1),
    help="Registrations of all workers together.",
)
@click.option(
    "--max-watchers", default=DEFAULTS.max_watchers, type=click.IntRange(1), help="WatchEvents calls at once."
)
@click.option("--log-format", default="text", type=click.Choice(logs.FORMATS), help="How log lines are written.")
@click.option(
    "--log-level",
    default="info",
    type=click.Choice(logs.LEVELS),
    help="Least severity shown.",
)
def serve(app: str | None, impl: str | None, **options: Any) -> None:
    """Serve APP (module:attribute), or, without APP, a bare agent for workers that register by themselves.

    Every option can be given as an environment variable too, e.g. ANYSERVE_PORT=8000.
    """
    if impl is not None and impl not in available_implementations():
        raise click.UsageError(
            "the native agent is not in this installation: use --impl reference, or leave --impl out; "
            "docs/native.md says what building it takes"
        )
    if options["worker_io"] is not None and options["worker_io"] not in available_worker_io():
        raise click.BadParameter("the native loop is not in this installation: leave it out", param_hint="--worker-io")
    logs.configure(options["log_format"], options["log_level"])
    if options["reload"] and app is None:
        raise click.UsageError("--reload needs an APP to reload")
    sys.exit(_serve(app, impl, options))


def _serve(app: str | None, impl: str | None, options: dict[str, Any]) -> int:
    # Imported here: the other commands, and `--help`, need none of it.
    from anyserve.agent import PortInUse, TlsFileError  # noqa: PLC0415
    from anyserve.control import serving  # noqa: PLC0415
    from anyserve.control.supervisor import StartFailed  # noqa: PLC0415

    agent_options = {name: options.pop(name) for name in AgentConfig.__dataclass_fields__ if name in options}
    try:
        config = AgentConfig(**agent_options)
    except ValueError as error:  # of options that do not go together; each by itself has been checked
        raise click.UsageError(str(error)) from error
    try:
        asyncio.run(serving.serve(config, serving.ServeOptions(app=app, impl=impl, **options)))
    except UnknownLimit as error:
        raise click.UsageError(str(error)) from error
    except (PortInUse, TlsFileError, SocketDirectoryError, StartFailed) as error:
        click.echo(f"anyserve: error: {error}", err=True)
        return 1
    return 0


main.add_command(workers)
main.add_command(infer)

if __name__ == "__main__":
    main()
