"""Tenants whose pools no fault touches: how long their clients wait, and whether that is more than the machine's noise.

Floor: tests only, pure.

What is compared is a stream's longest wait: for its first piece, or between two pieces. Whatever keeps the gateway's
loop, or this tenant's lanes, lengthens it, whenever that happens and however long the answer is. The time in which the
machine let a process of the request's way stand still (`stalls.py`) is taken off. Two measures of what it would be
without faults stand beside it: the calm phase before the first schedule, and **control** streams, which ask the same
engines at the same time past the gateway, so that a machine which is busy starting an engine slows both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.ask import Seen

SPARE_SECONDS = 0.2
"""What the gateway may be late by chance beyond both measures, in one schedule: there p99 is the worst stream."""
SPARE_IN_ALL = 0.1
"""The same in all schedules together, where one stream in a hundred may have had bad luck."""
Stood = Callable[[float, float, Sequence[str]], float]
"""For how long (seconds) these processes stood still between two times."""


def percentile(values: Sequence[float], share: float) -> float:
    """0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def longest_waits(seen: Iterable[Seen], stood: Stood, way: Callable[[Seen], Sequence[str]]) -> list[float]:
    """Of the streams among them, seconds. `way`: the processes between the client and the answer."""
    return [longest_wait(one, stood, way(one)) for one in seen if one.ask.stream and one.status == 200]


def longest_wait(one: Seen, stood: Stood, way: Sequence[str]) -> float:
    """Its stalls taken off."""
    times = [one.sent_at, *(at for at, _ in one.pieces)]
    return max(max(0.0, after - before - stood(before, after, way)) for before, after in pairwise(times))


@dataclass(frozen=True)
class Waits:
    """Longest waits of one tenant's streams in one while: through the gateway, and past it."""

    through: list[float] = field(default_factory=list)
    past: list[float] = field(default_factory=list)

    def __add__(self, other: Waits) -> Waits:
        return Waits(self.through + other.through, self.past + other.past)


def lateness(now: Waits, calm: Waits, spare: float = SPARE_SECONDS) -> float:
    """Seconds by which the p99 is above what calm and control allow; 0 where it is within noise."""
    allowed = max(percentile(calm.through, 0.99), percentile(now.past, 0.99)) + spare
    return max(0.0, percentile(now.through, 0.99) - allowed)


def table(calm: Mapping[str, Waits], during: Mapping[str, Waits]) -> str:
    """The figures of a run. `during`: the schedules whose faults did not touch the tenant."""
    lines = ["longest wait of a stream (p50 / p99, ms) where no fault touches the pool, the machine's stalls taken off"]
    lines.append(f"  {'tenant':<10}{'calm':>14}{'its control':>14}{'faults':>14}{'their control':>15}{'streams':>9}")
    for tenant, before in calm.items():
        now = during.get(tenant, Waits())
        figures = "".join(f"{_figures(one):>14}" for one in (before.through, before.past, now.through, now.past))
        lines.append(f"  {tenant:<10}{figures}{len(now.through):>10}")
    return "\n".join(lines)


def who_was_late(now: Mapping[str, Waits], calm: Mapping[str, Waits], spare: float = SPARE_SECONDS) -> list[str]:
    """By tenant; nobody where all is within noise."""
    late = {tenant: lateness(waits, calm[tenant], spare) for tenant, waits in now.items()}
    return [
        f"{tenant}, which no fault touched, waited up to {percentile(now[tenant].through, 0.99):.3f} s (p99), "
        f"{seconds:.3f} s beyond calm and control"
        for tenant, seconds in late.items()
        if seconds
    ]


def _figures(values: Sequence[float]) -> str:
    return f"{1000 * percentile(values, 0.5):.0f} / {1000 * percentile(values, 0.99):.0f}"
