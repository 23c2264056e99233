"""The files of a spool: lines of records, in segments named by the sequence of their first; and what a crash leaves.

Floor: an adapter around files; blocks. A line is `HASH PREVIOUS BODY`, both hashes in hexadecimal, and counts only with
the line end behind it. A segment ends where the next one begins: lines with a later sequence are the rest of a write
that failed, and were written again.
"""

from __future__ import annotations

import contextlib
import os
from binascii import hexlify, unhexlify
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple

from policies.ledger.chain import HASH_BYTES, Link, Mark, is_genuine
from router.wire.record import Record, read_record, sequence_of

_SUFFIX, _ASIDE = ".log", ".cut"
_HEX = 2 * HASH_BYTES
_BODY = 2 * _HEX + 2  # where the body of a line begins


class Line(NamedTuple):
    """A line of a segment. `link` is None where it is none; `end`: the place behind it, in bytes; `torn`: it has no
    end of its own, as one that is being written."""

    link: Link | None
    end: int
    torn: bool = False


class Entry(NamedTuple):
    """A line with what it says. None where it is none, or where it says nothing that this program knows."""

    record: Record | None
    link: Link | None
    end: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a restart finds. `mark`: where the chain goes on; `cut`: bytes of a torn end; `damaged`: lines that were no
    torn end and yet are not as they were written."""

    mark: Mark
    cut: int = 0
    damaged: int = 0


def lines_of(hashes: Sequence[bytes], bodies: Iterable[bytes]) -> list[bytes]:
    """Of records that follow each other. `hashes`: of the one before them, then theirs."""
    told = list(map(hexlify, hashes))
    return [b"%b %b %b\n" % line for line in zip(told[1:], told, bodies, strict=False)]


def read_line(line: bytes) -> Link | None:
    """None where it is none: torn, or damaged."""
    return _link(line, sequence_of(line[_BODY:-1]))


def _link(line: bytes, sequence: int | None) -> Link | None:
    """Of a line whose body says that it is the one with this number."""
    if line[-1:] != b"\n" or line[_HEX : _HEX + 1] != b" " or line[_BODY - 1 : _BODY] != b" ":
        return None
    if line[:_BODY] != line[:_BODY].lower():
        return None  # the same number to whoever reads it, and yet not what was written
    if sequence is None:
        return None
    try:
        hashed, previous = unhexlify(line[:_HEX]), unhexlify(line[_HEX + 1 : _BODY - 1])
    except ValueError:
        return None
    return Link(sequence, previous, hashed, line[_BODY:-1])


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}{_SUFFIX}"


def segments(folder: Path) -> list[int]:
    """The first sequence of each, in order. Raises OSError."""
    names = (path.stem for path in folder.iterdir() if path.suffix == _SUFFIX)
    return sorted(int(name) for name in names if name.isdecimal())


def read_segment(path: Path, start: int = 0, end: int | None = None) -> Iterator[Line]:
    """Its lines from one place to another (bytes; None: to the end of the file). Raises OSError."""
    with path.open("rb") as file:
        yield from _lines(file, start, end)


def read_entries(path: Path, start: int = 0, end: int | None = None) -> Iterator[Entry]:
    """As `read_segment`; each line is decoded once. Raises OSError."""
    with path.open("rb") as file:
        for line, at in _raw_lines(file, start, end):
            record = read_record(line[_BODY:-1])
            yield Entry(record, _link(line, record.sequence) if record is not None else read_line(line), at)


def _lines(file: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[Line]:
    for line, at in _raw_lines(file, start, end):
        yield Line(read_line(line), at, torn=line[-1:] != b"\n")


def _raw_lines(file: BinaryIO, start: int, end: int | None) -> Iterator[tuple[bytes, int]]:
    """Each with the place behind it."""
    file.seek(start)
    at = start
    while end is None or at < end:
        line = file.readline()
        if not line:
            return
        at += len(line)
        yield line, at


def read_chain(folder: Path) -> Iterator[Link | None]:
    """All records of a folder, in their order; None for a line that is none, but for one that is being written. A
    process may write and delete meanwhile: what there is when this begins is read to its end. Raises OSError."""
    with contextlib.ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for first in segments(folder):
            with contextlib.suppress(FileNotFoundError):  # moved to the database since they were listed
                files[first] = stack.enter_context(segment_path(folder, first).open("rb"))
        for file, following in zip_longest(files.values(), list(files)[1:]):
            for line in _lines(file):
                if line.link is None and not (line.torn and following is None):
                    yield None
                elif line.link is not None and (following is None or line.link.sequence < following):
                    yield line.link


def recover(folder: Path, key: bytes) -> Recovered:
    """Sets the last segment right and says where the chain goes on. Raises OSError.

    What stands behind the last genuine record is cut off: a write that a crash has torn, which nobody was told of.
    Where whole lines are cut, they are kept beside in a file `….cut`, as somebody may have written them.
    """
    cut = damaged = 0
    for first in reversed(segments(folder)):
        path = segment_path(folder, first)
        mark, good, bad, tail = None, 0, 0, 0
        for line in read_segment(path):
            if line.link is not None and is_genuine(key, line.link):
                mark, good, bad, tail = line.link.mark, line.end, bad + tail, 0
            else:
                tail += 1
        cut += _cut(path, good)
        damaged += bad
        if mark is not None:
            return Recovered(mark, cut, damaged)
    return Recovered(Mark(), cut, damaged)


def _cut(path: Path, good: int) -> int:
    size = path.stat().st_size
    if size > good:
        with path.open("rb+") as file:
            file.seek(good)
            rest = file.read()
            if b"\n" in rest:
                path.with_suffix(_ASIDE).write_bytes(rest)
            file.truncate(good)
            os.fsync(file.fileno())
    if good == 0:
        path.unlink()
    return size - good
