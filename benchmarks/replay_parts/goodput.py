"""The goodput: the highest rate at which nearly every request gets its first token in time.

Floor: benchmarks, pure. A replay is given up as soon as it is decided, and that is long before the late requests get
their first token: nobody needs to wait for one that is overdue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.replay_parts.fleet import Log
from benchmarks.replay_parts.runs import build
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Job, arrivals

GRACE_SECONDS = 2.0
"""A first token is in time when it comes within this and the prompt's own cold prefill."""
LATE_SHARE = 0.01
"""Share of requests that may be late, or rejected, at a rate that still counts as good."""
LOWEST, FIRST_HIGH, HIGHEST, TOLERANCE = 0.08, 1.28, 20.0, 0.01
"""Range and resolution of the search, in multiples of X. Below the lowest the goodput is given as 0; the upper end of
the range is doubled while it is good."""


class Lateness:
    """Counts the requests whose time is over and that have no first token, or got it too late, or were rejected. Each
    is counted when its time is over, not when the token comes at last."""

    def __init__(self, jobs: Sequence[Job], arrived: Sequence[float]) -> None:
        self._arrived = arrived
        self._patience = [GRACE_SECONDS + job.cold_seconds for job in jobs]
        self._due = sorted(range(len(jobs)), key=lambda number: arrived[number] + self._patience[number])
        self._judged = 0
        self.late = 0

    def judge(self, log: Log, now: float) -> int:
        """How many are late of those whose time is over at `now`."""
        due, first = self._due, log.first
        while self._judged < len(due) and self._over(due[self._judged], now):
            at = first[due[self._judged]]
            self.late += at is None or self._over(due[self._judged], at)
            self._judged += 1
        return self.late

    def _over(self, number: int, now: float) -> bool:
        return now - self._arrived[number] > self._patience[number]


def keeps_up(policy: str, setup: Setup, jobs: Sequence[Job], rate: float) -> bool:
    """Whether at least 99 % of the requests get their first token in time at this rate."""
    allowed = int(LATE_SHARE * len(jobs))
    arrived = arrivals(jobs, rate)
    lateness = Lateness(jobs, arrived)
    fleet, router = build(policy, setup)
    log = fleet.run(router, jobs, arrived, lambda log, job: lateness.judge(log, fleet.now) > allowed)
    return lateness.judge(log, float("inf")) <= allowed


def search(good: Callable[[float], bool]) -> float:
    """The highest load that is good, to `TOLERANCE`, by bisection; 0 when the lowest is not. What is good at one load
    is taken to be so at lower ones: the lowest is only tried where no other was good."""
    low, high = LOWEST, FIRST_HIGH
    while high < HIGHEST and good(high):
        low, high = high, 2 * high
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low if low > LOWEST or good(low) else 0.0


def goodput(policy: str, setup: Setup, jobs: Sequence[Job], saturation_rps: float) -> float:
    """In multiples of X."""
    return search(lambda load: keeps_up(policy, setup, jobs, load * saturation_rps))
