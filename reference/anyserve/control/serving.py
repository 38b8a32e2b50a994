"""One instance from start to end: agent, workers, signals, reload. What `anyserve APP` runs."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from anyserve.agent.config import AgentConfig
from anyserve.control.agents import DataPlane, default_implementation, make_agent
from anyserve.control.supervisor import Supervisor
from anyserve.control.worker_process import LaunchOptions
from anyserve.sockets import prepare_socket_dir, remove_stale_sockets

__all__ = ["ServeOptions", "serve"]

log = logging.getLogger(__name__)

APP = "app"
"""Stands for the workers of the app until they are known."""
WATCH_TICK = 200
"""Milliseconds after which the watch says that nothing has changed."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What an instance is told on its command line, beside the agent's settings."""

    app: str | None
    """`module:attribute`; None starts a bare agent."""
    impl: str | None = None
    """`reference` or `native`; None takes native where it is installed."""
    factory: bool = False
    app_dir: str = "."
    workers: int = 1
    socket_dir: str
    grace: float = 30.0
    orphan_timeout: float = 30.0
    heartbeat_interval: float = 1.0
    reload: bool = False
    worker_io: str | None = None
    """`python` or `native`: the loop of the workers; None takes native where it is installed."""
    log_format: str = "text"
    log_level: str = "info"


async def serve(config: AgentConfig, options: ServeOptions) -> None:
    """Serves until SIGINT or SIGTERM; a second SIGINT cuts the drain short.

    Raises:
        PortInUse: an address cannot be listened on.
        TlsFileError: a file of TLS cannot be used.
        SocketDirectoryError: the socket directory cannot be used.
        StartFailed: the app did not come up.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_ in STOP_SIGNALS:
        loop.add_signal_handler(signal_, stop.set)
    socket_dir = prepare_socket_dir(options.socket_dir)
    if stale := remove_stale_sockets(socket_dir):
        log.info("removed stale sockets", extra={"sockets": stale})
    if options.app is not None and config.tls_cert is not None:
        config = replace(config, private_socket=_private_socket(config, socket_dir))
    implementation = options.impl or default_implementation()
    agent = make_agent(implementation, config)
    if options.app is not None:
        agent.expect_workers((APP,))  # not ready before it is known which workers to wait for
    await agent.start()
    supervisor = None
    try:
        log.info(
            "serving",
            extra={
                "address": config.host if config.unix_path else f"{config.host}:{agent.port}",
                "management": f"{config.management_host}:{agent.management_port}",
                "impl": implementation,
                "app": options.app or "none",
            },
        )
        if options.app is not None:
            launch = _launch_options(config, options, socket_dir, agent)
            supervisor = Supervisor(launch, options.workers, agent)
            agent.set_lifecycle(supervisor)
        await _run(agent, supervisor, options, stop)
    finally:
        await _shut_down(agent, supervisor, options.grace)


async def _run(agent: DataPlane, supervisor: Supervisor | None, options: ServeOptions, stop: asyncio.Event) -> None:
    """Brings the workers up, tells that all is ready, and waits for the signal to stop."""
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_start(agent, supervisor))
    tasks: list[asyncio.Task[None]] = [starting]
    if supervisor is not None and options.reload:
        # Watched from before the app is loaded, so that no change is missed; acted on once it is up.
        tasks.append(asyncio.create_task(_reload_on_change(supervisor, options.app_dir, starting)))
    try:
        pending = {stopping, *tasks}
        while not stopping.done() and len(pending) > 1:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        await stopping
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.wait((stopping, *tasks))


async def _start(agent: DataPlane, supervisor: Supervisor | None) -> None:
    if supervisor is not None:
        await supervisor.start()
        agent.expect_no_more((APP,))
    await agent.wait_ready()
    log.info("ready", extra={"capabilities": list(supervisor.capabilities) if supervisor else []})


async def _shut_down(agent: DataPlane, supervisor: Supervisor | None, grace: float) -> None:
    """Drains (`lifecycle.drain`). A further Ctrl-C cuts it short; a further SIGTERM, which tools repeat, does not."""
    loop = asyncio.get_running_loop()
    hurry = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, hurry.set)
    stopping = asyncio.create_task(agent.stop(grace, stop_workers=supervisor.stop if supervisor else None))
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait((stopping, hurrying), return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        log.warning("cutting the drain short")
        if supervisor is not None:
            supervisor.kill()
        await agent.hurry()
    hurrying.cancel()
    await stopping


async def _reload_on_change(supervisor: Supervisor, app_dir: str, starting: asyncio.Task[None]) -> None:
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415 (needed for --reload alone)

    watching = False
    async for changes in awatch(app_dir, watch_filter=PythonFilter(), rust_timeout=WATCH_TICK, yield_on_timeout=True):
        if not watching:  # the first tick tells that the watch is there
            watching = True
            log.info("watching for changes", extra={"directory": app_dir})
        if changes:
            await asyncio.wait((starting,))
            log.info("reloading", extra={"changed": sorted({path for _, path in changes})})
            await supervisor.reload()


def _launch_options(config: AgentConfig, options: ServeOptions, socket_dir: str, agent: DataPlane) -> LaunchOptions:
    arguments: Sequence[str] = (
        f"--app-dir={options.app_dir}",
        f"--socket-dir={socket_dir}",
        f"--management={_reachable(config.management_host)}:{agent.management_port}",
        f"--agent={_client_address(config, agent)}",
        f"--max-message-bytes={config.max_message_bytes}",
        f"--heartbeat-interval={options.heartbeat_interval}",
        f"--orphan-timeout={options.orphan_timeout}",
        f"--log-format={options.log_format}",
        f"--log-level={options.log_level}",
        *(("--factory",) if options.factory else ()),
        *((f"--worker-io={options.worker_io}",) if options.worker_io is not None else ()),
    )
    return LaunchOptions(
        app=options.app or "",
        arguments=arguments,
        grace=options.grace,
        socket_dir=socket_dir,
        write_bytecode=not options.reload,
        instance_secret=agent.instance_secret,
        management_token=config.management_token,
    )


def _private_socket(config: AgentConfig, socket_dir: str) -> str:
    """Where workers reach the client side without certificates (`serving.tls.workers`).

    Named by the management port: workers that have lost their agent find the one that comes back there.
    """
    return os.path.join(socket_dir, f"agent-{config.management_port or secrets.token_hex(4)}.sock")


def _client_address(config: AgentConfig, agent: DataPlane) -> str:
    """The address of the client side for the instance's own workers."""
    if path := config.private_socket or config.unix_path:
        return f"unix:{quote(path)}"
    return f"{_reachable(config.host)}:{agent.port}"


def _reachable(host: str) -> str:
    """The address by which a process of this machine reaches what listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host
