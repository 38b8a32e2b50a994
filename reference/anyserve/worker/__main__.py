"""`python -m anyserve.worker APP`: one worker process.

The supervisor starts workers this way; it also serves to add a worker by hand to
an agent that runs already.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import sys

import click

from anyserve import logs
from anyserve.sockets import SocketDirectoryError, default_socket_dir, prepare_socket_dir
from anyserve.worker.loops import WORKER_IO, available_worker_io
from anyserve.worker.report import Report
from anyserve.worker.runtime import WorkerOptions, run_worker

log = logging.getLogger("anyserve.worker")

WORKER_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@click.command(context_settings={"show_default": True, "auto_envvar_prefix": "ANYSERVE"})
@click.argument("app")
@click.option("--factory", is_flag=True, help="APP names a function that returns the app.")
@click.option("--app-dir", default=".", help="Directory to import APP from.")
@click.option("--group", default=None, help="Which of the app's groups to serve; the first by default.")
@click.option("--worker-id", default=None, help="Name of this worker; made up by default.")
@click.option("--socket-dir", default=default_socket_dir, help="Private directory for the worker's socket.")
@click.option("--management", default="127.0.0.1:9000", help="The agent's management address.")
@click.option("--agent", default="127.0.0.1:8000", help="The agent's client address, for context.call().")
@click.option("--max-message-bytes", default=64 << 20, type=click.IntRange(1), help="Greatest request or reply.")
@click.option("--heartbeat-interval", default=1.0, type=click.FloatRange(0.01), help="Seconds between heartbeats.")
@click.option("--orphan-timeout", default=30.0, type=click.FloatRange(0.1), help="Seconds to live without an agent.")
@click.option("--grace", default=30.0, type=click.FloatRange(0), help="Seconds for exchanges under way at the end.")
@click.option(
    "--worker-io",
    default=None,
    type=click.Choice(WORKER_IO),
    help="What moves requests and replies; native where it is installed, else python.",
)
@click.option("--log-format", default="text", type=click.Choice(logs.FORMATS))
@click.option("--log-level", default="info", type=click.Choice(logs.LEVELS))
@click.option("--supervised", is_flag=True, hidden=True)
@click.option("--report-fd", default=None, type=int, hidden=True)
def main(
    *,
    worker_id: str | None,
    socket_dir: str,
    management: str,
    agent: str,
    log_format: str,
    log_level: str,
    supervised: bool,
    report_fd: int | None,
    worker_io: str | None,
    **options: object,
) -> None:
    """Serves the app APP (module:attribute) as one worker of a running agent.

    The management token, if one is needed, is taken from ANYSERVE_MANAGEMENT_TOKEN.
    """
    worker_id = worker_id or f"worker-{secrets.token_hex(4)}"
    if not WORKER_ID.fullmatch(worker_id):
        raise click.BadParameter("must be 1 to 64 of the characters A-Z a-z 0-9 _ . -", param_hint="--worker-id")
    if worker_io is not None and worker_io not in available_worker_io():
        raise click.BadParameter("the native loop is not in this installation: leave it out", param_hint="--worker-io")
    logs.configure(log_format, log_level, worker=worker_id)
    # Ctrl-C reaches the whole foreground process group; the agent tells its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN if supervised else signal.SIG_DFL)
    try:
        socket_dir = prepare_socket_dir(socket_dir)
    except SocketDirectoryError as error:
        raise click.ClickException(str(error)) from error
    status = 1
    try:
        status = run_worker(
            WorkerOptions(
                worker_id=worker_id,
                socket_dir=socket_dir,
                management_address=management,
                management_token=os.environ.get("ANYSERVE_MANAGEMENT_TOKEN"),
                instance_secret=os.environ.get("ANYSERVE_INSTANCE_SECRET", ""),
                agent_address=agent,
                worker_io=worker_io,
                **options,  # type: ignore[arg-type]
            ),
            Report(report_fd),
        )
    except Exception:
        log.exception("the worker failed")
    finally:
        # A handler that never returns must not keep the process: its thread is not waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
