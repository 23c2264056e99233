"""Transactions on the database that `state.ledger_url` names.

Floor: an adapter over SQLAlchemy Core; blocks. Whatever a driver raises leaves here as `DatabaseAway`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from router.database.deadline import broken_off_after
from router.database.errors import DatabaseAway, DatabaseUnusable

_CONNECTIONS = 2  # per process: one looks for changes while another makes one
_WRITES = "promptlane_writes"
# What a transaction of records changes (`router.ledger.mover.MOVED`) fits: what does not, SQLite writes through to the
# disk on the way.
_CACHE_KIB = 16 * 1024


class Database:
    """One database. `timeout`: seconds for a connection, a lock, and a transaction's wait for the server."""

    def __init__(self, url: str, timeout: float) -> None:
        """Raises DatabaseUnusable where the URL cannot be one, or its driver is not installed."""
        self.timeout = timeout
        self._url = _parsed(url)
        self.file = Path(self._url.database or "") if self._url.get_backend_name() == "sqlite" else None
        self._engine = self._sqlite(self.file) if self.file is not None else self._postgres()

    def __str__(self) -> str:
        """As operators may see it: without a password, and where a file is whatever the working directory."""
        if self.file is not None:
            return f"sqlite:///{self.file.absolute()}"
        return self._url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing. Raises DatabaseAway."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, seconds: float | None = None) -> Iterator[Connection]:
        """A transaction that may change everything; committed at the end of the block. `seconds` that it may take,
        where not `timeout`. Raises DatabaseAway."""
        with self._transaction(writes=True, seconds=seconds) as connection:
            yield connection

    def make_file(self) -> None:
        """Creates SQLite's file where it is missing, for its owner only. Nothing else does: a database that was deleted
        is away, and must not look like one without keys. Raises DatabaseAway."""
        if self.file is None or self.file.exists():
            return
        try:
            os.close(os.open(self.file, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            raise DatabaseAway(f"cannot create '{self.file}': {error.strerror}") from None

    def close(self) -> None:
        """Closes what is idle; transactions under way end by themselves."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool, seconds: float | None = None) -> Iterator[Connection]:
        with _told_as_away(), self._connected() as connection:
            connection.execution_options(**{_WRITES: writes})
            patience = self.timeout if seconds is None else seconds
            with broken_off_after(patience, _descriptor(connection)), connection.begin():
                yield connection

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        connection = self._engine.connect()
        try:
            if not self._answers(connection):
                connection.close()
                connection = self._engine.connect()  # the pool forgot the others too: this one is new
            yield connection
        finally:
            connection.close()

    def _answers(self, connection: Connection) -> bool:
        """Whether a pooled connection still has a server: it may have been restarted since. SQLite's is always new."""
        if self.file is not None:
            return True
        try:
            with broken_off_after(self.timeout, _descriptor(connection)):
                connection.exec_driver_sql("select 1")
                connection.rollback()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return False
        return True

    def _sqlite(self, file: Path) -> Engine:
        uri = f"file:{quote(str(file))}?mode=rw"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(uri, uri=True, timeout=self.timeout, isolation_level=None, check_same_thread=False)

        # Opened anew each time, which costs less than a millisecond: a file put in the place of another is seen.
        engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgres(self) -> Engine:
        arguments: dict[str, Any] = {
            "connect_timeout": max(2, math.ceil(self.timeout)),  # libpq takes whole seconds, 2 at least
            "application_name": "promptlane",
            "client_encoding": "utf8",  # a database without one (SQL_ASCII) would tell bytes
            "prepare_threshold": None,  # a statement prepared on one server may be sent to another by a pooler between
        }
        return create_engine(
            self._url.set(drivername="postgresql+psycopg"),
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=self.timeout,
            connect_args={name: value for name, value in arguments.items() if name not in self._url.query},
        )


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):  # its message would repeat the URL, and the password in it
        raise DatabaseUnusable("state.ledger_url: this is no URL of a database") from None
    if parsed.get_backend_name() == "postgresql" and importlib.util.find_spec("psycopg") is None:
        raise DatabaseUnusable("state.ledger_url: PostgreSQL needs its driver: pip install 'promptlane[postgres]'")
    return parsed


def _begin_sqlite(connection: Connection) -> None:
    """SQLite gives a lock for writing only to who asks at the beginning: one who reads first may be refused later."""
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    if writes:
        connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE_KIB}")


def _descriptor(connection: Connection) -> int | None:
    """The socket to the server, where there is one."""
    if connection.dialect.name != "postgresql":
        return None
    raw: Any = connection.connection.dbapi_connection
    return int(raw.fileno())


@contextlib.contextmanager
def _told_as_away() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        raise DatabaseAway((said.strip().splitlines() or [type(error).__name__])[0]) from error
