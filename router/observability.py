"""What a process is watched by: its access log, its traces, the collectors of its metrics.

Floor: assembles, for `router.serve`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from router.access_log import AccessLog
from router.assembly import Runtime
from router.cache_metrics import CacheCollector
from router.config import Config
from router.discovery_metrics import DiscoveryCollector
from router.key_metrics import KeyCollector
from router.key_watch import KeyWatch
from router.learned_metrics import LearnedCollector
from router.ledger_metrics import LedgerCollector
from router.output_metrics import OutputCollector
from router.process import Process
from router.service_metrics import ServiceCollector
from router.surroundings import CannotServe
from router.tracing import Tracing, TracingUnusable


def build_access_log(config: Config) -> AccessLog | None:
    """None where requests are not logged."""
    return AccessLog(config.server.access_log) if config.server.access_log is not None else None


def build_tracing(config: Config) -> Tracing | None:
    """None where requests are not traced. Raises CannotServe."""
    if (found := config.tracing) is None:
        return None
    try:
        return Tracing(found.endpoint, found.sample, time.monotonic, time.time)
    except TracingUnusable as error:
        raise CannotServe(f"tracing: {error}") from None


def open_access_log(process: Process, config: Config) -> None:
    """Raises CannotServe."""
    try:
        if process.access is not None:
            process.access.open()
    except OSError as error:
        where = config.server.access_log
        raise CannotServe(f"server.access_log: {where} cannot be written ({error.strerror})") from None


def collect(process: Process, runtime: Callable[[], Runtime], keys: KeyWatch | None) -> None:
    """Shows a process's live state at each scrape. `runtime`: the one of now; `keys`: None without a database."""
    process.metrics.watch_pools(lambda: runtime().pools.values())
    register = process.metrics.registry.register
    register(
        ServiceCollector(
            lambda: runtime().gateway.directory.by_id.values(),
            lambda: any(pool.reaches_one() for pool in runtime().pools.values()),
        )
    )
    register(DiscoveryCollector(runtime))
    register(LearnedCollector(lambda: runtime().gateway.models, process.lengths))
    register(KeyCollector(lambda: runtime().gateway.directory, keys, process.clock, process.wall_clock))
    register(CacheCollector(lambda: caches.of if (caches := runtime().caches) is not None else {}))
    register(LedgerCollector(process.ledger))
    outputs = process.ledger.writer.outputs if process.ledger is not None else None
    register(OutputCollector(outputs, lambda: runtime().gateway.models))
    if process.access is not None:
        register(process.access)
