"""Drills: a failover on purpose, watched by requests of our own, so that a recovery time is known before it is needed.

Floor: assembles; asked for by `router.admin`. The faults are inside the gateway (`router.injected`), or the operator's
own (`pools.*.drill_hook`); whatever happens, they end. What the probes say is judged in `policies.drill`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from policies.drill import Probe, Verdict, judge
from router.assembly import Runtime
from router.drill_hook import run_hook
from router.drill_probe import send_probe
from router.drill_results import DrillResults
from router.drill_stage import DrillOrder, Stage, stage_of
from router.errors import BadRequest
from router.event_records import drill_record
from router.injected import InjectedFault
from router.metrics import Metrics
from router.wire.record import Record

_log = logging.getLogger("promptlane.drill")

PROBE_SECONDS = 0.2  # between two probes: a recovery time is known to about this, and nobody notices the load
MAX_PROBES = 64  # under way at once; in a pool that has stopped more would tell nothing new
SETTLE_SECONDS = 10.0  # probes get so long to end after the fault; what has not ended by then is lost
BACK_SECONDS = 60.0  # circuits may stay open for 30 s after an outage
# Refusals by which a client's request was lost to the fault, and not by a fault or limit of its own.
LOST_CODES = (
    "bad_engine_response", "deadline_exceeded", "engine_aborted", "engine_closed", "engine_error", "engine_hung",
    "engine_timeout", "engine_unreachable", "no_endpoint", "stream_interrupted",
)  # fmt: skip


class Drills:
    """Runs one drill per pool at a time. `runtime`: what serves now; `record`: takes records, where they are kept."""

    def __init__(
        self, runtime: Callable[[], Runtime], metrics: Metrics, record: Callable[[Record], None] | None = None
    ) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._record = record
        self._running: set[str] = set()
        self._results = DrillResults()

    @property
    def results(self) -> deque[dict[str, Any]]:
        """Of the last drills of this process, oldest first."""
        return self._results.last

    async def run(self, order: DrillOrder) -> dict[str, Any]:
        """The result, or with `dry_run` the plan. Raises BadRequest for what cannot or should not be exercised."""
        stage = stage_of(order, self._runtime())
        problems = stage.problems()
        if order.dry_run:
            return {"status": "planned", "problems": problems, **stage.describe()}
        if problems and not order.force:
            raise BadRequest(f"{' '.join(problems)} --force (force: true) does it all the same.")
        if stage.pool.name in self._running:
            raise BadRequest(f"A drill of pool '{stage.pool.name}' is under way.")
        self._running.add(stage.pool.name)
        try:
            return await self._exercise(stage)
        finally:
            self._running.discard(stage.pool.name)

    async def _exercise(self, stage: Stage) -> dict[str, Any]:
        before = await send_probe(self._runtime().gateway, stage.tenant, stage.model, stage.pool.clock)
        if before.why and not stage.order.force:
            raise BadRequest(f"The pool does not answer even before the drill ({before.why}): nothing was done.")
        _log.warning(
            "drill of pool %s begins: %s of %s", stage.pool.name, stage.order.fault, ", ".join(stage.plan.struck)
        )
        clients = self._clients(stage.tenant.id)
        at = datetime.now(UTC)
        probes = await self._watch(stage)
        if not self._still_there(stage):
            raise BadRequest("A reload has replaced what was to fail while it did: the drill says nothing.")
        verdict = judge(probes, stage.tenant.tier.rto_seconds)
        back = await _back(stage)
        result = _result(stage, at, verdict, back, self._clients(stage.tenant.id) - clients)
        passed = result["status"] == "passed"
        self._metrics.add("promptlane_drills", stage.pool.name, stage.order.fault.value, str(result["status"]))
        _log.log(
            logging.INFO if passed else logging.ERROR,
            "drill of pool %s %s: recovered in %s s (target %g s), %d of %d probes and %d clients' requests lost",
            *(stage.pool.name, result["status"], result["rto_seconds"], result["target_seconds"]),
            *(verdict.lost, verdict.sent, result["clients_lost"]),
        )
        if self._record is not None:
            self._record(drill_record(result))
        await self._results.keep(result, self._runtime().config.state.drills_file)
        return result

    async def _watch(self, stage: Stage) -> list[Probe]:
        """Sends probes while the fault lasts. When this returns it is over and every probe has ended."""
        tasks: list[asyncio.Task[Probe]] = []
        try:
            async with _fault(stage):
                await self._send_probes(stage, tasks)
            await asyncio.wait(tasks, timeout=SETTLE_SECONDS)
        finally:
            late = {task for task in tasks if task.cancel()}
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        probes = zip(tasks, ended, strict=True)
        return [
            replace(probe, why="no answer in time") if task in late else probe
            for task, probe in probes
            if isinstance(probe, Probe)
        ]

    async def _send_probes(self, stage: Stage, tasks: list[asyncio.Task[Probe]]) -> None:
        began = stage.pool.clock()
        while (left := began + stage.seconds - stage.pool.clock()) > 0:
            if sum(not task.done() for task in tasks) < MAX_PROBES:
                probe = send_probe(self._runtime().gateway, stage.tenant, stage.model, stage.pool.clock)
                tasks.append(asyncio.create_task(probe, name=f"drill probe of {stage.pool.name}"))
            await asyncio.sleep(min(PROBE_SECONDS, left))

    def _still_there(self, stage: Stage) -> bool:
        """Whether requests still went by the connections that were made to fail."""
        pool = self._runtime().pools.get(stage.pool.name)
        now = {id(place.upstream) for place in pool.places} if pool is not None else set()
        return all(id(place.upstream) in now for place in stage.struck)

    def _clients(self, tenant: str) -> Sums:
        """What the tenant's own clients have asked and lost so far."""
        lost = sum(self._metrics.total("promptlane_rejections", tenant, code) for code in LOST_CODES)
        return Sums(self._metrics.total("promptlane_requests", tenant), lost)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of clients' requests."""

    requests: float
    lost: float

    def __sub__(self, before: Sums) -> Sums:
        return Sums(self.requests - before.requests, self.lost - before.lost)


