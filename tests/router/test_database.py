"""The database room, on SQLite and on a real PostgreSQL: transactions, migrations, and what happens when it is away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect, select, text

from router.database import migrate
from router.database.engine import Database
from router.database.errors import DatabaseAway, DatabaseTooNew, DatabaseUnusable
from router.database.migrate import MIGRATIONS, VERSION_TABLE, prepare, version
from router.database.tables import HEAD, changes, key_changes, metadata
from tests.servers import PostgresServer, free_port, start_postgres

TIMEOUT = 20.0
"""Nothing here takes as long on a machine that is not busy; where waiting is what is tested, less is given."""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, TIMEOUT)
    yield opened
    opened.close()


def numbers(database: Database) -> dict[str, int]:
    with database.reading() as connection:
        return {row.subject: row.number for row in connection.execute(select(changes))}


def add(database: Database, subject: str) -> None:
    with database.writing() as connection:
        connection.execute(insert(changes).values(subject=subject, number=1, mark=""))


# -- migrations


def test_what_the_migrations_make_is_what_the_program_knows(database: Database) -> None:
    prepare(database)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert set(inspect(connection).get_table_names()) == {*metadata.tables, VERSION_TABLE}


def test_the_newest_migration_is_the_one_that_the_program_calls_so() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_preparing_again_keeps_what_is_there(database: Database) -> None:
    prepare(database)
    add(database, "mine")
    prepare(database)
    assert numbers(database) == {"keys": 0, "mine": 1}


def test_a_database_of_an_older_program_is_brought_up_to_date_with_all_that_it_holds(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    database.make_file()
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    add(database, "mine")
    prepare(database)
    assert numbers(database) == {"keys": 0, "mine": 1}
    with database.reading() as connection:
        assert connection.execute(select(version.c.version_num)).scalar() == HEAD
        assert {"ledger_records", "ledger_chains"} <= set(inspect(connection).get_table_names())
        assert connection.execute(select(key_changes)).all() == [(0, "", "")]


def test_replicas_that_start_together_take_turns(database_url: str) -> None:
    together = threading.Barrier(4)
    failures: list[Exception] = []

    def start() -> None:
        mine = Database(database_url, 60.0)
        together.wait()
        try:
            prepare(mine)
        except Exception as error:
            failures.append(error)
        mine.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    last = Database(database_url, TIMEOUT)
    assert numbers(last) == {"keys": 0}
    last.close()


def test_a_database_of_a_newer_program_is_refused_in_words_and_left_as_it_is(database: Database) -> None:
    prepare(database)
    with database.writing() as connection:
        connection.execute(version.update().values(version_num="9999"))
    with pytest.raises(DatabaseTooNew, match=r"version 9999.*newer Promptlane"):
        prepare(database)
    with database.reading() as connection:
        assert connection.execute(select(version.c.version_num)).scalar() == "9999"


def test_a_migration_that_fails_leaves_nothing_behind(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_way(*_: object) -> None:
        raise RuntimeError("the power went out")

    monkeypatch.setattr("alembic.op.bulk_insert", half_way, raising=True)
    with pytest.raises(RuntimeError, match="power"):
        prepare(database)
    with database.reading() as connection:
        assert inspect(connection).get_table_names() == []
    monkeypatch.undo()
    prepare(database)
    assert numbers(database) == {"keys": 0}


# -- transactions


def test_a_block_that_raises_changes_nothing(database: Database) -> None:
    prepare(database)

    def raising() -> None:
        with database.writing() as connection:
            connection.execute(insert(changes).values(subject="mine", number=1, mark=""))
            raise KeyError("mine")

    with pytest.raises(KeyError):
        raising()
    assert numbers(database) == {"keys": 0}


def test_writers_wait_for_each_other(database_url: str, database: Database) -> None:
    prepare(database)
    other = Database(database_url, TIMEOUT)
    with database.writing() as connection:
        connection.execute(changes.update().values(number=changes.c.number + 1))
        waiting = threading.Thread(target=lambda: add_one(other))
        waiting.start()
    waiting.join()
    assert numbers(other) == {"keys": 2}
    other.close()


def add_one(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(changes.update().values(number=changes.c.number + 1))


def test_no_connection_is_left_in_use(database: Database) -> None:
    prepare(database)
    for _ in range(10):  # more than a pool has
        numbers(database)
        with pytest.raises(DatabaseAway), database.writing() as connection:
            connection.execute(text("select * from nothing"))


# -- away


def test_a_deleted_file_is_away_and_never_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "one.db"
    database = Database(f"sqlite:///{file}", TIMEOUT)
    prepare(database)
    assert file.stat().st_mode & 0o077 == 0, "only its owner reads it"
    kept = file.read_bytes()
    file.unlink()
    with pytest.raises(DatabaseAway, match="unable to open"):
        numbers(database)
    assert not file.exists()
    file.write_bytes(kept)
    assert numbers(database) == {"keys": 0}


def test_a_file_that_is_no_database_is_away_in_words(tmp_path: Path) -> None:
    (tmp_path / "one.db").write_bytes(b"not a database at all " * 100)
    with pytest.raises(DatabaseAway, match="not a database"):
        prepare(Database(f"sqlite:///{tmp_path}/one.db", TIMEOUT))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseAway, match=r"nowhere/one\.db': No such file"):
        prepare(Database(f"sqlite:///{tmp_path}/nowhere/one.db", TIMEOUT))


def test_a_server_that_is_not_there_is_away_and_its_password_is_in_no_message() -> None:
    database = Database(f"postgresql://u:SECRET@127.0.0.1:{free_port()}/db", TIMEOUT)
    with pytest.raises(DatabaseAway, match="refused") as away:
        numbers(database)
    assert "SECRET" not in f"{away.value}{database}"


def test_a_url_that_is_none_is_unusable_and_not_repeated() -> None:
    with pytest.raises(DatabaseUnusable) as refused:
        Database("postgresql://u:SECRET@host:many/db", TIMEOUT)
    assert "SECRET" not in str(refused.value)


def test_without_the_driver_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.database.engine.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatabaseUnusable, match=r"promptlane\[postgres\]"):
        Database("postgresql://host/db", TIMEOUT)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """One that a test may stop."""
    server = start_postgres()
    yield server
    server.send(signal.SIGCONT)
    server.stop()


@pytest.mark.parametrize("ask", [numbers, add_one], ids=["reading", "writing"])
def test_a_server_that_has_stopped_is_given_up_and_found_again(
    own_postgres: PostgresServer, ask: Callable[[Database], object]
) -> None:
    patient = Database(own_postgres.url, TIMEOUT)
    prepare(patient)
    database = Database(own_postgres.url, 0.5)
    numbers(patient)
    with database.reading():
        pass  # now there is a connection in the pool
    own_postgres.send(signal.SIGSTOP)
    with pytest.raises(DatabaseAway):
        ask(database)
    own_postgres.send(signal.SIGCONT)
    assert numbers(patient) == {"keys": 0}
    database.close()
    patient.close()


def test_a_database_without_an_encoding_keeps_texts_as_they_are(own_postgres: PostgresServer) -> None:
    """As a server has it that was made under no locale; its driver would tell bytes there."""
    own_postgres.psql("create database plain template template0 encoding 'SQL_ASCII' locale 'C'")
    database = Database(own_postgres.url.removesuffix("/postgres") + "/plain", TIMEOUT)
    prepare(database)
    add(database, "größer als 日本")
    assert numbers(database) == {"keys": 0, "größer als 日本": 1}
    database.close()


def test_a_server_that_was_restarted_is_found_at_the_first_try(own_postgres: PostgresServer) -> None:
    database = Database(own_postgres.url, TIMEOUT)
    prepare(database)
    numbers(database)
    own_postgres.psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'promptlane'")
    assert numbers(database) == {"keys": 0}
    database.close()


def test_a_step_that_reads_all_there_is_may_take_longer_than_a_transaction(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = migrate._upgrade

    def slow(connection: Connection, found: str | None) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("select pg_sleep(4)"))
        upgrade(connection, found)

    monkeypatch.setattr(migrate, "_upgrade", slow)
    hasty = Database(database_url, 3.0)
    prepare(hasty)
    assert numbers(hasty) == {"keys": 0}
    hasty.close()
