"""Databases that tests of `router` may ask for.

Floor: tests only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import poll
from tests.servers import PostgresServer


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a file.db"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A schema that is empty again at the end."""
    yield postgres_server.url
    postgres_server.psql("drop schema public cascade; create schema public")


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(autouse=True, scope="module")
def no_exporter_is_left() -> Iterator[None]:
    """An exporter that still tries to reach a collector that is gone draws random waits, which hypothesis takes for a
    strategy's in the tests behind it."""
    yield
    poll("no exporter is left", lambda: not any(thread.name == "last spans" for thread in threading.enumerate()))
