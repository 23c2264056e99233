"""The parts of keys at run time, from a configuration.

Floor: with `router.assembly`. SQLAlchemy is imported with what is built here, and only where there is a database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from router.config import Config
from router.database.errors import DatabaseAway, DatabaseUnusable
from router.errors import Conflict, DatabaseUnavailable
from router.key_watch import KeyWatch, WatchSettings
from router.process import Process

if TYPE_CHECKING:
    from router.key_store import KeyStore


def keys_off() -> Conflict:
    """For whoever asks for keys at run time where there are none."""
    message = "Keys are not made at run time here: give state.ledger_url, or set keys.at_run_time: true."
    return Conflict(message, code="keys_off")


def open_store(config: Config, *, make: bool) -> KeyStore:
    """For a command: the store, its database ready. `make`: a SQLite file that does not exist is made. Raises Conflict
    where it is off, or DatabaseUnavailable."""
    from router.database.engine import Database
    from router.key_store import KeyStore

    if not config.keeps_keys:
        raise keys_off()
    try:
        database = Database(config.database_url, config.state.ledger_timeout)
        if database.file is not None and not make and not database.file.exists():
            where = database.file.absolute()
            raise DatabaseUnavailable(
                f"The database of keys does not exist: '{where}' (state.ledger_url). It was moved or deleted, this is "
                "another directory than the gateway's, or neither a gateway nor promptlane keys create has made it yet."
            )
        store = KeyStore(database)
        store.prepare()
    except (DatabaseAway, DatabaseUnusable) as error:
        raise DatabaseUnavailable(f"The database of keys cannot be used: {error}") from None
    return store


def key_watch(config: Config, process: Process, current: Callable[[], Config]) -> KeyWatch | None:
    """For a process: what keeps its keys, None where they are off. `current`: the configuration after reloads.

    Raises DatabaseUnusable.
    """
    if not config.keeps_keys:
        return None
    from router.database.engine import Database
    from router.key_store import KeyStore

    def settings() -> WatchSettings:
        keys = current().keys
        return WatchSettings(keys.look_seconds, keys.keep_seconds)

    store = KeyStore(Database(config.database_url, config.state.ledger_timeout))
    return KeyWatch(store, process.ring, process.metrics, settings, clock=process.clock, wall_clock=process.wall_clock)
