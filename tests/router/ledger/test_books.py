"""The whole ledger of a process, on SQLite: from queue to table, over outages, crashes and folders left behind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from policies.ledger.backlog import OnFull
from policies.ledger.chain import Mark
from policies.ledger.retention import DAY, Retention
from router.database.engine import Database
from router.database.errors import DatabaseTooNew
from router.database.migrate import version
from router.database.tables import ledger_records
from router.ledger import shipper
from router.ledger.audit import audit_database, audit_spool
from router.ledger.books import Ledger, LedgerSettings
from router.ledger.folder import folders, take_folder
from router.ledger.mover import Mover, note_shipped, shipped
from router.ledger.segments import segment_path, segments
from router.ledger.spool import Spool
from router.ledger.store import LedgerStore, Wanted
from router.ledger.writer import MOST_WAITING
from tests.router.ledger.records import AT, KEY, OTHER, REPLICA, request


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(shipper, "_FIRST_WAIT", 0.02)
    monkeypatch.setattr(shipper, "_LONGEST_WAIT", 0.1)
    monkeypatch.setattr(shipper, "_TIDY_SECONDS", 0.05)


class House:
    """A folder with a spool and a database, and processes that come and go."""

    def __init__(self, folder: Path) -> None:
        self.spool = folder / "spool"
        self.file = folder / "ledger.db"
        self.now = AT

    def store(self) -> LedgerStore:
        return LedgerStore(Database(f"sqlite:///{self.file}", 20.0), KEY)

    def process(self, retention: Retention | None = None, key: bytes = KEY, most: int = 2**22) -> Ledger:
        settings = LedgerSettings(self.spool, key, most, OnFull.ALLOW, retention or Retention())
        return Ledger(settings, LedgerStore(Database(f"sqlite:///{self.file}", 20.0), key), lambda: self.now)

    def names(self) -> list[str]:
        with self.store().database.reading() as connection:
            columns = (ledger_records.c.replica, ledger_records.c.sequence)
            wanted = select(ledger_records.c.request_id).order_by(*columns)
            return [str(name) for name in connection.execute(wanted).scalars()]

    def problems(self) -> list[str | None]:
        spool = [finding.problem for finding in audit_spool(self.spool, KEY, None, None)]
        return [*(finding.problem for finding in audit_database(self.store(), KEY, None, None)), *spool]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_records_reach_the_database_and_a_stop_leaves_none_behind(house: House) -> None:
    ledger = house.process()
    ledger.start()
    for number in range(1200):  # several transactions
        ledger.add(request(number))
    until(lambda: len(house.names()) == 1200)
    ledger.add(request("last"))
    ledger.stop()
    assert house.names() == [*map(str, range(1200)), "last"]
    assert house.problems() == [None, None]
    assert ledger.shipper.lag == 0.0


def test_the_next_process_goes_on_with_the_chain(house: House) -> None:
    replicas = set()
    for name in ("a", "b", "c"):
        ledger = house.process()
        replicas.add(ledger.replica)
        ledger.start()
        ledger.add(request(name))
        ledger.stop()
    assert (len(replicas), house.names(), house.problems()) == (1, ["a", "b", "c"], [None, None])


def test_processes_beside_each_other_have_chains_of_their_own(house: House) -> None:
    first, second = house.process(), house.process()
    first.start()
    second.start()
    first.add(request("a"))
    second.add(request("b"))
    first.stop()
    second.stop()
    assert first.replica != second.replica
    assert sorted(house.names()) == ["a", "b"]
    assert house.problems() == [None] * 4


def test_a_database_that_is_away_only_delays(house: House, caplog: pytest.LogCaptureFixture) -> None:
    ledger = house.process()
    ledger.start()
    ledger.add(request("before"))
    until(lambda: house.names() == ["before"])
    aside = house.file.rename(house.file.with_suffix(".aside"))
    for number in range(300):
        ledger.add(request(number))
    until(lambda: ledger.shipper.database_errors > 1 and ledger.writer.waiting == 0)
    house.now += 30.0
    until(lambda: ledger.shipper.lag == pytest.approx(30.0))
    aside.rename(house.file)
    until(lambda: len(house.names()) == 301)
    until(lambda: ledger.shipper.lag == 0.0)
    ledger.stop()
    assert house.names() == ["before", *map(str, range(300))]
    assert house.problems() == [None, None]
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1, "once for as long as it lasts"
    assert "the database takes records again" in caplog.text


def test_the_spools_bound_holds_while_the_database_is_away_and_what_was_lost_leaves_a_gap(house: House) -> None:
    ledger = house.process(most=2**20)
    ledger.start()
    ledger.add(request("before"))
    until(lambda: house.names() == ["before"])
    aside = house.file.rename(house.file.with_suffix(".aside"))
    for number in range(1500):  # more than the spool takes, so that those behind them wait in memory
        ledger.add(request(number, detail={"text": "x" * 700}))
    until(lambda: ledger.writer.failures["spool_full"] >= 1)
    assert ledger.spool.size <= 2**20
    for number in range(MOST_WAITING):
        ledger.add(request(f"late-{number}"))
    lost = ledger.writer.backlog.lost
    assert 0 < lost < 1500
    assert ledger.accepts, "on_full: allow"
    aside.rename(house.file)
    kept = 1 + 1500 + MOST_WAITING - lost
    until(lambda: len(house.names()) == kept + 1)
    ledger.stop()
    assert house.names() == [
        "before", *map(str, range(1500)), *(f"late-{number}" for number in range(MOST_WAITING - lost)), "None",
    ]  # fmt: skip
    assert house.problems() == [None, None]
    (gap,) = house.store().find(Wanted(kind="gap"), 10)
    assert gap.detail is not None
    assert gap.detail["lost"] == lost


def test_a_process_that_starts_without_a_database_keeps_records_for_it(house: House) -> None:
    house.file.mkdir()  # no database can be opened there
    ledger = house.process()
    ledger.start()
    ledger.add(request("a"))
    house.now += 7.0
    until(lambda: ledger.shipper.lag == pytest.approx(7.0))
    ledger.stop()
    house.file.rmdir()
    ledger = house.process()
    ledger.start()
    ledger.stop()
    assert (house.names(), house.problems()) == (["a"], [None, None])


def test_a_database_of_a_newer_program_is_refused_at_the_start(house: House) -> None:
    store = house.store()
    store.prepare()
    with store.database.writing() as connection:
        connection.execute(version.update().values(version_num="9999"))
    ledger = house.process()
    with pytest.raises(DatabaseTooNew):
        ledger.start()


def test_a_crash_between_the_database_and_its_note_duplicates_nothing(house: House, tmp_path: Path) -> None:
    store = house.store()
    store.prepare()
    folder = tmp_path / REPLICA
    folder.mkdir()
    spool = Spool(folder, REPLICA, KEY, Mark(), 2**20)
    spool.append([request(number) for number in range(10)])
    Mover(folder, KEY, store).move()
    (folder / "shipped").unlink()
    again = Mover(folder, KEY, store)
    while again.move():
        pass
    assert house.names() == [str(number) for number in range(10)]
    assert shipped(folder, KEY) == spool.mark


def test_what_is_not_on_the_disk_for_certain_is_not_moved(house: House, tmp_path: Path) -> None:
    store = house.store()
    store.prepare()
    folder = tmp_path / REPLICA
    folder.mkdir()
    spool = Spool(folder, REPLICA, KEY, Mark(), 2**20)
    spool.append([request("a")])
    durable = spool.durable
    spool.append([request("b")])
    mover = Mover(folder, KEY, store, lambda: durable)
    mover.move()
    assert house.names() == ["a"]
    durable = spool.durable
    mover.move()
    assert house.names() == ["a", "b"]


def test_segments_that_were_moved_are_deleted_but_for_the_last(house: House, tmp_path: Path) -> None:
    store = house.store()
    store.prepare()
    folder = tmp_path / REPLICA
    folder.mkdir()
    spool = Spool(folder, REPLICA, KEY, Mark(), 8 * 700)
    forgotten: list[int] = []
    for number in range(10):
        spool.append([request(number)])
    before = segments(folder)
    mover = Mover(folder, KEY, store, lambda: spool.durable, forgotten.append)
    while mover.move():
        pass
    assert segments(folder) == before[-1:]
    assert forgotten == before[:-1]
    assert house.names() == [str(number) for number in range(10)]


def test_a_damaged_line_is_left_out_and_told_and_all_others_are_moved(house: House, tmp_path: Path) -> None:
    store = house.store()
    store.prepare()
    folder = tmp_path / REPLICA
    folder.mkdir()
    Spool(folder, REPLICA, KEY, Mark(), 2**20).append([request("a"), request("b"), request("c")])
    path = segment_path(folder, 1)
    path.write_bytes(path.read_bytes().replace(b'"request_id":"b"', b'"request_id" "b"'))
    mover = Mover(folder, KEY, store)
    while mover.move():
        pass
    assert (house.names(), mover.damaged) == (["a", "c"], 1)
    (finding,) = audit_database(store, KEY, None, None)
    assert finding.problem == "record 2 is missing"


def test_a_folder_that_a_process_left_behind_is_emptied_by_another(house: House) -> None:
    dead = take_folder(house.spool, "")  # whatever its key was
    dead.release()
    folder = dead.path.rename(house.spool / REPLICA)
    held = take_folder(house.spool, REPLICA.split("-")[0])  # so that the next process gets another one
    spool = Spool(folder, REPLICA, KEY, Mark(), 2**20)
    spool.append([request("left"), request("behind")])
    spool.close()
    ledger = house.process()
    held.release()
    ledger.start()
    until(lambda: sorted(house.names()) == ["behind", "left"] if house.file.exists() else False)
    ledger.stop()
    assert len(list(folders(house.spool))) == 2
    assert house.problems() == [None, None, None], "an empty chain is whole"


def test_with_another_secret_another_chain_begins(house: House) -> None:
    for key in (KEY, OTHER, KEY):
        ledger = house.process(key=key)
        ledger.start()
        ledger.add(request("a"))
        ledger.stop()
    found = {finding.chain: finding for finding in audit_database(house.store(), KEY, None, None)}
    assert sorted((finding.records, finding.problem is None) for finding in found.values()) == [(0, False), (2, True)]


def test_old_records_are_deleted_while_it_runs(house: House) -> None:
    ledger = house.process(Retention(days=1.0))
    ledger.start()
    ledger.add(request("old", at=AT))
    until(lambda: house.names() == ["old"])
    house.now = AT + 2 * DAY
    ledger.add(request("new", at=house.now))
    until(lambda: house.names() == ["new"])
    ledger.stop()
    assert ledger.shipper.pruned == 1
    assert house.problems() == [None, None]


def test_a_chain_whose_end_the_disk_has_lost_goes_on_behind_what_the_database_has(house: House) -> None:
    ledger = house.process()
    ledger.start()
    ledger.add(request("a"))
    ledger.add(request("b"))
    until(lambda: len(house.names()) == 2)
    ledger.stop()
    folder = house.spool / ledger.replica
    path = segment_path(folder, segments(folder)[0])
    path.write_bytes(path.read_bytes()[:-50])  # a power cut, and a disk that had said that all is written
    ledger = house.process()
    ledger.start()
    ledger.add(request("c"))
    ledger.stop()
    assert house.names() == ["a", "b", "c"]
    assert [finding.problem for finding in audit_database(house.store(), KEY, None, None)] == [None]


def test_a_note_that_was_forged_or_torn_counts_for_nothing(tmp_path: Path) -> None:
    folder = tmp_path / REPLICA
    folder.mkdir()
    mark = Mark(7, b"h" * 32)
    note_shipped(folder, KEY, mark)
    assert shipped(folder, KEY) == mark
    assert shipped(folder, OTHER) == Mark()
    note = folder / "shipped"
    for text in (note.read_text()[:-9], note.read_text().replace("7 ", "8 ", 1), "", "7"):
        note.write_text(text)
        assert shipped(folder, KEY) == Mark()


def test_a_folder_that_cannot_be_used_is_an_error_at_the_start(house: House) -> None:
    house.spool.write_text("a file")
    with pytest.raises(OSError, match=r"exists|directory"):
        house.process()


def anew(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "put the old database back" in one.getMessage()]


def test_a_new_database_in_the_place_of_one_that_had_records_is_told(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    lived: list[bool] = []
    for name in ("a", "b", "c"):
        if name == "b":
            assert anew(caplog) == [], "the first one ever is as it should be"
            house.file.unlink()
        ledger = house.process()
        ledger.start()
        lived.append(ledger.shipper.begun_anew)
        ledger.add(request(name))
        ledger.stop()
    (said,) = anew(caplog)
    assert said.startswith(f"sqlite:///{house.file} has none")
    assert f"none of the 1 records of chain {ledger.replica}" in said
    assert lived == [False, True, False], "and once only"
    assert house.names() == ["a", "b", "c"], "what the spool still had is moved again"


def test_a_database_that_is_away_at_the_start_is_not_taken_for_a_new_one(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    first = house.process()
    first.start()
    first.add(request("a"))
    first.stop()
    aside = house.file.rename(house.file.with_suffix(".aside"))
    house.file.mkdir()  # what no database can be opened of
    second = house.process()
    second.start()
    until(lambda: second.shipper.database_errors > 1)
    house.file.rmdir()
    aside.rename(house.file)
    second.add(request("b"))
    until(lambda: house.names() == ["a", "b"])
    second.stop()
    assert anew(caplog) == []
