"""The running process: two listeners, signals, reload, a graceful end.

Floor: assembles. Nothing is swapped before all of the new is built and valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.access_log import AccessLog
from router.admin import admin_app
from router.app import App, with_cors
from router.assembly import Runtime, build
from router.config import Config, ConfigError, Problem, load, warnings
from router.counting import TokenCounter
from router.database.errors import DatabaseUnusable
from router.key_builder import key_watch
from router.key_metrics import KeyCollector
from router.learned_metrics import LearnedCollector
from router.ledger_builder import LedgerUnusable, build_ledger
from router.ledger_metrics import LedgerCollector
from router.logs import configure_logging
from router.measure import SWITCH_SECONDS
from router.metrics import Metrics
from router.process import Process
from router.replicas_builder import build_replicas
from router.secret import load_secret
from router.server import Listener, guarded_protocol, listener, open_socket
from router.service_metrics import ServiceCollector
from router.tracing import Tracing, TracingUnusable

_log = logging.getLogger("promptlane.serve")


class CannotServe(Exception):
    """The process cannot start; the message says why and what to do."""


class Serving:
    """One gateway process from start to end."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        server = config.server
        secret = server.secret.get_secret_value() if server.secret is not None else None
        key, metrics = load_secret(secret, Path(server.secret_file)), Metrics()
        try:
            ledger = build_ledger(config, key, time.time)
        except LedgerUnusable as error:
            raise CannotServe(str(error)) from None
        replicas = build_replicas(config, key, metrics)
        access = AccessLog(server.access_log) if server.access_log is not None else None
        self._process = Process(
            key, TokenCounter(), metrics, replicas=replicas, ledger=ledger, access=access, tracing=_tracing(config)
        )
        self._app = App(build(config, self._process))
        self._process.metrics.watch_pools(lambda: self._app.runtime.pools.values())
        tenants = ServiceCollector(lambda: self.runtime.gateway.directory.by_id.values())
        self._process.metrics.registry.register(tenants)
        learned = LearnedCollector(lambda: self._app.runtime.gateway.models, self._process.lengths)
        self._process.metrics.registry.register(learned)
        try:
            self._keys = key_watch(config, self._process, lambda: self.runtime.config)
        except DatabaseUnusable as error:
            raise CannotServe(str(error)) from None
        clocks = (self._process.clock, self._process.wall_clock)
        keys = KeyCollector(lambda: self.runtime.gateway.directory, self._keys, *clocks)
        self._process.metrics.registry.register(keys)
        self._process.metrics.registry.register(LedgerCollector(ledger))
        if access is not None:
            self._process.metrics.registry.register(access)
        self._ready = False
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()

    @property
    def runtime(self) -> Runtime:
        return self._app.runtime

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises CannotServe when a port cannot be had."""
        server = self.runtime.config.server
        tenants = _bind(server.host, server.port, "server.port")
        operators = _bind(server.admin_host, server.admin_port, "server.admin_port")
        data, admin = self._data_listener(), listener(self._admin(), timeout_graceful_shutdown=1)
        self._handle_signals()
        self._open_access_log()
        await self._learn_keys()
        await self._open_ledger()
        await self._join()
        self.runtime.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(admin.serve([operators]), name="operator plane")
            serving = group.create_task(data.serve([tenants]), name="data plane")
            await asyncio.gather(data.listening.wait(), admin.listening.wait())
            gc.freeze()  # what was made until now lives as long as the process: no collection need look at it
            self._ready = True
            _announce(tenants, operators, tls=server.tls is not None)
            await self._stopping.wait()
            await self._drain(data, serving)
            admin.should_exit = True
        if self._keys is not None:
            await self._keys.stop()
        await self.runtime.stop()
        if self._process.replicas is not None:
            await self._process.replicas.stop()
        if self._process.ledger is not None:
            await asyncio.to_thread(self._process.ledger.stop)
        if self._process.access is not None:
            await asyncio.to_thread(self._process.access.stop)
        if self._process.tracing is not None:
            await asyncio.to_thread(self._process.tracing.stop)

    async def reload(self) -> list[Problem]:
        """Builds all anew from the file, then swaps; returns warnings. A ConfigError changes nothing."""
        async with self._reloading:
            try:
                config = await asyncio.to_thread(load, self._path)
                following = build(config, self._process, self.runtime)
            except ConfigError as error:
                self._process.metrics.add("promptlane_config_reloads", "refused")
                _log.error("the configuration was not reloaded: %s", error)
                raise
            before, self._app.runtime = self.runtime, following
            following.start()
            await before.stop(following)
        self._process.metrics.add("promptlane_config_reloads", "ok")
        found = [*warnings(config, datetime.now(UTC)), *_needs_restart(before.config, config)]
        for problem in found:
            _log.warning("%s", problem)
        _log.info("the configuration was reloaded")
        return found

    async def _learn_keys(self) -> None:
        """Before anybody may ask: a process that has just started knows what all others do. Without a database it
        serves who has a key of the configuration."""
        if self._keys is None:
            return
        try:
            await self._keys.look()
        except DatabaseUnusable as error:
            raise CannotServe(f"state.ledger_url: {error}") from None
        self._keys.start()

    def _open_access_log(self) -> None:
        if self._process.access is None:
            return
        try:
            self._process.access.open()
        except OSError as error:
            where = self.runtime.config.server.access_log
            raise CannotServe(f"server.access_log: {where} cannot be written ({error.strerror})") from None

    async def _open_ledger(self) -> None:
        """A database that is away only delays records: they wait in the spool."""
        if self._process.ledger is None:
            return
        try:
            await asyncio.to_thread(self._process.ledger.start)
        except DatabaseUnusable as error:
            raise CannotServe(f"state.ledger_url: {error}") from None

    def _data_listener(self) -> Listener:
        server = self.runtime.config.server
        settings: dict[str, Any] = {
            "http": guarded_protocol(server.header_timeout, server.max_header_bytes),
            "timeout_keep_alive": server.keep_alive_timeout,
            "timeout_graceful_shutdown": server.shutdown_grace,
        }
        if server.tls is not None:
            settings |= {"ssl_certfile": server.tls.cert_file, "ssl_keyfile": server.tls.key_file}
        try:
            return listener(with_cors(self._app, server.cors) if server.cors is not None else self._app, **settings)
        except OSError as error:
            raise CannotServe(f"server.tls: the certificate or its key cannot be used: {error}") from None

    def _admin(self) -> Any:
        ledger = self._process.ledger
        record = ledger.add if ledger is not None else None
        return admin_app(
            lambda: self.runtime, lambda: self._ready, self.reload, self._process.metrics, self._keys, record
        )

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_by_signal)

    def _reload_by_signal(self) -> None:
        async def reload() -> None:
            with contextlib.suppress(ConfigError):  # logged and counted where it was found
                await self.reload()

        task = asyncio.create_task(reload(), name="reload by SIGHUP")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _join(self) -> None:
        """From now on the other replicas know of this one. Raises CannotServe."""
        if self._process.replicas is None:
            return
        try:
            await self._process.replicas.start()
        except OSError as error:
            where = self.runtime.config.replicas.listen
            raise CannotServe(f"replicas.listen: cannot listen on {where} ({error.strerror or error})") from None

    async def _drain(self, data: Listener, serving: asyncio.Task[None]) -> None:
        """Readiness off, pools handed over, time for balancers to see it, then no new connections; requests under way
        get their grace."""
        server = self.runtime.config.server
        self._ready = False
        if self._process.replicas is not None:
            await self._process.replicas.hand_over()
        _log.info("stopping: up to %g seconds for requests under way", server.shutdown_grace)
        await asyncio.sleep(server.shutdown_delay)
        data.should_exit = True
        await serving


def serve(path: Path, config: Config) -> None:
    """Runs the process to its end. Raises CannotServe, SecretUnavailable or ConfigError before it serves."""
    sys.setswitchinterval(SWITCH_SECONDS)
    raise_file_limit()
    configure_logging(config.server.log_level, config.server.log_format)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(path, config))


async def _serve(path: Path, config: Config) -> None:
    await Serving(path, config).run()


def raise_file_limit() -> int:
    """Lets the process open as many files as it may, and returns how many. A stream takes two, one to the client and
    one to the engine; the usual soft limit of 1,024 is for programs that still use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems refuse "unlimited": what there was stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: slower, otherwise the same
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _tracing(config: Config) -> Tracing | None:
    if (found := config.tracing) is None:
        return None
    try:
        return Tracing(found.endpoint, found.sample, time.monotonic, time.time)
    except TracingUnusable as error:
        raise CannotServe(f"tracing: {error}") from None


