"""The tables made, and changed to what the program knows, under a lock: replicas that start together take turns.

Floor: an adapter; blocks. Alembic is imported only where something is to be changed.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table, text

from router.database.engine import Database
from router.database.errors import DatabaseTooNew
from router.database.tables import HEAD

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "promptlane_version"  # not Alembic's own name: the database may be shared with other programs
version = table(VERSION_TABLE, column("version_num"))
_LOCK = 0x70726F6D70746C6E  # "promptln": PostgreSQL's advisory locks are numbers, the same for all of a database

# A step may have to read every record that there is; broken off, it would begin anew at each start, and never end.
_UPGRADE_SECONDS = 1800.0


def prepare(database: Database) -> None:
    """Makes the database fit the program. Raises DatabaseTooNew or DatabaseAway; then nothing was changed."""
    database.make_file()
    with database.reading() as connection:
        if _version(connection) == HEAD:
            return
    with database.writing(_UPGRADE_SECONDS) as connection:
        _lock(connection, database.timeout)
        found = _version(connection)  # another process may have been here meanwhile
        if found != HEAD:
            _upgrade(connection, found)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(select(version.c.version_num)).scalar()
    return str(found) if found is not None else None


def _lock(connection: Connection, seconds: float) -> None:
    """SQLite has it already: by the beginning of a transaction that writes."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("select set_config('lock_timeout', :most, true)"), {"most": f"{int(seconds * 1000)}ms"})
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _upgrade(connection: Connection, found: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise DatabaseTooNew(
            f"the database is at version {found}, which this program does not know (it knows {HEAD}): a newer "
            "Promptlane has changed it; start that version, or a copy of the database from before"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