@asynccontextmanager
async def _fault(stage: Stage) -> AsyncIterator[None]:
    """The endpoints fail until the end, however it comes."""
    try:
        for place in stage.struck:
            if stage.order.real:
                await run_hook(stage.hook, "begin", stage.order.fault, place.state.endpoint)
            else:
                place.upstream.strike(InjectedFault(stage.order.fault))
        yield
    finally:
        for place in stage.struck:
            place.upstream.lift()
        if stage.order.real:  # also when the gateway is told to end meanwhile
            await asyncio.shield(asyncio.create_task(_end_real(stage), name=f"end of drill of {stage.pool.name}"))


async def _end_real(stage: Stage) -> None:
    for place in stage.struck:
        await run_hook(stage.hook, "end", stage.order.fault, place.state.endpoint)


async def _back(stage: Stage) -> float | None:
    """Seconds after the fault until every endpoint takes requests again; None when that takes too long."""
    began = stage.pool.clock()
    while (passed := stage.pool.clock() - began) < BACK_SECONDS:
        if all(place.available(stage.pool.clock()) for place in stage.struck):
            return passed
        await asyncio.sleep(PROBE_SECONDS / 4)
    return None


def _result(stage: Stage, at: datetime, verdict: Verdict, back: float | None, clients: Sums) -> dict[str, Any]:
    passed = verdict.met and not verdict.lost and not clients.lost
    return {
        "status": "passed" if passed else "failed",
        "at": at.isoformat(timespec="seconds"),
        **stage.describe(),
        "rto_seconds": _rounded(verdict.recovery_seconds),
        "met": verdict.met,
        "back_seconds": _rounded(back),
        "probes": verdict.sent,
        "probes_lost": verdict.lost,
        "reasons": verdict.reasons,
        "answered_by": verdict.answered_by,
        "clients_requests": round(clients.requests),
        "clients_lost": round(clients.lost),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
