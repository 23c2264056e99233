"""Records chained and appended to the files of a folder: all of a batch on the disk, or nothing of it.

Floor: an adapter; blocks, and is used by one thread. Another thread may read what `durable` says and delete whole
segments before the last (`forget`).
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from policies.keyed_hash import KeyedHash
from policies.ledger.chain import Mark
from router.ledger.folder import sync_folder
from router.ledger.runs import Run
from router.ledger.segments import lines_of, segment_path, segments
from router.wire.record import Record

# Bounded so that what is in the database is soon off the disk, and a restart reads little.
_SEGMENT_BYTES = 8 * 1024 * 1024
_SEGMENTS = 8  # at least so many fit: the last one is never deleted
# Records of one write, about 800 kB: what a busy process has in one flush goes by one fsync or two. Fewer where the
# spool is small: were they too much for it, no record would ever be written.
_AT_ONCE, _RECORD_BYTES = 1024, 1024
_RECENT = 20  # writes that are kept for who moves their records: in 5 s there are 12 or, of 1,024 records each, some 15


class SpoolFull(Exception):
    """The bound of the spool is reached."""


@dataclass(frozen=True, slots=True)
class Durable:
    """What is on the disk for certain: all of the segments before `segment`, and of that one up to `end` (bytes)."""

    segment: int
    end: int


class Kept(NamedTuple):
    """Records of one write, which are on the disk for certain, up to `end` (bytes) of a segment."""

    run: Run
    segment: int
    end: int


class Spool:
    """Of one folder. `recent`: the last of what was appended, for who moves it and need not read it again. `at_once`:
    how many records to append at a time. `mark`: where its chain stands; `sync`: writes a file through to the disk."""

    def __init__(
        self, folder: Path, replica: str, key: bytes, mark: Mark, max_bytes: int, sync: Callable[[int], None] = os.fsync
    ) -> None:
        self.mark = mark
        self.recent: deque[Kept] = deque(maxlen=_RECENT)
        self._folder = folder
        self._replica = replica
        self._hash = KeyedHash(key).digest
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // _SEGMENTS)
        self.at_once = max(1, min(_AT_ONCE, self._segment_bytes // _RECORD_BYTES))
        self._sync = sync
        self._file: int | None = None
        self._first = 0  # of the segment that is written to
        self._sizes = {first: segment_path(folder, first).stat().st_size for first in segments(folder)}
        last = max(self._sizes, default=None)
        self.durable = Durable(last, self._sizes[last]) if last is not None else Durable(mark.sequence + 1, 0)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(list(self._sizes.values()))

    def append(self, records: Sequence[Record]) -> None:
        """Writes them behind all others. Raises SpoolFull or OSError; then none of them is written."""
        if not records:
            return
        hashes, bodies = self._chained(records)
        data = b"".join(lines_of(hashes, bodies))
        if self.size + len(data) > self._max_bytes:
            raise SpoolFull
        first = self._open()
        before = self._sizes[first]
        try:
            _write(self._descriptor, data)
            self._sync(self._descriptor)
        except OSError:
            self._take_back(before)
            raise
        end = before + len(data)
        run = Run(records, hashes[:-1], hashes[1:])
        self.mark = run.end
        self._sizes[first] = end
        self.durable = Durable(first, end)
        self.recent.append(Kept(run, first, end))
        if end >= self._segment_bytes:
            self.close()

    def forget(self, first: int) -> None:
        """That segment was deleted."""
        self._sizes.pop(first, None)

    def close(self) -> None:
        """The next record begins a new segment."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def _descriptor(self) -> int:
        assert self._file is not None  # noqa: S101  # `append` has opened it
        return self._file

    def _chained(self, records: Sequence[Record]) -> tuple[list[bytes], list[bytes]]:
        """The hash of the record before them and theirs (as `policies.ledger.chain.link_hash`), and their bodies."""
        (sequence, hashed), replica, keyed = self.mark, self._replica, self._hash
        hashes, bodies = [hashed], []
        for record in records:
            sequence += 1
            record.replica, record.sequence = replica, sequence
            body = record.body()
            hashed = keyed(hashed + body)
            hashes.append(hashed)
            bodies.append(body)
        return hashes, bodies

    def _open(self) -> int:
        """The segment that is written to; a new one where there is none."""
        if self._file is None:
            first = self.mark.sequence + 1
            path = segment_path(self._folder, first)
            # Without O_EXCL: an attempt before this one may have made it, and nothing in it counts.
            self._file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                sync_folder(self._folder)
            except OSError:
                self.close()
                raise
            self._sizes[first], self._first = 0, first
        return self._first

    def _take_back(self, size: int) -> None:
        """After a write that failed nothing can be said of what the file holds: the next one goes to a new segment,
        whose name says that nothing from there on counts in this one."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, size)
        with contextlib.suppress(OSError):
            self.close()
        self._file = None


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
