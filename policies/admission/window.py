"""How much was used in the last minute (or day, or month), exactly enough for a limit that holds at every window edge.

Floor: `policies`, pure. Why not a token bucket (GCRA): one that lets a whole minute's allowance pass at once, as a
tenant with a large prompt needs, also lets nearly twice the limit pass within some minute; one with a smaller burst
refuses prompts that the limit allows. A log of the last minute does neither; merging charges that lie close together
bounds it.
"""

from __future__ import annotations

from collections import deque

from policies.admission.calendar import DAY, MINUTE, MONTH
from policies.admission.counting import FITS, NEVER, Standing

# Float slack (seconds): `now + retry_after` rounds, and must not come out a hair before the charge leaves.
SLACK_SECONDS = 1e-6


class Slice:
    """Charges of about the same time: the first and last moment, and their sum."""

    __slots__ = ("amount", "first", "last")

    def __init__(self, now: float) -> None:
        self.first = now
        self.last = now
        self.amount = 0


class SlidingWindow:
    """Usage over the last `seconds` against `limit`. Charges made only when `check` says FITS exceed it in no window.

    A window is `seconds` less 1 µs of float slack. `now` never runs backwards. Charges within `slice_seconds` leave
    together, with the last of them: it bounds the log to 121 slices of a minute, and costs at most 0.9 % of the
    sustained rate.
    """

    __slots__ = ("_seconds", "_slice_seconds", "_slices", "_used", "limit")

    def __init__(
        self, limit: int, seconds: float = MINUTE.seconds, slice_seconds: float = MINUTE.slice_seconds
    ) -> None:
        self.limit = limit
        self._seconds = seconds
        self._slice_seconds = slice_seconds
        self._slices: deque[Slice] = deque()
        self._used = 0

    @classmethod
    def of_a_day(cls, limit: int) -> SlidingWindow:
        """The last 24 hours."""
        return cls(limit, DAY.seconds, DAY.slice_seconds)

    def check(self, amount: int, now: float) -> float:
        if amount > self.limit:
            return NEVER
        self._expire(now)
        excess = self._used + amount - self.limit
        if excess <= 0:
            return FITS
        for leaving in self._slices:
            excess -= leaving.amount
            if excess <= 0:
                break  # reached at the last slice at the latest: `amount` fits into an empty window
        return leaving.last + self._seconds - now

    def charge(self, amount: int, now: float) -> WindowCharge:
        return WindowCharge(self, amount, self._use(amount, now))

    def standing(self, now: float) -> Standing:
        self._expire(now)
        reset = next((one.last + self._seconds - now for one in reversed(self._slices) if one.amount), 0.0)
        return Standing(self.limit, max(0, self.limit - self._used), reset)

    def _use(self, amount: int, now: float) -> Slice:
        self._expire(now)
        if not self._slices or now - self._slices[-1].first >= self._slice_seconds:
            self._slices.append(Slice(now))
        current = self._slices[-1]
        current.last = max(current.last, now)
        current.amount += amount
        self._used += amount
        return current

    def _give_back(self, charged: Slice, amount: int, now: float) -> None:
        """Takes back a part of a charge; nothing when it has left the window already."""
        self._expire(now)
        if charged.last > now - self._seconds + SLACK_SECONDS:
            charged.amount -= amount
            self._used -= amount

    def _expire(self, now: float) -> None:
        slices = self._slices
        while slices and slices[0].last <= now - self._seconds + SLACK_SECONDS:
            self._used -= slices.popleft().amount


class WindowCharge:
    """What one request has used of a window, and the slice that holds it."""

    __slots__ = ("_amount", "_slice", "_window")

    def __init__(self, window: SlidingWindow, amount: int, charged: Slice) -> None:
        self._window = window
        self._amount = amount
        self._slice = charged

    def settle(self, actual: int, now: float) -> None:
        if actual > self._amount:
            self._window._use(actual - self._amount, now)
        elif actual < self._amount:
            self._window._give_back(self._slice, self._amount - actual, now)


class MonthWindow:
    """Usage since the first of the month, UTC, in this process. `unix`: what to add to `now` for Unix seconds."""

    __slots__ = ("_month", "_unix", "_used", "limit")

    def __init__(self, limit: int, unix: float) -> None:
        self.limit = limit
        self._unix = unix
        self._month = 0
        self._used = 0

    def check(self, amount: int, now: float) -> float:
        if amount > self.limit:
            return NEVER
        self._turn(now)
        return FITS if self._used + amount <= self.limit else self._left(now)

    def charge(self, amount: int, now: float) -> MonthCharge:
        self._turn(now)
        self._used += amount
        return MonthCharge(self, amount, self._month)

    def standing(self, now: float) -> Standing:
        self._turn(now)
        return Standing(self.limit, max(0, self.limit - self._used), self._left(now) if self._used else 0.0)

    def _left(self, now: float) -> float:
        return MONTH.leaves(self._month) - self._unix - now

    def _turn(self, now: float) -> None:
        month = MONTH.first(now + self._unix)
        if month != self._month:
            self._month, self._used = month, 0


class MonthCharge:
    """What one request has used of a month."""

    __slots__ = ("_amount", "_month", "_window")

    def __init__(self, window: MonthWindow, amount: int, month: int) -> None:
        self._window = window
        self._amount = amount
        self._month = month

    def settle(self, actual: int, now: float) -> None:
        self._window._turn(now)
        if actual > self._amount or self._month == self._window._month:
            self._window._used += actual - self._amount
