"""How fast a lane's queue empties, and when it makes sense to come back.

Floor: `policies`, pure. Requests sent per second of the time in which somebody waited, both fading with that time: an
hour in which nobody waits says nothing of how fast a queue empties, and is not counted; while requests wait and none is
sent the rate falls, at first slowly, and a burst that is sent in one pass counts as what it is beside the seconds
before it.
"""

from __future__ import annotations

from math import exp

# Seconds of waiting after which an observation counts for 1/e: some tens of dispatches even at one a second, and still
# within a client's patience after an engine is lost.
HORIZON_SECONDS = 30.0

# Requests per second that one endpoint is believed to take from a queue before any has been seen: an 8B model on an
# A100 under traffic of long conversations (facts/routing.md: X is 1 to 2 per engine); low, as coming back too early is
# what makes an overload worse.
PRIOR_RATE = 1.0

# How many seconds of observation the prior is worth. Few, so that the first ten seconds of a queue decide.
PRIOR_SECONDS = 5.0

# Bounds of an answer (seconds). Under 1 s the queue has hardly moved; nobody can say what holds after 5 minutes.
LEAST_SECONDS, MOST_SECONDS = 1.0, 300.0


class DrainRate:
    """The rate of one queue. `prior`: requests per second to begin with; `horizon`: see HORIZON_SECONDS.

    Tell it of every change of the queue by `note`; it costs a few additions. `now` never runs backwards.
    """

    __slots__ = ("_busy_seconds", "_horizon", "_noted_at", "_sent", "_waiting")

    def __init__(self, prior: float = PRIOR_RATE, horizon: float = HORIZON_SECONDS) -> None:
        if prior <= 0 or horizon <= 0:
            raise ValueError("prior and horizon must be above 0")
        self._horizon = horizon
        self._sent = prior * PRIOR_SECONDS  # faded sums: requests sent, and the seconds in which somebody waited
        self._busy_seconds = PRIOR_SECONDS
        self._waiting = False
        self._noted_at = 0.0

    def note(self, now: float, waiting: int, sent: int = 0) -> None:
        """`waiting` requests wait from now on, after `sent` of them have just been sent. Who gives up is not sent."""
        if self._waiting:
            elapsed = max(0.0, now - self._noted_at)
            fading = exp(-elapsed / self._horizon)
            self._sent *= fading
            # The elapsed seconds fade within themselves as well: ∫ e^(-t/h) dt.
            self._busy_seconds = self._busy_seconds * fading + self._horizon * (1.0 - fading)
        self._sent += sent
        self._waiting = waiting > 0
        self._noted_at = now

    def rate(self, now: float) -> float:
        """Requests per second. Falls while requests wait and none is sent."""
        if not self._waiting:
            return self._sent / self._busy_seconds
        fading = exp(-max(0.0, now - self._noted_at) / self._horizon)
        return self._sent * fading / (self._busy_seconds * fading + self._horizon * (1.0 - fading))

    def retry_after(self, waiting_ahead: int, now: float) -> float:
        """Seconds until as many requests as wait ahead now will have been sent, from 1 to 300."""
        rate = self.rate(now)
        if waiting_ahead >= rate * MOST_SECONDS:
            return MOST_SECONDS
        return max(LEAST_SECONDS, waiting_ahead / rate)
