"""When records are looked for again, and that those of the memory are moved as those of the files are.

Floor: tests only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from policies.ledger.chain import Mark
from policies.ledger.retention import Retention
from router.database.engine import Database
from router.database.errors import DatabaseAway
from router.ledger import mover as moving
from router.ledger import spool as spooling
from router.ledger.audit import audit_database, audit_spool
from router.ledger.mover import Mover
from router.ledger.segments import Entry
from router.ledger.shipper import Shipper
from router.ledger.spool import Spool
from router.ledger.store import LedgerStore, Wanted
from tests.router.ledger.records import KEY, REPLICA, request


def shipper(moves: list[int], folder: Path, *, roomy: bool) -> Shipper:
    """Whose mover finds so many records, one time after the other."""
    mover: Any = SimpleNamespace(look=lambda: None, move=lambda: moves.pop(0), moved=0)
    store: Any = SimpleNamespace(prepare=lambda: None, prune=lambda rule, now: 0)
    return Shipper(mover, folder, b"", cast("Any", store), Retention(), lambda: 0.0, lambda: 0.0, roomy=roomy)


@pytest.mark.parametrize(
    ("moves", "roomy", "seconds"),
    [([0], True, 1.0), ([40, 0], True, 1.0), ([80, 80, 0], True, 5.0), ([2000, 2000, 0], False, 1.0)],
)
def test_where_many_records_came_more_are_waited_for_unless_the_spool_is_small(
    tmp_path: Path, moves: list[int], roomy: bool, seconds: float
) -> None:
    assert shipper(moves, tmp_path, roomy=roomy)._turn(0.0) == seconds


class Moved:
    """A spool and who moves it to a database of its own, which can be away."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ledger.db"
        self.store = LedgerStore(Database(f"sqlite:///{self.file}", 5.0), KEY)
        self.store.prepare()
        self.path = folder / REPLICA
        self.path.mkdir()
        self.spool = Spool(self.path, REPLICA, KEY, Mark(), 8 * 4000)
        self.made = 0
        self.mover = self.made_anew()

    def made_anew(self) -> Mover:
        return Mover(self.path, KEY, self.store, lambda: self.spool.durable, self.spool.forget, self.spool.recent)

    def append(self, many: int) -> None:
        self.spool.append([request(self.made + number) for number in range(many)])
        self.made += many

    def move_without_a_database(self) -> None:
        aside = self.file.rename(self.file.with_suffix(".aside"))
        with pytest.raises(DatabaseAway):
            self.mover.move()
        aside.rename(self.file)

    @property
    def names(self) -> list[str | None]:
        return [record.request_id for record in self.store.find(Wanted(), 10_000)]


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[Moved]:
    made = Moved(tmp_path)
    yield made
    made.store.database.close()


def test_what_follows_what_was_moved_is_not_read_again(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    moved.append(2)
    assert moved.mover.move() == 2

    def unread(*_: object) -> Iterator[Entry]:
        raise AssertionError("the file is read")

    monkeypatch.setattr(moving, "read_entries", unread)
    moved.append(3)
    assert moved.mover.move() == 3
    assert moved.names == [str(number) for number in range(5)]


@pytest.mark.parametrize("room", [1, 7, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_however_little_memory_there_is_every_record_is_moved_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, seed: int
) -> None:
    monkeypatch.setattr(spooling, "_RECENT", room)
    monkeypatch.setattr(moving, "MOVED", 5)
    moved, chance = Moved(tmp_path), random.Random(seed)
    for _ in range(60):
        luck = chance.random()
        if luck < 0.6:
            moved.append(chance.randrange(1, 9))
        elif luck < 0.7:
            moved.append(1)
            moved.move_without_a_database()
        elif luck < 0.75:
            moved.mover = moved.made_anew()
        else:
            moved.mover.look()
            moved.mover.move()
    while moved.mover.move():
        pass
    assert moved.names == [str(number) for number in range(moved.made)]
    assert [one.problem for one in audit_database(moved.store, KEY, None, None)] == [None]
    assert [one.problem for one in audit_spool(tmp_path, KEY, None, None)] == [None]
    moved.store.database.close()
