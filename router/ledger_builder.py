"""The ledger's parts, from a configuration.

Floor: with `router.assembly`. SQLAlchemy is imported with what is built here, and only where there is a database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from policies.ledger.retention import Retention
from router.config import Config
from router.database.errors import DatabaseAway, DatabaseUnusable
from router.endpoint_records import EndpointRecords
from router.errors import Conflict, DatabaseUnavailable
from router.pools import Pool
from router.secret import ledger_key
from router.usage_api import TenantUsage

if TYPE_CHECKING:
    from router.ledger.books import Ledger
    from router.ledger.store import LedgerStore
    from router.process import Process


class LedgerUnusable(Exception):
    """Records cannot be kept; the message names the key of the configuration and says why."""


def build_ledger(config: Config, secret: bytes, wall_clock: Callable[[], float]) -> Ledger | None:
    """For a process; None where no records are kept. Takes its folder of the spool. Raises LedgerUnusable."""
    if not config.keeps_records:
        return None
    from router.database.engine import Database
    from router.ledger.books import Ledger, LedgerSettings
    from router.ledger.store import LedgerStore

    section, key = config.ledger, ledger_key(secret)
    retention = Retention(section.retention_days, section.max_rows)
    spool = Path(section.spool_dir)
    settings = LedgerSettings(spool, key, section.max_spool_bytes, section.on_full, retention)
    try:
        store = LedgerStore(Database(config.database_url, config.state.ledger_timeout), key)
        return Ledger(settings, store, wall_clock)
    except DatabaseUnusable as error:
        raise LedgerUnusable(str(error)) from None
    except OSError as error:
        raise LedgerUnusable(f"ledger.spool_dir: '{spool}' cannot be used ({error.strerror or error})") from None


def tenant_usage(ledger: Ledger | None, wall_clock: Callable[[], float]) -> TenantUsage | None:
    """For a process: what tenants ask of their usage; None where no records are kept."""
    if ledger is None:
        return None
    from router.ledger.usage import UsageTables

    database = ledger.store.database
    return TenantUsage(UsageTables(database), database.timeout, wall_clock)


def endpoint_records(process: Process, pools: Callable[[], Iterable[Pool]]) -> EndpointRecords | None:
    """For a process: who writes down the time of its `pools`' endpoints; None where no records are kept."""
    if process.ledger is None:
        return None
    return EndpointRecords(pools, process.ledger.add, process.metrics, process.clock, process.wall_clock)


def open_ledger(config: Config, key: bytes) -> LedgerStore:
    """For a command that reports: the store, its database ready; one that does not exist is not made. Raises Conflict
    where there is none, or DatabaseUnavailable."""
    from router.database.engine import Database
    from router.ledger.store import LedgerStore

    if not config.keeps_records:
        raise Conflict("No records are kept here: give state.ledger_url, or set ledger.enabled: true.")
    try:
        database = Database(config.database_url, config.state.ledger_timeout)
        if database.file is not None and not database.file.exists():
            where = database.file.absolute()
            raise DatabaseUnavailable(
                f"The database of the ledger does not exist: '{where}' (state.ledger_url). It was moved or deleted, "
                "this is another directory than the gateway's, or no gateway has made it yet."
            )
        store = LedgerStore(database, key)
        store.prepare()
    except (DatabaseAway, DatabaseUnusable) as error:
        raise DatabaseUnavailable(f"The database of the ledger cannot be used: {error}") from None
    return store
