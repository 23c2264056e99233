"""When to send a second copy of a request elsewhere, as the first has not answered for unusually long.

Floor: `policies`, pure. What is unusual is learned: the pool's own p99 of the time from dispatch to the first byte. Of
a hundred requests one is later than that by definition, so a second copy of those costs about a hundredth more; a
budget sees to it that an engine with trouble, or a p99 that has become too small, costs no more than a share.
"""

from __future__ import annotations

from policies.retry import Budget
from policies.spread import Spread
from policies.types import InferenceRequest, Lane

# First bytes after which a p99 means something: of fewer it would be the longest or the one before.
LEAST_SAMPLES = 200


class HedgePolicy:
    """Of one pool. `share`: of its short requests that may be sent twice."""

    __slots__ = ("_budget", "first_byte")

    def __init__(self, share: float) -> None:
        self._budget = Budget(share, reserve=1)
        self.first_byte = Spread()

    def covers(self, request: InferenceRequest) -> bool:
        """Whether such a request may be sent twice: only short streams, and short requests without output. Of an answer
        in one piece the first byte says how long it is, not how long it waited."""
        return request.lane is Lane.SHORT and (request.stream or not request.max_output_tokens)

    def after(self, now: float) -> float | None:
        """Seconds without a first byte after which a copy may be sent, None while nothing is learned. Asked once for
        each request that is covered."""
        self._budget.note(now)
        return self.first_byte.quantile(0.99) if self.first_byte.seen >= LEAST_SAMPLES else None

    def left(self, now: float) -> bool:
        """Whether the share allows one more copy."""
        return self._budget.left(now)

    def sent(self, now: float) -> None:
        """A copy was sent."""
        self._budget.take(now)

    def observe(self, seconds: float) -> None:
        """A first byte came after so long, or an attempt was given up after so long without one: were those left out,
        hedging would make the p99 smaller and smaller."""
        self.first_byte.learn(seconds)
