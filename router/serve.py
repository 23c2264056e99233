"""The running process: two listeners, reload, a graceful end.

Floor: assembles. Nothing is swapped before all of the new is built and valid. Whether it is the only process, or one of
several that a supervisor keeps, is its surroundings' affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policies.health import ProbeState
from policies.types import Role
from router.admin import admin_app
from router.app import App, with_cors
from router.assembly import Runtime, build
from router.config import Config, ConfigError, Problem, warnings
from router.counting import TokenCounter
from router.database.errors import DatabaseUnusable
from router.discovery_builder import build_sources, ready_sources
from router.key_builder import key_watch
from router.ledger_builder import LedgerUnusable, build_ledger, endpoint_records, tenant_usage
from router.logs import configure_logging
from router.measure import SWITCH_SECONDS
from router.metrics import Metrics
from router.observability import build_access_log, build_tracing, collect, open_access_log
from router.pools import Pool
from router.process import Process
from router.replicas_builder import build_replicas
from router.running import raise_file_limit, run
from router.server import Listener, guarded_protocol, listener
from router.surroundings import ByItself, CannotServe, Surroundings

_log = logging.getLogger("promptlane.serve")

_LOOK_AGAIN_SECONDS = 0.01
# Containers (objects that may refer to others) more than at the last collection before there is another, and how many
# of the young before one of the older. What a request makes is gone with its last reference, and nothing of it is a
# cycle; with Python's own 700 a busy process searches what is under way several times a request, 6 % of its CPU.
_COLLECTOR = (50_000, 20, 20)
LOOK_SECONDS = 2.0  # by then an engine that is well has answered a probe, and a free pool has an owner


class Serving:
    """One gateway process from start to end. `first`: the configuration that says what no reload changes; `config`: the
    one of now, which is another for a worker that is started after a reload."""

    def __init__(self, surroundings: Surroundings, first: Config, config: Config) -> None:
        self._surroundings = surroundings
        self._first = first
        key, metrics, worker = surroundings.secret(), Metrics(), surroundings.worker
        try:
            ledger = build_ledger(first, key, time.time)
        except LedgerUnusable as error:
            raise CannotServe(str(error)) from None
        replicas = build_replicas(first, key, metrics, worker)
        self._process = Process(
            key,
            TokenCounter(),
            metrics,
            replicas=replicas,
            worker=worker,
            ledger=ledger,
            access=build_access_log(first),
            tracing=build_tracing(first),
        )
        self._usage = tenant_usage(ledger, time.time)
        self._app = App(build(config, self._process), self._usage)
        try:
            self._keys = key_watch(first, self._process, lambda: self.runtime.config)
        except DatabaseUnusable as error:
            raise CannotServe(str(error)) from None
        collect(self._process, lambda: self.runtime, self._keys)
        self._endpoints = endpoint_records(self._process, lambda: self.runtime.pools.values())
        self._ready = False
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()

    @property
    def runtime(self) -> Runtime:
        return self._app.runtime

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises CannotServe when a port cannot be had."""
        tenants, operators = self._surroundings.tenants(), self._surroundings.operators()
        data, admin = self._data_listener(), self._admin_listener(operators)
        self._surroundings.follow(self._stopping.set, self._reload_by_signal, lambda doors: self._stand(data, doors))
        open_access_log(self._process, self._first)
        await self._learn_keys()
        await self._open_ledger()
        await ready_sources(self.runtime.sources)
        await self._join()
        self.runtime.start()
        if self._endpoints is not None:
            self._endpoints.start()
        if self._surroundings.worker is not None:
            await self._look_around()
        async with asyncio.TaskGroup() as group:
            sockets = [operators] if isinstance(operators, socket.socket) else None
            group.create_task(admin.serve(sockets), name="operator plane")
            serving = group.create_task(data.serve([tenants]), name="data plane")
            await asyncio.gather(data.listening.wait(), admin.listening.wait())
            gc.set_threshold(*_COLLECTOR)
            gc.freeze()  # what was made until now lives as long as the process: no collection need look at it
            self._ready = True
            self._surroundings.begun(tenants, operators)
            await self._stopping.wait()
            await self._drain(data, serving)
            admin.should_exit = True
        if self._keys is not None:
            await self._keys.stop()
        if self._endpoints is not None:
            await self._endpoints.stop()
        await self.runtime.stop()
        if self._process.replicas is not None:
            await self._process.replicas.stop()
        if self._usage is not None:
            self._usage.close()
        if self._process.ledger is not None:
            await asyncio.to_thread(self._process.ledger.stop)
        if self._process.access is not None:
            await asyncio.to_thread(self._process.access.stop)
        if self._process.tracing is not None:
            await asyncio.to_thread(self._process.tracing.stop)

    async def reload(self, dry_run: bool = False, said: bytes = b"") -> list[Problem]:
        """Builds all anew, then swaps; returns warnings. A ConfigError changes nothing, nor does a `dry_run`, which
        only says what would come of it. `said`: what came with the order."""
        async with self._reloading:
            before = self.runtime
            try:
                config = await asyncio.to_thread(self._surroundings.config, said)
                if dry_run:
                    build(config, Process(self._process.secret, self._process.counter, Metrics()))
                else:
                    self._app.runtime = await self._rebuilt(config, before)
            except ConfigError as error:
                if not dry_run:
                    self._process.metrics.add("promptlane_config_reloads", "refused")
                    _log.error("the configuration was not reloaded: %s", error)
                raise
            found = [*warnings(config, datetime.now(UTC)), *_needs_restart(before.config, config)]
            if dry_run:
                return found
            self.runtime.start()
            await before.stop(self.runtime)
        self._process.metrics.add("promptlane_config_reloads", "ok")
        for problem in found:
            _log.warning("%s", problem)
        _log.info("the configuration was reloaded")
        return found

    async def _rebuilt(self, config: Config, before: Runtime) -> Runtime:
        """What serves from now on. Endpoints that are found otherwise than before are asked for first, as a pool that
        has none would refuse requests."""
        sources = build_sources(config, self._process.clock, before)
        await ready_sources(sources)
        try:
            return build(config, self._process, before, sources)
        except ConfigError:
            await asyncio.gather(*(one.stop() for name, one in sources.items() if before.sources.get(name) is not one))
            raise

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

    async def _look_around(self) -> None:
        """Most workers are successors, and clients of the one that died wait already: they are taken when the worker
        knows who decides for its pools, and of each an engine that is well, or that none is; or after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                while not (  # noqa: ASYNC110  # nobody tells of a first probe
                    self._stopping.is_set() or all(map(_known, self.runtime.pools.values()))
                ):
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _open_ledger(self) -> None:
        """A database that is away only delays records: they wait in the spool."""
        if self._process.ledger is None:
            return
        try:
            await asyncio.to_thread(self._process.ledger.start)
        except DatabaseUnusable as error:
            raise CannotServe(f"state.ledger_url: {error}") from None

    def _data_listener(self) -> Listener:
        server = self._first.server
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

    def _admin_listener(self, operators: socket.socket | str) -> Listener:
        ledger = self._process.ledger
        record = ledger.add if ledger is not None else None
        app = admin_app(
            lambda: self.runtime, lambda: self._ready, self.reload, self._process.metrics, self._keys, record
        )
        where: dict[str, Any] = {"uds": operators} if isinstance(operators, str) else {}
        return listener(app, timeout_graceful_shutdown=1, **where)

    def _reload_by_signal(self) -> None:
        async def reload() -> None:
            with contextlib.suppress(ConfigError):  # logged and counted where it was found
                await self.reload()

        self._begin(reload(), "reload by SIGHUP")

    def _stand(self, data: Listener, doors: Sequence[socket.socket]) -> None:
        """Accepts from these too from now on."""
        self._begin(data.doors.only(doors), "doors of other workers")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _join(self) -> None:
        """From now on the other replicas know of this one. Raises CannotServe."""
        if self._process.replicas is None:
            return
        try:
            await self._process.replicas.start()
        except OSError as error:
            where = self._process.replicas.settings.listen
            raise CannotServe(f"replicas.listen: cannot listen on {where} ({error.strerror or error})") from None

    async def _drain(self, data: Listener, serving: asyncio.Task[None]) -> None:
        """Readiness off, pools handed over, answers that end their connections, time for balancers to see it, then no
        new connections; requests under way get their grace."""
        server = self.runtime.config.server
        self._ready = False
        if self._endpoints is not None:
            self._endpoints.look()  # up to now they were this process's to count
        if self._process.replicas is not None:
            await self._process.replicas.hand_over()
        _log.info("stopping: up to %g seconds for requests under way", server.shutdown_grace)
        data.let_go()
        await asyncio.sleep(server.shutdown_delay)
        data.last = await self._surroundings.relieved()
        data.closed = self._surroundings.closed
        data.should_exit = True
        await serving


def serve(path: Path, config: Config) -> None:
    """Runs the process to its end. Raises CannotServe, SecretUnavailable or ConfigError before it serves."""
    serve_in(ByItself(path, config), config, config)


def serve_in(surroundings: Surroundings, first: Config, config: Config) -> None:
    """The same anywhere."""
    sys.setswitchinterval(SWITCH_SECONDS)
    raise_file_limit()
    worker = surroundings.worker
    configure_logging(first.server.log_level, first.server.log_format, None if worker is None else worker.index)
    run(_serve(surroundings, first, config))


async def _serve(surroundings: Surroundings, first: Config, config: Config) -> None:
    await Serving(surroundings, first, config).run()


def _known(pool: Pool) -> bool:
    """Whether requests for it can be sent somewhere, or it is known that they cannot."""
    if pool.remote is not None and pool.remote.describe()["part"] == "alone":
        return False
    hot = [place.state for place in pool.places if place.state.endpoint.role is Role.HOT]
    well = any(place.available(pool.clock()) for place in pool.places)
    return well or all(state.health.probes is not ProbeState.UNKNOWN for state in hot)


def _needs_restart(before: Config, after: Config) -> list[Problem]:
    """Keys whose new value a running process cannot take: its listeners, or its database, were made of the old one."""
    keys = ("host", "port", "admin_host", "admin_port", "workers", "tls", "cors", "secret_file", "header_timeout",
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
