"""How long answers are: per tenant and model, from the last few hundred of them.

Floor: `policies`, pure. Lengths are counted in log-spaced bins that forget. An answer that the client's bound cut off
says only that it would have been longer, so the share of answers that reach a length is computed as survival times are
(Kaplan and Meier): of those that got as far, how many went on. Bounds therefore do not make answers look shorter.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from itertools import islice
from math import exp
from typing import NamedTuple

# What to reckon with until some answers were seen (tokens), and how many are some: one odd answer must not decide.
PRIOR_TOKENS = 256
SOME_ANSWERS = 8

# Share of old answers kept at each new one: about the last 200 count, an hour of a quiet tenant.
KEPT = 0.995

# The curve is computed anew when this share of answers is new since, or this many: one more hardly moves it.
STALE_SHARE = 0.05
STALE_ANSWERS = 16

# Tenants times models remembered, 3 kB each; who was not heard of for longest is forgotten.
MAX_KEYS = 1024

# Bins: one per token up to 8, then 4 per doubling up to 131,072 tokens (a length is known within 10 %).
FINE_TOKENS = 8
PER_DOUBLING = 4
LONGEST = 1 << 17
EDGES = tuple(range(FINE_TOKENS)) + tuple(
    round(FINE_TOKENS * 2 ** (step / PER_DOUBLING))
    for step in range(PER_DOUBLING * (LONGEST // FINE_TOKENS).bit_length() - PER_DOUBLING + 1)
)
"""The shortest length of each bin, and the end of the last, which also holds what is longer."""

MAX_WEIGHT = 1e9  # the newest answer weighs ever more; above this all weights are brought back


class LengthSnapshot(NamedTuple):
    """For operators. `answers`: how many count. Lengths in tokens, None where all answers that got so far were cut off;
    `cut`: share of the answers that were."""

    tenant: str
    model: str
    answers: float
    mean: int
    p50: int | None
    p90: int | None
    p99: int | None
    cut: float


class OutputLengths:
    """Expected lengths of answers. Holds at most `max_keys` pairs of tenant and model."""

    __slots__ = ("_lengths", "_max_keys")

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._lengths: OrderedDict[tuple[str, str], _Lengths] = OrderedDict()

    def observe(self, tenant: str, model: str, tokens: int, cut: bool = False) -> None:
        """One choice of an answer had so many tokens. `cut`: it ended at a bound (`finish_reason: length`), or its
        client left."""
        if tokens < 0:
            return
        key = (tenant, model)
        lengths = self._lengths.get(key)
        if lengths is None:
            if len(self._lengths) >= self._max_keys:
                self._lengths.popitem(last=False)
            lengths = self._lengths[key] = _Lengths()
        else:
            self._lengths.move_to_end(key)
        lengths.observe(tokens, cut)

    def expect(self, tenant: str, model: str, bound: int | None = None, n: int = 1, prior: int = PRIOR_TOKENS) -> int:
        """Tokens to reckon with for `n` choices of at most `bound` each: what such answers have on average, rounded.
        A bound is reckoned with as lengths are, so it lowers the mean before it is reached. `prior`: until some were
        seen."""
        lengths = self._lengths.get((tenant, model))
        if lengths is None or lengths.count < SOME_ANSWERS:
            tokens = float(prior if bound is None else min(bound, prior))
        else:
            tokens = lengths.mean(bound)
        return max(0, round(tokens)) * max(1, n)

    def quantile(self, tenant: str, model: str, q: float) -> int | None:
        """The length that a share `q` of the answers does not exceed. None when it is not known."""
        lengths = self._lengths.get((tenant, model))
        return None if lengths is None or lengths.count < SOME_ANSWERS else lengths.quantile(q)

    def snapshot(self, limit: int = 100) -> list[LengthSnapshot]:
        """Those heard of last, at most `limit`."""
        newest = islice(reversed(self._lengths.items()), limit)
        return [lengths.snapshot(tenant, model) for (tenant, model), lengths in newest]

    def __len__(self) -> int:
        return len(self._lengths)


class _Lengths:
    """The lengths of one tenant's answers by one model. `_ended` and `_stopped`: weights by bin of answers that ended
    by themselves, and that were cut off. The newest answer weighs 1 / KEPT times as much as the one before."""

    __slots__ = ("_areas", "_ended", "_fresh", "_known", "_reach", "_stopped", "_weight", "count")

    def __init__(self) -> None:
        self._ended = array("d", bytes(8 * len(EDGES)))
        self._stopped = array("d", bytes(8 * len(EDGES)))
        self._weight = 1.0
        self.count = 0
        self._fresh = 0  # answers that the curve does not know of
        self._reach = array("d")  # share of answers that get to each edge
        self._areas = array("d")  # mean of the answers if each had ended there
        self._known = 0  # the last edge that any answer got to

    def observe(self, tokens: int, cut: bool) -> None:
        (self._stopped if cut else self._ended)[_bin(tokens)] += self._weight
        self.count += 1
        self._fresh += 1
        self._weight /= KEPT
        if self._weight > MAX_WEIGHT:
            self._ended = array("d", (weight / self._weight for weight in self._ended))
            self._stopped = array("d", (weight / self._weight for weight in self._stopped))
            self._weight = 1.0

    def snapshot(self, tenant: str, model: str) -> LengthSnapshot:
        """What is known now."""
        ended, stopped = sum(self._ended, 0.0), sum(self._stopped, 0.0)
        return LengthSnapshot(
            tenant=tenant,
            model=model,
            answers=round((ended + stopped) / self._weight * KEPT, 1),
            mean=round(self.mean(None)),
            p50=self.quantile(0.5),
            p90=self.quantile(0.9),
            p99=self.quantile(0.99),
            cut=round(stopped / (ended + stopped), 3),
        )

    def mean(self, bound: int | None) -> float:
        """Tokens of an answer that may have at most `bound`. How those go on that got further than all that was seen
        nobody knows: on average for as long again, and not less than the prior."""
        self._refresh()
        index = self._known
        if bound is None or bound > EDGES[index]:
            seen, more = self._areas[index], max(PRIOR_TOKENS, self._areas[index])
            return seen + self._reach[index] * more * (1 - (0 if bound is None else exp((EDGES[index] - bound) / more)))
        index = min(_bin(bound), index - 1)  # an edge belongs to two bins
        into = bound - EDGES[index]
        ending = (self._reach[index] - self._reach[index + 1]) / (EDGES[index + 1] - EDGES[index])
        return self._areas[index] + into * (self._reach[index] - ending * into / 2)

    def quantile(self, q: float) -> int | None:
        """The longest length of the first bin by whose end a share of `q` has ended."""
        self._refresh()
        for edge, reach in zip(EDGES[1:], self._reach[1:], strict=True):
            if reach <= 1.0 - q:
                return edge - 1
        return None

    def _refresh(self) -> None:
        if self._fresh <= min(STALE_ANSWERS, STALE_SHARE * self.count):
            return
        self._fresh = 0
        left = sum(self._ended, 0.0) + sum(self._stopped, 0.0)
        reach, area, self._known = 1.0, 0.0, 0
        reaches, areas = [reach], [area]
        for index in range(len(EDGES) - 1):
            ended, stopped = self._ended[index], self._stopped[index]
            if ended + stopped > 0:
                self._known = index + 1
            at_risk = left - stopped / 2  # who was cut in this bin was watched through half of it
            width, before = EDGES[index + 1] - EDGES[index], reach
            if at_risk > 0:
                reach = max(0.0, reach * (1.0 - ended / at_risk))
            left = max(0.0, left - ended - stopped)
            area += width * (before + reach) / 2
            reaches.append(reach)
            areas.append(area)
        self._reach, self._areas = array("d", reaches), array("d", areas)


def _bin(tokens: int) -> int:
    return min(bisect_right(EDGES, tokens) - 1, len(EDGES) - 2)
