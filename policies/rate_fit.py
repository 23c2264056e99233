"""Three coefficients learned from noisy sums: seconds = k0·f0 + k1·f1 + k2·f2, all k ≥ 0.

Floor: `policies`, pure. Least squares of the *relative* error with forgetting. What the rows do not tell apart is
decided by weak pulls towards what is thought of the proportions, and bounds hold whatever comes. A row that is far off
is held back: alone it is an outlier and teaches nothing; several in a row that agree with each other are a new engine,
and the belief jumps to them.
"""

from __future__ import annotations

from math import log
from statistics import median

# Share of old rows that is kept at each new one: about the last 14 count, so a change too small for a jump is followed
# within 50 requests, and one row moves the belief by 7 %.
KEPT = 0.93

# The same while rows are met on average: about the last 50 count, so that equal engines are believed to be equal.
# Where they seem to differ by chance, requests go where nothing is gained and away from their prefixes: ±10 % between
# eight equal engines costs 6 % of the mean time to first token.
KEPT_LONG = 0.98

# Rows are met on average when the logarithm of seen by predicted, smoothed, is below `BIASED`. Beyond it as many of the
# old rows count (`RECENT`) as if it had never been longer.
BIAS_SMOOTHING = 0.1
BIASED = 0.15
RECENT = 1 / (1 - KEPT)

# A row is far off when it is this many times longer or shorter than predicted. Errors up to here are followed smoothly;
# what engines do by chance (a step under way, chunks that share a step) stays below.
FAR_OFF = 3.0

# Rows that are far off in the same direction before they are believed, and how far they may disagree (longest by
# shortest). A pause or a phantom hit is one row, or several that do not agree.
JUMP_ROWS = 4
JUMP_SPREAD = 3.0

# A belief that has learned from this many rows, and was met by the last ones within `CLOSE`, looks at one row in
# `TURNS`: learning costs as much as all the rest that is done for a request here. A row that is not close wakes it up.
SETTLED = 40
CLOSE = 1.5
TURNS = 4
AWAKE = 16

# Errors in the times below this say nothing about the engine: event loops and networks (seconds).
JITTER = 0.002

# Weight of the present belief about k0, and of the pulls on k1 and k2, in rows that are about them alone: little, they
# decide only what rows do not. Without a pull, prompts of one length would share out k0 and k1 by their noise.
BELIEF = 0.02
PULL = 0.15

SWEEPS = 4  # of a descent along one axis after the other, where the solution lies outside of the bounds

Row = tuple[float, float, float, float, float]  # three amounts in seconds of the prior, seconds seen, weight
Pulls = tuple[float, float | None]  # k1 by k0 and the factor of k2 (None: that of k0), as thought without the rows


