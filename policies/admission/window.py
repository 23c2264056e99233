"""How much was used in the last minute, exactly enough for a limit that holds at every window edge.

Floor: `policies`, pure. Why not a token bucket (GCRA): one that lets a whole minute's allowance pass at once, as a
tenant with a large prompt needs, also lets nearly twice the limit pass within some minute; one with a smaller burst
refuses prompts that the limit allows. A log of the last minute does neither; merging charges that lie close together
bounds it.
"""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60.0

# Charges this close together (seconds) leave together, with the last of them. It bounds the log to 121 slices and costs
# at most 0.9 % of the sustained rate.
SLICE_SECONDS = 0.5

# Float slack (seconds): `now + retry_after` rounds, and must not come out a hair before the charge leaves.
SLACK_SECONDS = 1e-6


class Slice:
    """Charges of about the same time: the first and last moment, and their sum."""

    __slots__ = ("amount", "first", "last")

    def __init__(self, now: float) -> None:
        self.first = now
        self.last = now
        self.amount = 0


class MinuteWindow:
    """Usage over the last 60 s against `limit`. Charges made only when `wait` is 0 exceed it in no window.

    A window is 60 s less 1 µs of float slack. `now` never runs backwards.
    """

    __slots__ = ("_slices", "_used", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._slices: deque[Slice] = deque()
        self._used = 0

    def wait(self, amount: int, now: float) -> float | None:
        """Seconds until `amount` fits if nothing else happens; 0 when it fits now, None when it never will."""
        if amount > self.limit:
            return None
        self._expire(now)
        excess = self._used + amount - self.limit
        if excess <= 0:
            return 0.0
        for leaving in self._slices:
            excess -= leaving.amount
            if excess <= 0:
                break  # reached at the last slice at the latest: `amount` fits into an empty window
        return leaving.last + WINDOW_SECONDS - now

    def charge(self, amount: int, now: float) -> Slice:
        """Use `amount` now, fitting or not. Returns the slice to give it back to."""
        self._expire(now)
        if not self._slices or now - self._slices[-1].first >= SLICE_SECONDS:
            self._slices.append(Slice(now))
        current = self._slices[-1]
        current.last = max(current.last, now)
        current.amount += amount
        self._used += amount
        return current

    def give_back(self, charged: Slice, amount: int, now: float) -> None:
        """Take back a part of a charge; nothing when it has left the window already."""
        self._expire(now)
        if charged.last > now - WINDOW_SECONDS + SLACK_SECONDS:
            charged.amount -= amount
            self._used -= amount

    def remaining(self, now: float) -> int:
        self._expire(now)
        return max(0, self.limit - self._used)

    def reset(self, now: float) -> float:
        """Seconds until the whole limit is there again if nothing else happens."""
        self._expire(now)
        for one in reversed(self._slices):
            if one.amount:
                return one.last + WINDOW_SECONDS - now
        return 0.0

    def _expire(self, now: float) -> None:
        slices = self._slices
        while slices and slices[0].last <= now - WINDOW_SECONDS + SLACK_SECONDS:
            self._used -= slices.popleft().amount
