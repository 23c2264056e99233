"""Records that follow one another in a chain, on their way from the spool to the database.

Floor: an adapter; data alone. Column by column, as thousands wait at a time: with an object more for each, Python's
garbage collector would look at all that the process has, again and again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from policies.ledger.chain import Link, Mark
from router.wire.record import Record


class Run(NamedTuple):
    """`previous`, `hashes`: of each record that of the one before it, and its own."""

    records: Sequence[Record]
    previous: Sequence[bytes]
    hashes: Sequence[bytes]

    @classmethod
    def of(cls, links: Iterable[tuple[Record, Link]]) -> Run:
        """One by one, in their order."""
        found = list(links)
        return cls(
            [record for record, _ in found], [link.previous for _, link in found], [link.hash for _, link in found]
        )

    @property
    def begin(self) -> Mark:
        """Behind which it stands; not of an empty one."""
        return Mark(self.records[0].sequence - 1, self.previous[0])

    @property
    def end(self) -> Mark:
        """Its last record; not of an empty one."""
        return Mark(self.records[-1].sequence, self.hashes[-1])

    def behind(self, sequence: int) -> Run:
        """Its records behind that one."""
        start = bisect_right(self.records, sequence, key=_sequence)
        return Run(self.records[start:], self.previous[start:], self.hashes[start:]) if start else self

    def place(self, sequence: int) -> int | None:
        """Where the record with this sequence is; None where it is not."""
        at = bisect_left(self.records, sequence, key=_sequence)
        return at if at < len(self.records) and self.records[at].sequence == sequence else None


def _sequence(record: Record) -> int:
    return record.sequence
