"""Endpoints' time as the ledger has it: for how long each was awake, asleep or absent, and what that cost.

Floor: an adapter over pools; one task. Where replicas share a pool, whoever looks after it writes. A period is a
minute, or what there was of it before the endpoint's price or role changed, the day (UTC) ended, another replica took
over or the process was told to end; by SIGKILL a minute at most is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from policies.costs import MICRO, paid
from policies.endpoint_state import EndpointState
from policies.health import ProbeState
from policies.types import Role
from router.metrics import Metrics
from router.pools import Pool
from router.wire.record import Kind, Record

_log = logging.getLogger("promptlane.ledger")

LOOK_SECONDS = 1.0  # so much is lost at most when another replica takes over
PERIOD_SECONDS = 60.0
# A process that did not look for longer was stopped, and cannot say what its endpoints did meanwhile.
MISSED_SECONDS = 60.0
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class _Whose:
    pool: str
    endpoint: str
    role: Role
    hourly_cost: float
    pools: int


@dataclass(slots=True)
class _Period:
    """`since`, `seen`: monotonic seconds; `at`: Unix seconds of the last look; `times`: microseconds by state."""

    since: float
    seen: float
    at: float
    times: dict[str, int] = field(default_factory=lambda: {"awake": 0, "asleep": 0, "absent": 0})


class EndpointRecords:
    """Of one process. `pools`: those that serve now; `add`: takes a record; `clock`: monotonic seconds; `wall_clock`:
    Unix seconds."""

    def __init__(
        self,
        pools: Callable[[], Iterable[Pool]],
        add: Callable[[Record], None],
        metrics: Metrics,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._pools = pools
        self._add = add
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._periods: dict[_Whose, _Period] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look. Needs a running event loop."""
        self._task = asyncio.create_task(self._run(), name="endpoint records")

    async def stop(self) -> None:
        """Writes what there is of every period."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.look()
        for whose in list(self._periods):
            self._end(whose)

    def look(self) -> None:
        """Counts the time since the last look to what each endpoint does now. A fault is logged and counted."""
        try:
            self._look()
        except Exception:  # neither the loop nor the end of the process must end with one odd moment
            _log.exception("counting the time of endpoints failed")
            self._metrics.add("promptlane_internal_errors", "endpoint_records")

    def _look(self) -> None:
        now, wall = self._clock(), self._wall_clock()
        pools = list(self._pools())
        sharing = Counter(state.endpoint.url for pool in pools for state in pool.states)
        seen = {}
        for pool in pools:
            if pool.remote is None or pool.remote.looks_after():
                for state in pool.states:
                    seen[_whose(pool.name, state, sharing[state.endpoint.url])] = state
        for whose in [one for one in self._periods if one not in seen]:
            self._end(whose)
        for whose, state in seen.items():
            self._count(whose, _doing(state), now, wall)

    def _count(self, whose: _Whose, doing: str, now: float, wall: float) -> None:
        period = self._periods.get(whose)
        if period is None:
            self._periods[whose] = _Period(now, now, wall)
            return
        if wall // _DAY != period.at // _DAY:
            self._end(whose)
            period = self._periods[whose] = _Period(period.seen, period.seen, wall)
        if (passed := now - period.seen) <= MISSED_SECONDS:
            period.times[doing] += round(passed * MICRO)
        period.seen, period.at = now, wall
        if now - period.since >= PERIOD_SECONDS:
            self._end(whose)
            self._periods[whose] = _Period(now, now, wall)

    def _end(self, whose: _Whose) -> None:
        period = self._periods.pop(whose)
        if not any(period.times.values()):
            return
        cost = paid(whose.role, **period.times, hourly_cost=whose.hourly_cost, pools=whose.pools)
        detail: dict[str, Any] = {"role": whose.role.value, **period.times, "hourly_cost": whose.hourly_cost}
        if whose.pools > 1:
            detail["pools"] = whose.pools
        self._add(
            Record(
                "", 0, Kind.ENDPOINT.value, period.at, pool=whose.pool, endpoint=whose.endpoint, detail=detail,
                engine_micro_seconds=cost.micro_seconds, cost_micro=cost.cost,
            )
        )  # fmt: skip

    async def _run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)


def _whose(pool: str, state: EndpointState, pools: int) -> _Whose:
    endpoint = state.endpoint
    return _Whose(pool, endpoint.name, endpoint.role, endpoint.hourly_cost, pools)


def _doing(state: EndpointState) -> str:
    if state.health.probes is not ProbeState.HEALTHY:
        return "absent"
    return "asleep" if state.sleeping else "awake"
