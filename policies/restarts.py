"""When a worker that has ended is started again.

Floor: pure. One that had served for a while is started at once; so is the first that ends early. Whoever goes on ending
early waits twice as long each time: what is broken in all of them would otherwise burn a core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Seconds after which a worker's end says nothing of how it was started.
STEADY_SECONDS: Final = 10.0
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0


@dataclass(slots=True)
class Restarts:
    """Of one worker's place. `early`: how many in a row have ended early."""

    early: int = 0

    def pause(self, served: float) -> float:
        """Seconds until the next is started, after one that has served for so many; 0: at once."""
        if served >= STEADY_SECONDS:
            self.early = 0
            return 0.0
        self.early += 1
        if self.early == 1:
            return 0.0
        doublings = min(self.early - 2, 16)  # far beyond the longest pause, and no number grows for ever
        return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**doublings)