class RateFit:
    """`prior`: the coefficients before any row. `low` and `high` bound the first; the others are at most `tops` times
    what the first lets expect, as rows with little of one thing must not drive it to nonsense.

    `values`: the belief; `factors`: the same in multiples of the prior. `samples`: rows believed;
    `fresh`: those since it was last put in doubt. `jumps`: how often it began anew.
    `ratio`: seconds seen by seconds predicted of the last row, outliers too.
    """

    __slots__ = (
        "_awake", "_bias", "_far", "_high", "_low", "_rows", "_sums", "_tops", "_turn", "factors", "fresh", "jumps",
        "prior", "ratio", "samples", "values",
    )  # fmt: skip

    def __init__(
        self, prior: tuple[float, float, float], low: float, high: float, tops: tuple[float, float] = (10.0, 10.0)
    ) -> None:
        self.prior = prior
        self._low = low / prior[0]
        self._high = high / prior[0]
        self._tops = tops
        self._awake = AWAKE
        self._turn = 0
        self._believe(1.0, 1.0, 1.0)
        self._sums = [0.0] * 9  # 00 01 02 11 12 22, then what they are to add up to
        self._rows = 0.0  # that the sums are made of, each as far as it still counts
        self._bias = 0.0
        self._far: list[tuple[float, Row]] = []
        self.samples = self.fresh = 0
        self.jumps = 0
        self.ratio: float | None = None

    def learn(
        self, amounts: tuple[float, float, float], seconds: float, weight: float = 1.0, pulls: Pulls = (1.0, None)
    ) -> bool:
        """Learn one row and say whether the belief has moved. `weight` 0..1: below 0.5 it is no witness for a jump."""
        (a, b, c), (k0, k1, k2) = amounts, self.values
        predicted = k0 * a + k1 * b + k2 * c + JITTER
        ratio = self.ratio = (seconds + JITTER) / predicted
        if 1 / FAR_OFF < ratio < FAR_OFF:
            self.samples += 1
            self.fresh += 1
            if self._far:
                self._far.pop(0)
            self._bias += BIAS_SMOOTHING * (log(ratio) - self._bias)
            if not 1 / CLOSE < ratio < CLOSE:
                self._awake = AWAKE
            elif self._awake:
                self._awake -= 1
            self._add(self._row(amounts, seconds, weight), predicted, pulls)
            return True
        self._awake = AWAKE
        return weight >= 0.5 and self._hold(ratio, self._row(amounts, seconds, weight), pulls)

    def _row(self, amounts: tuple[float, float, float], seconds: float, weight: float) -> Row:
        (a, b, c), (p, q, r) = amounts, self.prior
        return a * p, b * q, c * r, seconds, weight

    def rests(self) -> bool:
        """Whether the belief is good enough to do without the next row. Asked once for each."""
        if self._awake or self.fresh < SETTLED:
            return False
        self._turn = (self._turn + 1) % TURNS
        return self._turn != 0

    def learn_last(self, seconds: float, pull: float) -> None:
        """A row with nothing but k2 in it: it moves nothing else, is no witness for a jump, is clipped if far off."""
        unit, believed = self.prior[2], self.values[2] + JITTER
        seconds = min(max(seconds, believed / FAR_OFF), believed * FAR_OFF)
        share = unit / believed
        sums, (x, y, _) = self._sums, self.factors
        sums[5] = KEPT * sums[5] + share * share
        sums[8] = KEPT * sums[8] + share * seconds / believed
        z = (sums[8] - sums[2] * x - sums[4] * y + PULL * pull) / (sums[5] + PULL)
        self._believe(x, y, min(max(z, 0.0), self._tops[1] * x))

    def _believe(self, x: float, y: float, z: float) -> None:
        p, q, r = self.prior
        self.factors = (x, y, z)
        self.values = (x * p, y * q, z * r)

    def _hold(self, ratio: float, row: Row, pulls: Pulls) -> bool:
        """Keep it for the case that more like it come. True: they have come."""
        far = self._far
        if far and (far[0][0] > 1) != (ratio > 1):
            far.clear()
        far.append((ratio, row))
        if len(far) < JUMP_ROWS:
            return False
        ratios = [one for one, _ in far]
        if max(ratios) > JUMP_SPREAD * min(ratios):
            far.pop(0)
            return False
        self._jump(median(ratios), [row for _, row in far], pulls)
        return True

    def scale(self, factor: float) -> None:
        """All is `factor` times slower than believed; what was learned before is about another engine."""
        first = min(max(self.factors[0] * factor, self._low), self._high)
        factor = first / self.factors[0]
        x, y, z = self.factors
        self._believe(x * factor, y * factor, z * factor)
        self._sums = [0.0] * 9
        self._rows = self._bias = 0.0
        self._far = []
        self.jumps += 1
        self.fresh = 0

    def _jump(self, factor: float, rows: list[Row], pulls: Pulls) -> None:
        self.scale(factor)
        self.samples += len(rows)
        self.fresh = len(rows)
        x, y, z = self.factors
        for row in rows:
            self._add(row, x * row[0] + y * row[1] + z * row[2] + JITTER, pulls)

    def _add(self, row: Row, predicted: float, pulls: Pulls) -> None:
        f, g, h, seconds, weight = row
        keep, v = self._keep(), weight / (predicted * predicted)
        s00, s01, s02, s11, s12, s22, t0, t1, t2 = self._sums
        s00, s01, s02 = keep * s00 + v * f * f, keep * s01 + v * f * g, keep * s02 + v * f * h
        s11, s12, s22 = keep * s11 + v * g * g, keep * s12 + v * g * h, keep * s22 + v * h * h
        v *= seconds
        t0, t1, t2 = keep * t0 + v * f, keep * t1 + v * g, keep * t2 + v * h
        self._sums = [s00, s01, s02, s11, s12, s22, t0, t1, t2]
        self._solve(pulls)

    def _keep(self) -> float:
        """The share of the old rows that is kept at this one."""
        keep = KEPT_LONG
        if abs(self._bias) > BIASED:
            keep = min(KEPT, RECENT / max(self._rows, RECENT))
        self._rows = keep * self._rows + 1.0
        return keep

    def _solve(self, pulls: Pulls) -> None:
        """The factors at which the weighted errors and the pulls are least: a symmetric 3 x 3 system."""
        a00, a01, a02, a11, a12, a22, b0, b1, b2 = self._sums
        x, y, z = self.factors
        second, third = pulls
        a00, b0 = a00 + BELIEF + PULL * second * second, b0 + BELIEF * x
        a01, a11, a22 = a01 - PULL * second, a11 + PULL, a22 + PULL
        if third is None:
            a00, a02 = a00 + PULL, a02 - PULL
        else:
            b2 += PULL * third
        l1, l2 = a01 / a00, a02 / a00
        d1, m12 = a11 - l1 * a01, a12 - l2 * a01
        l3 = m12 / d1
        z = (b2 - l2 * b0 - l3 * (b1 - l1 * b0)) / (a22 - l2 * a02 - l3 * m12)
        y = (b1 - l1 * b0) / d1 - l3 * z
        x = b0 / a00 - l1 * y - l2 * z
        low, high, (top1, top2) = self._low, self._high, self._tops
        if not (low <= x <= high and 0.0 <= y <= top1 * x and 0.0 <= z <= top2 * x):
            for _ in range(SWEEPS):  # one at a time, each within its bounds
                z = min(max((b2 - a02 * x - a12 * y) / a22, 0.0), top2 * high)
                y = min(max((b1 - a01 * x - a12 * z) / a11, 0.0), top1 * high)
                x = min(max((b0 - a01 * y - a02 * z) / a00, low), high)
            y, z = min(y, top1 * x), min(z, top2 * x)
        self._believe(x, y, z)
