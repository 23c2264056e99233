"""Whether answers change: what each tenant's model has said of late, against what it said before.

Floor: pure; time comes in as Unix seconds, so that what is kept over a restart still means something.

Of each measure there are counts by bucket: of the slice that is being filled, of the one before it, and of all before
those, which fade (`HALF_LIFE`). The first two are compared with the third. A slice is full when it has enough answers
and is old enough: a busy model's does not end with the minute, a quiet one's waits for its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from policies.governance.measures import MEASURES, MOST_BUCKETS, placed
from policies.governance.stability import drift

SLICE_ANSWERS: Final = 200  # and as many are compared at least
SLICE_SECONDS: Final = 900.0
LEAST_BASELINE: Final = 500.0  # answers, faded: of fewer nothing is said
HALF_LIFE: Final = 7 * 86_400.0  # seconds
MOST_MODELS: Final = 500  # tenants' models: beyond, the one that has answered nothing for the longest time is forgotten

Key = tuple[str, str, str]


@dataclass(slots=True)
class Slice:
    """Answers of a while. `level`: the sum of their levels. `began`: Unix seconds."""

    began: float
    counts: dict[int, int] = field(default_factory=dict)
    answers: int = 0
    level: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """`drift`: the population stability index, None while there is too little to compare; `level`: the mean of late."""

    drift: float | None
    level: float


@dataclass(slots=True)
class Distribution:
    """Of one measure of one tenant's model. `faded_at`: when the baseline's weights were as they are."""

    measure: str
    faded_at: float
    present: Slice
    previous: Slice | None = None
    baseline: dict[int, float] = field(default_factory=dict)

    def add(self, value: float, now: float, times: int = 1) -> None:
        """An answer more, or several that are alike."""
        present = self.present
        if present.answers >= SLICE_ANSWERS and now - present.began >= SLICE_SECONDS:
            self._turn(now)
            present = self.present
        (bucket, level), counts = placed(self.measure, value), present.counts
        counts[bucket] = counts.get(bucket, 0) + times
        present.answers += times
        present.level += level * times

    def _turn(self, now: float) -> None:
        if self.previous is not None:
            share = 0.5 ** (max(0.0, now - self.faded_at) / HALF_LIFE)
            faded = {bucket: weight * share for bucket, weight in self.baseline.items()}
            for bucket, count in self.previous.counts.items():
                faded[bucket] = faded.get(bucket, 0.0) + count
            self.baseline = faded
        self.faded_at = now
        self.previous, self.present = self.present, Slice(now)

    def read(self) -> Reading | None:
        """None before the first answer."""
        slices = [one for one in (self.previous, self.present) if one is not None]
        answers = sum(one.answers for one in slices)
        if not answers:
            return None
        level = sum(one.level for one in slices) / answers
        if answers < SLICE_ANSWERS or sum(self.baseline.values()) < LEAST_BASELINE:
            return Reading(None, level)
        current: dict[int, float] = {}
        for one in slices:
            for bucket, count in one.counts.items():
                current[bucket] = current.get(bucket, 0.0) + count
        return Reading(drift(self.baseline, current, ordered=MEASURES[self.measure].ordered), level)

    @property
    def sane(self) -> bool:
        """Whether it can be gone on with, wherever it was read from: another version may have had other buckets."""
        slices = [one for one in (self.previous, self.present) if one is not None]
        buckets = {*self.baseline, *(bucket for one in slices for bucket in one.counts)}
        counts = [*self.baseline.values(), *(count for one in slices for count in one.counts.values())]
        return self.measure in MEASURES and buckets <= set(range(MOST_BUCKETS)) and all(one >= 0 for one in counts)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept over a restart."""

    tenant: str
    model: str
    distribution: Distribution


class Drift:
    """Of all tenants' models that one process serves."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], dict[str, Distribution]] = {}  # the one that answered last is the last

    def __len__(self) -> int:
        return len(self._models)

    def note(self, tenant: str, model: str, values: Iterable[tuple[str, float]], now: float, times: int = 1) -> None:
        """An answer by its measures, or several that are alike. `now`: Unix seconds."""
        found = self._models.pop((tenant, model), None)
        if found is None:
            found = {}
            if len(self._models) >= MOST_MODELS:
                del self._models[next(iter(self._models))]
        self._models[tenant, model] = found
        for measure, value in values:
            one = found.get(measure)
            if one is None:
                one = found[measure] = Distribution(measure, now, Slice(now))
            one.add(value, now, times)

    def read(self) -> dict[Key, Reading]:
        """All that there is to say, by tenant, model and measure."""
        return {key: reading for key, one in self._all() if (reading := one.read()) is not None}

    def kept(self) -> list[Kept]:
        """All of it, for `restore`."""
        return [Kept(tenant, model, one) for (tenant, model, _), one in self._all()]

    def restore(self, rows: Iterable[Kept]) -> None:
        """Goes on with what was kept; what is not sane is left out."""
        models: dict[tuple[str, str], dict[str, Distribution]] = {}
        for row in rows:
            if row.distribution.sane:
                models.setdefault((row.tenant, row.model), {})[row.distribution.measure] = row.distribution
        self._models = dict(list(models.items())[-MOST_MODELS:])

    def _all(self) -> Iterator[tuple[Key, Distribution]]:
        for (tenant, model), measures in self._models.items():
            for measure, one in measures.items():
                yield (tenant, model, measure), one
