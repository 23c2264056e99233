"""How often something happened within the last while, and which share of it was bad.

Floor: `policies`, pure. Counts in slots of time, so that memory does not depend on how much happens. A limit that must
hold at every edge of its window, to the request, is another matter (`policies.admission.window`).
"""

from __future__ import annotations

# Slots of a window: what leaves it does so in steps of a thirtieth, 2 s of a minute.
SLOTS = 30


class SlidingCount:
    """Events of about the last `window` seconds, never of more and of at most a slot less. `now` never runs backwards;
    one that does counts as the latest."""

    __slots__ = ("_counts", "_newest", "_slot_seconds", "_total")

    def __init__(self, window: float) -> None:
        if window <= 0:
            raise ValueError("a window is above 0 seconds")
        self._slot_seconds = window / SLOTS
        self._newest = 0
        self.clear()

    def clear(self) -> None:
        """Nothing has happened."""
        self._counts = [0] * SLOTS
        self._total = 0

    def add(self, now: float) -> None:
        """One event."""
        self._turn(now)
        self._counts[self._newest % SLOTS] += 1
        self._total += 1

    def total(self, now: float) -> int:
        """Events in the window."""
        self._turn(now)
        return self._total

    def _turn(self, now: float) -> None:
        """Empties the slots that have passed since the last call."""
        number = int(now / self._slot_seconds)
        if number <= self._newest:
            return
        for passed in range(max(self._newest, number - SLOTS) + 1, number + 1):
            self._total -= self._counts[passed % SLOTS]
            self._counts[passed % SLOTS] = 0
        self._newest = number


class SlidingShare:
    """Good and bad events of about the last `window` seconds. `now` never runs backwards."""

    __slots__ = ("_all", "_bad")

    def __init__(self, window: float) -> None:
        self._all = SlidingCount(window)
        self._bad = SlidingCount(window)

    def clear(self) -> None:
        """Nothing has happened."""
        self._all.clear()
        self._bad.clear()

    def note(self, bad: bool, now: float) -> None:
        """One event."""
        self._all.add(now)
        if bad:
            self._bad.add(now)

    def samples(self, now: float) -> int:
        """Events in the window."""
        return self._all.total(now)

    def bad(self, now: float) -> int:
        """Those of them that were bad."""
        return self._bad.total(now)

    def share(self, now: float) -> float:
        """Of the events in the window how many were bad; 0 without any."""
        samples = self.samples(now)
        return self.bad(now) / samples if samples else 0.0
