"""The tables of the ledger, on every kind of database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router.database.engine import Database
from router.ledger.store import LedgerStore
from tests.router.ledger.records import KEY


@pytest.fixture
def store(database_url: str) -> Iterator[LedgerStore]:
    made = LedgerStore(Database(database_url, 20.0), KEY)
    made.prepare()
    yield made
    made.database.close()
