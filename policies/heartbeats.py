"""Whether a worker that says nothing is busy, late, or hangs.

Floor: pure. Silence is counted in looks of the process that listens: where it was itself stopped, or the machine was
asleep, its next look is late, and of that time no more counts than of two looks. So nobody is taken for dead because of
the listener's own pause, and what lay unread meanwhile is read first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Seconds between two signs of life, and between two looks for them.
BEAT_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 0.5
# Seconds of silence after which others take what comes in for a worker, which costs nothing if it is only busy.
LATE_SECONDS: Final = 2.0


@dataclass(slots=True)
class Heartbeats:
    """Of one worker's life. `silent`: seconds since its last sign of life, as far as they count."""

    silent: float = 0.0
    _looked_at: float | None = None

    def heard(self) -> None:
        self.silent = 0.0

    def look(self, now: float) -> None:
        """`now`: monotonic seconds."""
        before = now if self._looked_at is None else self._looked_at
        self._looked_at = now
        self.silent += min(max(0.0, now - before), 2 * LOOK_SECONDS)

    @property
    def late(self) -> bool:
        return self.silent >= LATE_SECONDS
