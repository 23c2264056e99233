"""From the files of one folder to the database: each record once, whatever ends in between.

Floor: an adapter; blocks. Only what is on the disk for certain is moved, so a chain never goes on otherwise than the
database has it. Where the database stands, it says itself; the note in the folder is for a restart without it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from policies.ledger.chain import Link, Mark, Purpose, seal
from router.ledger.segments import read_segment, segment_path, segments
from router.ledger.spool import Durable
from router.ledger.store import LedgerStore
from router.wire.record import Record, read_record

MOVED = 1000  # records of one transaction: some 20 ms, so that others have the database too
_NOTE = "shipped"


@dataclass(slots=True)
class _Batch:
    records: list[tuple[Record, Link]]
    segment: int
    end: int
    damaged: int = 0


class Mover:
    """Of one folder, whose name is the replica's. `durable`: how far its files count, None: nobody writes to them.
    `forget`: told of a segment that was deleted."""

    def __init__(
        self,
        folder: Path,
        key: bytes,
        store: LedgerStore,
        durable: Callable[[], Durable] | None = None,
        forget: Callable[[int], None] = lambda first: None,
    ) -> None:
        self.damaged = 0
        self.oldest: float | None = None  # moment of the first record that is not in the database; None: all are
        self._folder = folder
        self._key = key
        self._store = store
        self._durable = durable
        self._forget = forget
        self._moved = shipped(folder, key).sequence  # by the last note
        self._segment = 0
        self._end = 0

    def look(self) -> None:
        """Finds the oldest record that is not moved, whether the database answers or not. Raises OSError."""
        if self.oldest is not None:
            return
        batch = self._batch(self._segment, self._end, most=1)
        while batch.records and batch.records[-1][0].sequence <= self._moved:  # after a restart
            batch = self._batch(batch.segment, batch.end)
        self.oldest = next((one.at for one, _ in batch.records if one.sequence > self._moved), None)

    def move(self) -> int:
        """Moves a batch, and says how many there were: 0 where all is moved. Raises DatabaseAway, Forked or OSError."""
        batch = self._batch(self._segment, self._end)
        if batch.records:
            mark = self._store.put(self._folder.name, batch.records)
            note_shipped(self._folder, self._key, mark)
            self._moved = mark.sequence
        self.oldest = None
        self.damaged += batch.damaged
        self._segment, self._end = batch.segment, batch.end
        self._delete_moved()
        return len(batch.records) + batch.damaged

    def _batch(self, segment: int, end: int, most: int = MOVED) -> _Batch:
        # Asked for before the list is made, so that it names no file that is not in it.
        durable = self._durable() if self._durable is not None else None
        names = segments(self._folder)
        batch = _Batch([], segment, end)
        for first, following in zip_longest(names, names[1:]):
            if first < batch.segment or (durable is not None and first > durable.segment):
                continue
            if first > batch.segment:
                batch.segment, batch.end = first, 0
            last = durable.end if durable is not None and first == durable.segment else None
            if not _fill(batch, segment_path(self._folder, first), last, following, most):
                break
        return batch

    def _delete_moved(self) -> None:
        """Segments before the present one; the last stays, as it says where the chain goes on."""
        for first in segments(self._folder):
            if first < self._segment:
                segment_path(self._folder, first).unlink(missing_ok=True)
                self._forget(first)


def _fill(batch: _Batch, path: Path, last: int | None, following: int | None, most: int) -> bool:
    """False where the batch is full. `last`: where to end (bytes); `following`: the first record behind the file."""
    for line in read_segment(path, batch.end, last):
        record = read_record(line.link.body) if line.link is not None else None
        if record is None or line.link is None:
            batch.damaged += 1
        elif following is None or line.link.sequence < following:
            batch.records.append((record, line.link))
        batch.end = line.end
        if len(batch.records) + batch.damaged >= most:
            return False
    return True


def note_shipped(folder: Path, key: bytes, mark: Mark) -> None:
    """Where the database stands. Lost by a crash it does no harm, and on a full disk it is not written."""
    said = f"{mark.sequence} {mark.hash.hex()} {seal(key, Purpose.HEAD, folder.name, mark).hex()}\n"
    fresh = folder / f"{_NOTE}.new"
    with contextlib.suppress(OSError):
        fresh.write_text(said)
        os.replace(fresh, folder / _NOTE)


def shipped(folder: Path, key: bytes) -> Mark:
    """What the note says; the chain's beginning where there is none, or one that is not by this key."""
    try:
        number, hashed, sealed = (folder / _NOTE).read_text().split()
        mark = Mark(int(number), bytes.fromhex(hashed))
        genuine = seal(key, Purpose.HEAD, folder.name, mark) == bytes.fromhex(sealed)
    except (OSError, ValueError):
        return Mark()
    return mark if genuine else Mark()
