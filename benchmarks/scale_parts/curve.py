"""How a cost grows with a size: points, a slope, and a name for it.

Floor: benchmarks, pure. A slope is that of the logarithms, by least squares: 0 where the cost stays, 1 where it doubles
with the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import linear_regression
from typing import Literal

TAIL = 3
"""Points at the upper end that a curve is named by: what grows with the size hides behind what does not while it is
small, and shows last."""
NOISE = 0.12
"""Of a slope: what other programs on the machine, and caches that a larger size no longer fits into, make of none. Over
the tail's hundredfold of most axes it is a factor of 1.7."""
Growth = Literal["constant", "O(log n)", "linear", "worse than linear"]
_ORDER: tuple[Growth, ...] = ("constant", "O(log n)", "linear", "worse than linear")


@dataclass(frozen=True, slots=True)
class Point:
    """The cost at one size. `load_seconds`, `rss_mb`: of the process or object at this size, where they matter."""

    size: int
    microseconds: float
    load_seconds: float | None = None
    rss_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one axis, the smallest size first. `allowed`: the fastest growth that is no defect."""

    axis: str
    unit: str
    allowed: Growth
    points: list[Point] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Over all points."""
        return slope([(one.size, one.microseconds) for one in self.points])

    @property
    def tail(self) -> float:
        """At the upper end."""
        return slope([(one.size, one.microseconds) for one in self.points[-TAIL:]])

    @property
    def growth(self) -> Growth:
        """What the upper end is called."""
        return name([one.size for one in self.points[-TAIL:]], self.tail)

    @property
    def defect(self) -> bool:
        return _ORDER.index(self.growth) > _ORDER.index(self.allowed)

    def ratios(self) -> list[float | None]:
        """Each point's cost over that of the point before."""
        return [None, *(after.microseconds / before.microseconds for before, after in pairwise(self.points))]


def name(sizes: Sequence[int], found: float) -> Growth:
    """What a slope over these sizes is called."""
    logarithm = slope([(size, math.log2(2 * size)) for size in sizes])
    if found <= NOISE / 2:
        return "constant"
    if found <= logarithm + NOISE:
        return "O(log n)"
    return "linear" if found <= 1 + NOISE else "worse than linear"


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of log(cost) over log(size); 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    return linear_regression(*zip(*((math.log(size), math.log(cost)) for size, cost in points), strict=True)).slope
