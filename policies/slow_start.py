"""An endpoint that starts or returns gets gradually more.

Floor: `policies`, pure. An engine that has just started compiles, and its cache is empty; what all sent it at once it
would answer late. It is held back only while others can take the rest (`policies.filters.Seat`).
"""

from __future__ import annotations

# Requests at once that it gets from the first moment: fewer would leave a batching engine idle.
FEW = 4


class SlowStart:
    """Of one endpoint. `seconds`: until it gets all that it can take; 0: at once. `since`: when it began; None: never,
    or it is over."""

    __slots__ = ("seconds", "since")

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.since: float | None = None

    def begin(self, now: float) -> None:
        """The engine has started, woken or come back."""
        self.since = now if self.seconds > 0 else None

    def under_way(self, now: float) -> bool:
        """Whether it is not to get everything yet."""
        return self.since is not None and now - self.since < self.seconds

    def end(self) -> None:
        """It is out again, or gets everything."""
        self.since = None

    def seats(self, most: int, now: float) -> int:
        """Of `most` requests at once, how many it gets now. Grows with the square of the time, as most engines are far
        from having all their seats taken: after half of the time a quarter."""
        if self.since is None or not self.under_way(now):
            return most
        passed = max(0.0, now - self.since) / self.seconds
        return min(most, FEW + int(passed * passed * most))
