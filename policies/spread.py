"""How long something takes, learned from examples: any quantile of about the last thousand.

Floor: `policies`, pure. Counts in buckets that grow by a constant factor: an example costs a logarithm, a quantile a
walk over a hundred numbers, and the memory is the same for ever.
"""

from __future__ import annotations

from math import log

LEAST, MOST = 0.001, 1000.0  # seconds; what lies outside counts as the bound
STEP = 1.15  # width of a bucket: a quantile is at most so much too long, never too short
MEMORY = 1000.0  # examples after which all count half: an engine's ways change with its load

_LOG_STEP = log(STEP)
_BUCKETS = int(log(MOST / LEAST) / _LOG_STEP) + 2


class Spread:
    """Durations in seconds. `seen`: how many examples count now."""

    __slots__ = ("_counts", "seen")

    def __init__(self) -> None:
        self._counts = [0.0] * _BUCKETS
        self.seen = 0.0

    def learn(self, seconds: float) -> None:
        """One more example."""
        bucket = int(log(min(seconds, MOST) / LEAST) / _LOG_STEP) + 1 if seconds > LEAST else 0
        self._counts[bucket] += 1
        self.seen += 1
        if self.seen >= MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self.seen /= 2

    def quantile(self, share: float) -> float:
        """Seconds that this share of the examples did not exceed; 0 without any."""
        left = share * self.seen
        for bucket, count in enumerate(self._counts):
            left -= count
            if count and left <= 0:
                return float(LEAST * STEP**bucket)
        return 0.0
