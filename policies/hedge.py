"""When to send a second copy of a request elsewhere, as the first has not answered for unusually long.

Floor: `policies`, pure. What is unusual is learned: the pool's own p99 of the time from dispatch to the first byte. Of
a hundred requests one is later than that by definition, so a second copy of those costs about a hundredth more; a
budget sees to it that an engine with trouble, or a p99 that has become too small, costs no more than a share.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from policies.retry import Budget
from policies.types import InferenceRequest, Lane

# Upper bounds (seconds) of what is told apart: from 1 ms, each a tenth longer than the one before, to a quarter hour.
_BOUNDS = [0.001 * 1.1**step for step in range(145)]
# Observations after which a p99 means something: of fewer it would be the longest or the one before.
LEAST_SAMPLES = 200
# Above so many all are halved: what was seen an hour ago must not outweigh what is now.
MOST_SAMPLES = 4000


class Quantile:
    """A quantile of durations, to a tenth of its value: counts in buckets that grow geometrically."""

    __slots__ = ("_counts", "_quantile", "_total")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._counts = [0.0] * (len(_BOUNDS) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        """Takes one more duration into account."""
        self._counts[bisect_left(_BOUNDS, seconds)] += 1.0
        self._total += 1.0
        if self._total > MOST_SAMPLES:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2

    def value(self) -> float | None:
        """Seconds below which that share of the durations lies; None while too few are known."""
        if self._total < LEAST_SAMPLES:
            return None
        wanted = self._quantile * self._total
        column = next(column for column, count in enumerate(accumulate(self._counts)) if count >= wanted - 1e-9)
        return _BOUNDS[min(column, len(_BOUNDS) - 1)]


class HedgePolicy:
    """Of one pool. `share`: of its short requests that may be sent twice."""

    __slots__ = ("_budget", "_first_byte")

    def __init__(self, share: float, quantile: float = 0.99) -> None:
        self._budget = Budget(share, reserve=1)
        self._first_byte = Quantile(quantile)

    def covers(self, request: InferenceRequest) -> bool:
        """Whether such a request may be sent twice: only short streams, and short requests without output. Of an answer
        in one piece the first byte says how long it is, not how long it waited."""
        return request.lane is Lane.SHORT and (request.stream or not request.max_output_tokens)

    def after(self, now: float) -> float | None:
        """Seconds without a first byte after which a copy may be sent, None while nothing is learned. Asked once for
        each request that is covered."""
        self._budget.note(now)
        return self._first_byte.value()

    def left(self, now: float) -> bool:
        """Whether the share allows one more copy."""
        return self._budget.left(now)

    def sent(self, now: float) -> None:
        """A copy was sent."""
        self._budget.take(now)

    def observe(self, seconds: float) -> None:
        """A first byte came after so long, or an attempt was given up after so long without one: were those left out,
        hedging would make the p99 smaller and smaller."""
        self._first_byte.observe(seconds)
