"""A seed becomes a schedule: when gateways are killed, the database goes, engines fail; in shares of the requests.

Floor: tests only, pure. Shares, not seconds: a machine of any speed meets the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    KILL_GATEWAY = "a gateway is killed"
    KILL_DATABASE = "the database is killed"
    STOP_DATABASE = "the database stands still"
    AWAY_DATABASE = "the database's file is away"
    LOCK_DATABASE = "somebody locks the database"
    BREAK_ENGINE = "an engine fails"


OUTAGES = {
    "postgres": (Kind.KILL_DATABASE, Kind.STOP_DATABASE),
    "sqlite": (Kind.LOCK_DATABASE, Kind.AWAY_DATABASE),
}
ENGINE_FAULTS = (
    {"kind": "error", "count": 6},
    {"kind": "error", "status": 503, "count": 6},
    {"kind": "error", "after_chunks": 2, "count": 4},
    {"kind": "die-mid-stream", "after_chunks": 0, "count": 4},
    {"kind": "die-mid-stream", "after_chunks": 3, "count": 4},
    {"kind": "abort", "after_chunks": 2, "count": 4},
    {"kind": "refuse", "seconds": 1.0},
    {"kind": "slow", "factor": 5.0, "seconds": 1.0},
)
OUTAGE_SHARE, OUTAGE_SECONDS = 0.05, 2.5
"""How long a database is gone: for so many of the requests, and so long at least, which is more than its timeout."""
FIRST, LAST = 0.05, 0.95


@dataclass(frozen=True)
class Fault:
    """`at`: after this share of the requests. `pick`: which gateway or engine, `order`: what an engine is told."""

    at: float
    kind: Kind
    pick: int = 0
    order: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:.0%}"


def draw_faults(seed: int, database: str, gateways: int, engines: int, kills: int, outages: int) -> list[Fault]:
    """In their order. Outages do not overlap; kills fall anywhere, but where a file is away: who starts then would
    begin a new one in its place, as at a first start."""
    chance = random.Random(f"ledger {database} {seed}")
    begins = [FIRST + (LAST - FIRST) * (number + chance.uniform(0.0, 0.4)) / outages for number in range(outages)]
    kinds = OUTAGES[database]
    faults = [Fault(at, kinds[number % len(kinds)]) for number, at in enumerate(begins)]
    away = [fault.at for fault in faults if fault.kind is Kind.AWAY_DATABASE]
    while kills:
        at = chance.uniform(FIRST, LAST)
        if not any(begin - OUTAGE_SHARE <= at <= begin + 2 * OUTAGE_SHARE for begin in away):
            faults.append(Fault(at, Kind.KILL_GATEWAY, kills % gateways))
            kills -= 1
    for order in ENGINE_FAULTS * 2:
        broken = Fault(chance.uniform(FIRST, LAST), Kind.BREAK_ENGINE, chance.randrange(engines), tuple(order.items()))
        faults.append(broken)
    return sorted(faults, key=lambda fault: fault.at)
