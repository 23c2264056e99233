"""Time cut into numbered slices, as limits that replicas share need it: everybody must agree on where a charge lies.

Floor: `policies`, pure. Times are Unix seconds of the store's clock. Whoever changes a rule here changes it in
`router/limits_lua.py` too: the store applies the same to its own clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

# Seconds for which a chunk may be spent at least and at most. It lies in its window as if it were all spent at the last
# moment: a minute's limit is used to 60 parts of 60.75 by a tenant that never pauses.
LEAST_LEASE: Final = 0.5
MOST_LEASE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Sliding:
    """A window of `seconds` that ends now. A slice leaves it `seconds` after the slice's end."""

    seconds: float
    slice_seconds: float
    monthly: bool = False

    def stamp(self, at: float) -> tuple[int, float]:
        """The slice in which a chunk that is leased now is counted, and until when the chunk may be spent."""
        number = math.ceil((at + LEAST_LEASE) / self.slice_seconds)
        return number, min(number * self.slice_seconds, at + MOST_LEASE)

    def first(self, at: float) -> int:
        """The oldest slice that still counts."""
        return math.floor((at - self.seconds) / self.slice_seconds) + 1

    def leaves(self, number: int) -> float:
        """When a slice stops to count."""
        return number * self.slice_seconds + self.seconds


@dataclass(frozen=True, slots=True)
class Monthly:
    """The calendar month, UTC; a slice is a month."""

    seconds: float = 31 * 86_400.0
    slice_seconds: float = 31 * 86_400.0
    monthly: bool = True

    def stamp(self, at: float) -> tuple[int, float]:
        number = self.first(at)
        return number, min(at + MOST_LEASE, self.leaves(number))

    def first(self, at: float) -> int:
        day = datetime.fromtimestamp(at, UTC)
        return day.year * 12 + day.month - 1

    def leaves(self, number: int) -> float:
        year, month = divmod(number + 1, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC).timestamp()


Calendar = Sliding | Monthly
MINUTE: Final = Sliding(60.0, 0.5)
DAY: Final = Sliding(86_400.0, 300.0)
MONTH: Final = Monthly()
