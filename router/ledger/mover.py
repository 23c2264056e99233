"""From the files of one folder to the database: each record once, whatever ends in between.

Floor: an adapter; blocks. Only what is on the disk for certain is moved, so a chain never goes on otherwise than the
database has it. Where the database stands, it says itself; the note in the folder is for a restart without it.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from policies.ledger.chain import Mark, Purpose, seal
from router.ledger.runs import Run
from router.ledger.segments import read_entries, segment_path, segments
from router.ledger.spool import Durable, Kept
from router.ledger.store import LedgerStore
from router.wire.record import Record

MOVED = 4000  # records of one transaction: some 40 ms, so that others have the database too
_NOTE = "shipped"


@dataclass(slots=True)
class _Batch:
    segment: int
    end: int
    damaged: int = 0
    records: list[Record] = field(default_factory=list)
    previous: list[bytes] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    @property
    def run(self) -> Run:
        return Run(self.records, self.previous, self.hashes)

    def add(self, run: Run) -> None:
        self.records += run.records
        self.previous += run.previous
        self.hashes += run.hashes


class Mover:
    """Of one folder, whose name is the replica's. `durable`: how far its files count, None: nobody writes to them.
    `forget`: told of a segment that was deleted. `recent`: the last of what they hold, so that it need not be read;
    believed only where it follows what this mover has moved itself."""

    def __init__(
        self,
        folder: Path,
        key: bytes,
        store: LedgerStore,
        durable: Callable[[], Durable] | None = None,
        forget: Callable[[int], None] = lambda first: None,
        recent: deque[Kept] | None = None,
    ) -> None:
        self.damaged = 0
        self.oldest: float | None = None  # moment of the first record that is not in the database; None: all are
        self._folder = folder
        self._key = key
        self._store = store
        self._durable = durable
        self._forget = forget
        self._recent = recent if recent is not None else deque[Kept]()
        self._continues = False  # the database has what was moved, and nothing is known of what it lost
        self._moved = shipped(folder, key).sequence  # by the last note
        self._segment = 0
        self._end = 0

    @property
    def chain(self) -> str:
        """The folder's name, which is the replica's."""
        return self._folder.name

    @property
    def moved(self) -> int:
        """How far the chain is in a database, by the last note: the sequence of a record, 0 where nothing is."""
        return self._moved

    def look(self) -> None:
        """Finds the oldest record that is not moved, whether the database answers or not. Raises OSError."""
        if self.oldest is not None:
            return
        if kept := self._kept():
            self.oldest = kept[0].run.behind(self._moved).records[0].at
            return
        batch = self._batch(self._segment, self._end, 1)
        while batch.records and batch.records[-1].sequence <= self._moved:  # after a restart
            batch = self._batch(batch.segment, batch.end)
        self.oldest = next((one.at for one in batch.records if one.sequence > self._moved), None)

    def move(self) -> int:
        """Moves a batch, and says how many there were: 0 where all is moved. Raises DatabaseAway, Forked or OSError."""
        batch = self._next()
        if batch.records:
            self._continues = False
            mark = self._store.put(self._folder.name, batch.run)
            note_shipped(self._folder, self._key, mark)
            self._moved = mark.sequence
            self._continues = mark.sequence == batch.records[-1].sequence
        self.oldest = None
        self.damaged += batch.damaged
        self._segment, self._end = batch.segment, batch.end
        self._delete_moved()
        return len(batch.records) + batch.damaged

    def _next(self) -> _Batch:
        """What is moved next. After a database that did not take it, by the files: they alone say what is there."""
        batch = _Batch(self._segment, self._end)
        for one in self._kept():
            batch.add(one.run.behind(self._moved))
            batch.segment, batch.end = one.segment, one.end
            if len(batch.records) >= MOVED:
                break
        return batch if batch.records else self._batch(self._segment, self._end)

    def _kept(self) -> Sequence[Kept]:
        """What follows what is moved, as far as it is in memory and nothing is missing between."""
        recent = self._recent
        while recent and recent[0].run.end.sequence <= self._moved:
            recent.popleft()  # or the next one, if this one has just made room for another: then the files say the rest
        kept = recent.copy() if self._continues else ()
        return kept if kept and kept[0].run.begin.sequence <= self._moved else ()

    def _batch(self, segment: int, end: int, most: int = MOVED) -> _Batch:
        # Asked for before the list is made, so that it names no file that is not in it.
        durable = self._durable() if self._durable is not None else None
        names = segments(self._folder)
        batch = _Batch(segment, end)
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
    for record, link, end in read_entries(path, batch.end, last):
        if record is None or link is None:
            batch.damaged += 1
        elif following is None or link.sequence < following:
            batch.add(Run((record,), (link.previous,), (link.hash,)))
        batch.end = end
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
