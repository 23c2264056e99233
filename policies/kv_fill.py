"""How much fits into an engine's KV cache, in tokens as they are counted here.

Floor: `policies`, pure. The size that an engine reports is in its own tokens; what is sent is estimated. Where too much
is believed to fit, requests queue inside the engine, out of our order; where too little, the engine runs half empty
(both seen in replays: a size 20 % too large or 30 % too small makes the mean time to first token 1.3 and 1.7 times as
long). The share of its cache that an engine says is in use, beside what is believed to be in it, tells both.
"""

from __future__ import annotations

from dataclasses import dataclass

# With less in use the requests that begin or end just now outweigh the rest (share).
LEAST_USE = 0.3

# Weight of a reading, once some have been made: about the last 20 decide, two minutes of scrapes.
SMOOTHING = 0.05

# Readings before anything is concluded: one may fall into a burst of prefills, whose blocks are there and not there.
ENOUGH = 5

# What is believed and not seen (blocks that are part full, prefills under way, answers that are longer than expected)
# makes this much of a difference; where it is less, the engine knows its own size better (share).
UNCLEAR = 0.1

# A new factor is made when it has moved by this share: others keep predictions made from the old one.
CHANGE = 0.03

# How far the belief may go. A reading twice as far out is about something else: others use the engine too, or its gauge
# counts what is only cached.
BOUNDS = (0.5, 2.0)


@dataclass(slots=True)
class KvFill:
    """`factor`: tokens of ours that fit, by tokens that the engine says to have room for. 1 until more is known."""

    factor: float = 1.0
    readings: int = 0
    _mean: float = 1.0

    def read(self, usage: float | None, believed: float, capacity: int | None) -> None:
        """The engine says that the share `usage` of its cache is in use, where `believed` tokens of `capacity` were
        thought to be."""
        if usage is None or not capacity or not LEAST_USE <= usage <= 1.0:
            return
        seen, (low, high) = believed / usage / capacity, BOUNDS
        if not low / 2 <= seen <= high * 2:
            return
        self.readings += 1
        self._mean += max(SMOOTHING, 1 / self.readings) * (min(max(seen, low), high) - self._mean)
        if self.readings >= ENOUGH:
            self._conclude()

    def _conclude(self) -> None:
        factor = self._mean if abs(self._mean - 1) > UNCLEAR else 1.0
        if abs(factor - self.factor) > CHANGE:
            self.factor = factor
