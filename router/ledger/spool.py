"""Records chained and appended to the files of a folder: all of a batch on the disk, or nothing of it.

Floor: an adapter; blocks, and is used by one thread. Another thread may read what `durable` says and delete whole
segments before the last (`forget`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from policies.ledger.chain import Link, Mark, link_hash
from router.ledger.folder import sync_folder
from router.ledger.segments import line_of, segment_path, segments
from router.wire.record import Record

# Bounded so that what is in the database is soon off the disk, and a restart reads little.
_SEGMENT_BYTES = 8 * 1024 * 1024
_SEGMENTS = 8  # at least so many fit: the last one is never deleted


class SpoolFull(Exception):
    """The bound of the spool is reached."""


@dataclass(frozen=True, slots=True)
class Durable:
    """What is on the disk for certain: all of the segments before `segment`, and of that one up to `end` (bytes)."""

    segment: int
    end: int


class Spool:
    """Of one folder. `mark`: where its chain stands; `sync`: writes a file through to the disk."""

    def __init__(
        self, folder: Path, replica: str, key: bytes, mark: Mark, max_bytes: int, sync: Callable[[int], None] = os.fsync
    ) -> None:
        self.mark = mark
        self._folder = folder
        self._replica = replica
        self._key = key
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // _SEGMENTS)
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
        data, mark = self._chained(records)
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
        self.mark = mark
        self._sizes[first] = before + len(data)
        self.durable = Durable(first, before + len(data))
        if before + len(data) >= self._segment_bytes:
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

    def _chained(self, records: Sequence[Record]) -> tuple[bytes, Mark]:
        mark, lines = self.mark, []
        for record in records:
            record.replica, record.sequence = self._replica, mark.sequence + 1
            body = record.body()
            link = Link(record.sequence, mark.hash, link_hash(self._key, mark.hash, body), body)
            lines.append(line_of(link))
            mark = link.mark
        return b"".join(lines), mark

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
