"""A failover is a record for each tenant of the pool; recoveries, misses and drills are the tenant's."""

from __future__ import annotations

from typing import Any

from policies.standby import Cause, Level, Moved
from policies.types import Tier
from router.event_records import PoolRecords, drill_record
from router.metrics import Metrics
from router.recovery import Recoveries
from router.wire.record import Record
from tests.router.builders import request

GOLD = Tier("gold", 1, 15.0)
WALL = 5000.0
TENANTS = [("acme", "gold"), ("globex", "silver")]


class Scene:
    def __init__(self) -> None:
        self.now = 100.0
        self.records: list[Record] = []
        chronicle = PoolRecords(self.records.append, TENANTS, lambda: WALL + self.now)
        self.recoveries = Recoveries("p", Metrics(), lambda: self.now, lambda: WALL + self.now, chronicle)
        self.request = request()
        self.request = type(self.request)(**{**_fields(self.request), "tenant": "acme", "tier": GOLD})

    def told(self) -> list[tuple[str, str | None, str | None]]:
        return [(one.kind, one.tenant, one.outcome) for one in self.records]


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_a_failover_and_the_recovery_behind_it_are_told_in_their_order() -> None:
    it = Scene()
    it.recoveries.in_trouble(it.request, it.now)
    it.recoveries.moved(Moved(Level.HOT, Level.WARM, Cause.NOBODY))
    it.now += 2.0
    it.recoveries.answered(it.request, it.now, hot=False)
    assert it.told() == [("failover", "acme", "moved"), ("failover", "globex", "moved"), ("recovery", "acme", "met")]
    failover, _, recovery = it.records
    assert (failover.pool, failover.tier, failover.at) == ("p", "gold", WALL + 100.0)
    assert failover.detail == {"from": "hot", "to": "warm", "cause": "nobody"}
    assert recovery.detail == {"rto_seconds": 2.0, "target_seconds": 15.0, "met": True}
    assert (recovery.pool, recovery.tier, recovery.at) == ("p", "gold", WALL + 102.0)


def test_an_answer_that_came_before_the_level_had_changed_is_a_recovery_too() -> None:
    it = Scene()
    it.recoveries.in_trouble(it.request, it.now)
    it.recoveries.answered(it.request, it.now + 1.0, hot=False)
    assert it.told() == []
    it.recoveries.moved(Moved(Level.HOT, Level.WARM, Cause.NOBODY))
    assert [kind for kind, _, _ in it.told()] == ["failover", "failover", "recovery"]


def test_who_is_not_answered_in_time_is_told_once_and_again_when_it_is() -> None:
    it = Scene()
    it.recoveries.in_trouble(it.request, it.now)
    it.recoveries.moved(Moved(Level.HOT, Level.WARM, Cause.NOBODY))
    it.now += 16.0
    it.recoveries.look(it.now, rising=True)
    it.recoveries.look(it.now, rising=True)
    it.recoveries.answered(it.request, it.now, hot=False)
    assert it.told()[2:] == [("recovery", "acme", "missed"), ("recovery", "acme", "late")]
    assert it.records[2].detail == {"rto_seconds": None, "target_seconds": 15.0, "met": False}
    assert it.records[3].detail == {"rto_seconds": 16.0, "target_seconds": 15.0, "met": False}


def test_a_drill_is_told_with_its_figures() -> None:
    result = {
        "status": "passed", "at": "2026-11-29T12:00:00+00:00", "tenant": "acme", "tier": "gold", "model": "chat",
        "pool": "p", "shared_with": [], "fault": "kill", "rto_seconds": 0.4, "target_seconds": 15.0, "met": True,
    }  # fmt: skip
    record = drill_record(result)
    assert (record.kind, record.tenant, record.tier, record.model) == ("drill", "acme", "gold", "chat")
    assert (record.pool, record.outcome, record.at) == ("p", "passed", 1795953600.0)
    assert record.detail == {"fault": "kill", "rto_seconds": 0.4, "target_seconds": 15.0, "met": True}
