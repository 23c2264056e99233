"""How long to wait before a connection is tried again.

Floor: sans-IO; randomness comes from outside.
"""

from __future__ import annotations

from random import Random

# Seconds before the next attempt, doubling: an owner that restarts is found soon, one that is gone costs nothing. Each
# is shortened by up to half, or all followers would come back in the same moment.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


class Backoff:
    """The pauses between attempts, seconds."""

    __slots__ = ("_next", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next = FIRST_PAUSE

    def pause(self) -> float:
        pause, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
        return pause * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next = FIRST_PAUSE
