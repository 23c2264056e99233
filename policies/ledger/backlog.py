"""What happens to records that cannot be written: how many are kept, what is lost, and whether requests go on.

Floor: pure; counts. Two threads look at it: whoever adds records only ever adds to `lost`, whoever writes them to all
else, so no lock is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OnFull(StrEnum):
    """When records can be written nowhere: answer requests without (allow), or none (refuse)."""

    ALLOW = "allow"
    REFUSE = "refuse"


class Trouble(StrEnum):
    """Why records cannot be written."""

    SPOOL_FULL = "spool_full"
    DISK_FULL = "disk_full"
    DISK_ERROR = "disk_error"


@dataclass(frozen=True, slots=True)
class Gap:
    """So many records are missing here, from one moment to another (Unix seconds)."""

    lost: int
    since: float
    until: float


class Backlog:
    """`most`: records that may wait. `stuck_seconds`: a write that takes longer counts as trouble (monotonic)."""

    def __init__(self, rule: OnFull, most: int, stuck_seconds: float) -> None:
        self.rule = rule
        self.most = most
        self.lost = 0
        self.trouble: Trouble | None = None
        self.writing_since: float | None = None
        self._stuck_seconds = stuck_seconds
        self.dropped = 0
        self._told = 0
        self._since: float | None = None

    def takes(self, waiting: int) -> bool:
        """Whether one more may wait beside those; if not, it is lost, which the caller says by `lose`."""
        return waiting < self.most

    def lose(self, at: float) -> None:
        """A record found no room. `at`: Unix seconds."""
        if self._since is None:
            self._since = at
        self.lost += 1

    def drop(self, records: int) -> None:
        """So many that had room could not be written all the same."""
        self.dropped += records

    def accepts(self, waiting: int, now: float) -> bool:
        """Whether a request may be answered whose record would have to wait beside those. `now`: monotonic."""
        if self.rule is OnFull.ALLOW:
            return True
        stuck = self.writing_since is not None and now - self.writing_since > self._stuck_seconds
        return self.trouble is None and not stuck and self.takes(waiting)

    @property
    def lost_untold(self) -> int:
        """How many are lost and in no gap yet."""
        return self.lost + self.dropped - self._told

    def gap(self, now: float) -> Gap | None:
        """What was lost and is in no gap yet; None where nothing was. `now`: Unix seconds."""
        lost = self.lost_untold
        return Gap(lost, self._since if self._since is not None else now, now) if lost else None

    def told(self, gap: Gap) -> None:
        """That gap stands in the chain now."""
        self._told += gap.lost
        self._since = None
