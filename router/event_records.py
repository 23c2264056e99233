"""Failovers, recoveries and drills as the ledger has them: one record for each tenant that they are about.

Floor: an adapter between `router.recovery`, `router.drill` and the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from router.recovery import Event, Recovery
from router.wire.record import Kind, Record

# Of a drill's result, what is not in a column of its own.
_DRILL_DETAIL = (
    "fault", "real", "seconds", "endpoints", "left", "rto_seconds", "target_seconds", "met", "back_seconds", "probes",
    "probes_lost", "reasons", "answered_by", "clients_requests", "clients_lost",
)  # fmt: skip


class PoolRecords:
    """Of one pool. `tenants`: who is served by it, with their tiers; `wall_clock`: Unix seconds."""

    def __init__(
        self, add: Callable[[Record], None], tenants: Iterable[tuple[str, str]], wall_clock: Callable[[], float]
    ) -> None:
        self._add = add
        self._tenants = tuple(tenants)
        self._wall_clock = wall_clock

    def moved(self, event: Event) -> None:
        """Another level serves the pool."""
        detail = {"from": event.before.value, "to": event.after.value, "cause": event.cause}
        for tenant, tier in self._tenants:
            self._add(self._record(Kind.FAILOVER, event.pool, tenant, tier, "moved", event.at, detail))

    def recovered(self, pool: str, recovery: Recovery) -> None:
        """A tenant was answered again."""
        detail = {"rto_seconds": recovery.seconds, "target_seconds": recovery.target, "met": recovery.met}
        outcome = "met" if recovery.met else "late"
        at = self._wall_clock()
        self._add(self._record(Kind.RECOVERY, pool, recovery.tenant, recovery.tier, outcome, at, detail))

    def missed(self, pool: str, tenant: str, tier: str, target: float) -> None:
        """Its target has passed, and it has not been answered yet."""
        detail = {"rto_seconds": None, "target_seconds": target, "met": False}
        self._add(self._record(Kind.RECOVERY, pool, tenant, tier, "missed", self._wall_clock(), detail))

    def _record(
        self, kind: Kind, pool: str, tenant: str, tier: str, outcome: str, at: float, detail: dict[str, Any]
    ) -> Record:
        return Record(
            "", 0, kind.value, at, tenant=tenant, tier=tier, pool=pool, outcome=outcome, detail=detail
        )  # fmt: skip


def drill_record(result: Mapping[str, Any]) -> Record:
    """Of what a drill has shown (`router.drill`)."""
    detail = {name: result[name] for name in _DRILL_DETAIL if name in result}
    at = datetime.fromisoformat(result["at"]).timestamp()
    return Record(
        "", 0, Kind.DRILL.value, at, tenant=result["tenant"], tier=result["tier"], model=result["model"],
        pool=result["pool"], outcome=result["status"], detail=detail,
    )  # fmt: skip
