"""The share of bad events among those of the last while.

Floor: `policies`, pure. Counts in slots of time, so that memory does not depend on how much happens.
"""

from __future__ import annotations

# Slots of a window: what leaves it does so in steps of a thirtieth, 2 s of a minute.
SLOTS = 30


class SlidingShare:
    """Good and bad events of the last `window` seconds. `now` never runs backwards."""

    __slots__ = ("_all", "_bad", "_last", "_slot_seconds")

    def __init__(self, window: float) -> None:
        if window <= 0:
            raise ValueError("a window is above 0 seconds")
        self._slot_seconds = window / SLOTS
        self.clear()

    def clear(self) -> None:
        """Nothing has happened."""
        self._all, self._bad = [0] * SLOTS, [0] * SLOTS
        self._last = 0

    def note(self, bad: bool, now: float) -> None:
        """One event."""
        slot = self._turn(now)
        self._all[slot] += 1
        self._bad[slot] += bad

    def samples(self, now: float) -> int:
        """Events in the window."""
        self._turn(now)
        return sum(self._all)

    def share(self, now: float) -> float:
        """Of the events in the window how many were bad; 0 without any."""
        samples = self.samples(now)
        return sum(self._bad) / samples if samples else 0.0

    def _turn(self, now: float) -> int:
        """Empties the slots that have passed since the last call."""
        number = int(now / self._slot_seconds)
        for passed in range(max(self._last, number - SLOTS) + 1, number + 1):
            self._all[passed % SLOTS] = self._bad[passed % SLOTS] = 0
        self._last = max(self._last, number)
        return self._last % SLOTS
