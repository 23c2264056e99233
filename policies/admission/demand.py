"""How much of a limit is used per second of late: what a refill is worth.

Floor: `policies`, pure.
"""

from __future__ import annotations

from typing import Final

# Seconds of demand that a refill is for, and below which it is asked for: looks are 0.25 s apart.
AHEAD_SECONDS: Final = 0.75
LOW_SECONDS: Final = 0.5
# Seconds below which a stretch of time says little of the demand.
SHORT_SECONDS: Final = 0.25


class Demand:
    """What was used per second of late, over about a second."""

    __slots__ = ("_rate", "_since", "_used")

    def __init__(self) -> None:
        self._since = float("-inf")
        self._used = 0
        self._rate = 0.0

    def add(self, amount: int) -> None:
        self._used += amount

    def low(self, free: int, now: float) -> bool:
        """Whether `free` will be gone soon."""
        passed = now - self._since
        return passed > 0.0 and free < LOW_SECONDS * max(self._rate, self._used / max(passed, SHORT_SECONDS))

    def expected(self, now: float) -> int:
        """Of the near future; ends a stretch of time."""
        passed = now - self._since
        if passed < SHORT_SECONDS:
            recent = max(self._rate, self._used / SHORT_SECONDS)
            return int(recent * AHEAD_SECONDS)
        rate = self._used / passed if passed < 60 else 0.0
        weight = min(1.0, passed)
        self._rate = max(rate, self._rate + (rate - self._rate) * weight)
        self._since, self._used = now, 0
        return int(self._rate * AHEAD_SECONDS)