def _bind(host: str, port: int, key: str) -> socket.socket:
    try:
        return open_socket(host, port)
    except OSError as error:
        raise CannotServe(f"{key}: cannot listen on {host}:{port} ({error.strerror})") from None


def _announce(tenants: socket.socket, operators: socket.socket, *, tls: bool) -> None:
    scheme = "https" if tls else "http"
    print(f"promptlane ready: tenants {scheme}://{_where(tenants)}, operators http://{_where(operators)}", flush=True)


def _where(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _needs_restart(before: Config, after: Config) -> list[Problem]:
    """Keys whose new value a running process cannot take: its listeners, or its database, were made of the old one."""
    keys = ("host", "port", "admin_host", "admin_port", "tls", "cors", "secret_file", "header_timeout",
            "max_header_bytes", "keep_alive_timeout", "shutdown_grace", "log_level", "log_format",
            "access_log")  # fmt: skip
    watched = [("server", key) for key in keys]
    watched += [("state", "redis_url"), ("state", "ledger_url"), ("state", "ledger_timeout"), ("keys", "at_run_time")]
    watched += [("ledger", key) for key in type(before.ledger).model_fields]
    return [
        Problem(f"{section}.{key}", "changed; takes effect at the next restart", None)
        for section, key in watched
        if getattr(getattr(before, section), key) != getattr(getattr(after, section), key)
    ] + [
        Problem(section, "changed; takes effect at the next restart", None)
        for section in ("replicas", "tracing")
        if getattr(before, section) != getattr(after, section)
    ]
