"""Is the peer still there, and does it take what we say?

Floor: sans-IO. Time is counted in beats: ticks of this process's own timer. A process that was itself suspended, or so
loaded that its loop came late, finds one beat over and not four, and then reads what came meanwhile: it does not take
its peers for dead because of its own pause.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Limits:
    """`handshake`, `connect`: seconds. A beat is `beat` seconds; a peer that is silent, or takes nothing of what waits
    for it, for `beats` of them is dropped. `unsent_bytes`: the most that waits for a slow one before it is dropped at
    once; 1,000 requests with the longest prompts that are hashed."""

    handshake: float = 2.0
    connect: float = 1.0
    beat: float = 0.25
    beats: int = 4
    unsent_bytes: int = 32 * 1024 * 1024


class Verdict(Enum):
    """What to do at a beat."""

    NOTHING = auto()
    PING = auto()
    SILENT = auto()
    DEAF = auto()


class Pulse:
    """`heard` and `said`: whether anything came, and was said, since the last beat; set by whoever moves the bytes."""

    __slots__ = ("_beats", "_quiet", "_stuck", "_taken", "heard", "said")

    def __init__(self, beats: int) -> None:
        self._beats = beats
        self._quiet = self._stuck = 0
        self._taken = 0
        self.heard = self.said = False

    def beat(self, unsent: int, taken: int) -> Verdict:
        """One more beat is over. `unsent`: bytes that wait for the peer; `taken`: bytes that it has taken in all."""
        self._quiet = 0 if self.heard else self._quiet + 1
        self._stuck = self._stuck + 1 if unsent and taken == self._taken else 0
        self._taken = taken
        idle = not (self.heard and self.said)
        self.heard = self.said = False
        if self._quiet >= self._beats:
            return Verdict.SILENT
        if self._stuck >= self._beats:
            return Verdict.DEAF
        return Verdict.PING if idle else Verdict.NOTHING
