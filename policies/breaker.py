"""A breaker before something that may be away: after failures in a row it is left alone for a while, then tried once.

Floor: `policies`, pure.
"""

from __future__ import annotations

from typing import Final

# Failures in a row after which it counts as away: one may be a single lost packet.
FAILURES: Final = 3
# Seconds until it is tried again, doubling up to the longest: who asks meanwhile does not wait for it.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0


class Breaker:
    """Ask `allows` before each call, and tell how it ended by `ended`."""

    __slots__ = ("_failures", "_next", "_pause", "_trying")

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._next = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether it counts as away."""
        return self._failures >= FAILURES

    def allows(self, now: float) -> bool:
        """Whether it may be called now; while it counts as away by one at a time."""
        if not self.open:
            return True
        if now < self._next:
            return False
        self._next = now + self._pause  # nobody else until this one has ended, or is late
        self._trying = True
        return True

    def ended(self, now: float, *, well: bool) -> None:
        """A call has ended, which it had allowed."""
        if well:
            self._failures, self._pause, self._trying = 0, FIRST_PAUSE, False
            return
        if self.open and not self._trying:
            return  # it began before the others failed, and says nothing new
        if self.open:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._failures, self._trying = self._failures + 1, False
        self._next = now + self._pause
