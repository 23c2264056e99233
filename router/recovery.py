"""How long it takes until a standby answers: measured for every tenant, from the first request in trouble on.

Floor: an adapter over `router.metrics` and the log. What happened last is kept for operators, bounded.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from policies.standby import Level, Moved
from policies.types import InferenceRequest, Tier
from router.metrics import Metrics

_log = logging.getLogger("promptlane.standby")
KEPT_EVENTS = 64
# Trouble that nothing came of is forgotten: a request that failed, and no other (seconds).
_FORGET_SECONDS = 60.0
# An awake standby answers what has failed at once; that its level comes into force may take so long (seconds).
_EARLY_SECONDS = 10.0


@dataclass(slots=True)
class Recovery:
    """A tenant was answered again, `seconds` after its first request in trouble."""

    tenant: str
    tier: str
    seconds: float
    target: float

    @property
    def met(self) -> bool:
        """Within what its tier promises."""
        return self.seconds <= self.target


@dataclass(slots=True)
class Event:
    """Another level came into force. `at`: Unix seconds. `recoveries`: of the tenants that it helped, as they come."""

    at: float
    pool: str
    before: Level
    after: Level
    cause: str
    recoveries: list[Recovery] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)  # tenants not answered again within their target

    @property
    def rto(self) -> float | None:
        """The longest recovery of any tenant (seconds); None where nobody was in trouble."""
        return max([one.seconds for one in self.recoveries], default=None)

    @property
    def met(self) -> bool | None:
        """Whether everybody was served within the target; None where nobody was in trouble."""
        if not self.recoveries and not self.missed:
            return None
        return not self.missed and all(one.met for one in self.recoveries)

    def describe(self) -> dict[str, Any]:
        """For operators."""
        return {
            "at": round(self.at, 3),
            "pool": self.pool,
            "from": self.before.value,
            "to": self.after.value,
            "cause": self.cause,
            "rto_seconds": None if self.rto is None else round(self.rto, 4),
            "target_seconds": min([one.target for one in self.recoveries], default=None),
            "met": self.met,
            "recoveries": [
                {"tenant": one.tenant, "tier": one.tier, "seconds": round(one.seconds, 4), "target": one.target}
                for one in self.recoveries
            ],
            "missed": list(self.missed),
        }


class Chronicle(Protocol):
    """Who keeps a record of it for good (`router.event_records`)."""

    def moved(self, event: Event) -> None:
        """Another level serves the pool."""

    def recovered(self, pool: str, recovery: Recovery) -> None:
        """A tenant was answered again."""

    def missed(self, pool: str, tenant: str, tier: str, target: float) -> None:
        """Its target has passed, and it has not been answered yet."""


@dataclass(slots=True)
class _Trouble:
    tier: Tier
    since: float
    missed: bool = False


class Recoveries:
    """Of one pool. `clock`: monotonic, `wall_clock`: Unix seconds."""

    def __init__(
        self,
        pool: str,
        metrics: Metrics,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        chronicle: Chronicle | None = None,
    ) -> None:
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._chronicle = chronicle
        self.events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self.listeners: list[Callable[[Event], None]] = []
        self._trouble: dict[str, _Trouble] = {}  # by tenant; bounded by the configuration's tenants
        self._present: Event | None = None  # that a recovery belongs to: until the hot ones are back
        self._early: list[tuple[float, Recovery]] = []  # answered before the level had changed, and when

    def in_trouble(self, request: InferenceRequest, since: float) -> None:
        """A request has failed or is held; the first of its tenant counts."""
        if request.tenant not in self._trouble:
            self._trouble[request.tenant] = _Trouble(request.tier, since)

    def answered(self, request: InferenceRequest, now: float, *, hot: bool) -> None:
        """A good answer has begun; `hot`: from an endpoint that always serves."""
        if not self._trouble:
            return
        found = self._trouble.get(request.tenant)
        if found is None:
            return
        del self._trouble[request.tenant]
        if hot and self._present is None:
            return  # one engine failed, another answered: no standby had to
        recovery = Recovery(request.tenant, found.tier.name, now - found.since, found.tier.rto_seconds)
        if self._present is None:
            self._early.append((now, recovery))
            del self._early[:-KEPT_EVENTS]
        else:
            self._count(self._present, recovery, found)

    def moved(self, change: Moved) -> None:
        """Another level is in force."""
        _log.warning(
            "pool %s is served by %s endpoints instead of %s (%s)",
            *(self._pool, change.after.value, change.before.value, change.cause.value),
        )
        self._metrics.add("promptlane_failovers", self._pool, change.after.value, change.cause.value)
        event = Event(self._wall_clock(), self._pool, change.before, change.after, change.cause.value)
        self.events.append(event)
        if self._chronicle is not None:
            self._chronicle.moved(event)
        self._present = None if change.after is Level.HOT else event
        if self._present is not None:
            for at, recovery in self._early:
                if self._clock() - at < _EARLY_SECONDS:
                    self._count(event, recovery, None)
        self._early.clear()
        self._tell(event)

    def look(self, now: float, *, rising: bool) -> None:
        """Now and then: notes who has waited for longer than promised, and forgets what came to nothing."""
        for tenant, trouble in list(self._trouble.items()):
            late = now - trouble.since > trouble.tier.rto_seconds
            if late and not trouble.missed and (rising or self._present is not None):
                trouble.missed = True
                self._miss(tenant, trouble.tier)
            elif now - trouble.since > _FORGET_SECONDS and not rising and self._present is None:
                del self._trouble[tenant]

    def adopt(self, before: Recoveries) -> None:
        """Go on with the books of an earlier configuration."""
        self.events.extend(before.events)
        self.listeners = before.listeners
        self._trouble, self._present = before._trouble, before._present

    # -- inside ------------------------------------------------------------------------------------------------------

    def _count(self, event: Event, recovery: Recovery, trouble: _Trouble | None) -> None:
        event.recoveries.append(recovery)
        if self._chronicle is not None:
            self._chronicle.recovered(self._pool, recovery)
        self._metrics.observe("promptlane_recovery_seconds", recovery.seconds, recovery.tenant, recovery.tier)
        if not recovery.met and (trouble is None or not trouble.missed):
            self._metrics.add("promptlane_recovery_missed", recovery.tenant, recovery.tier)
        _log.log(
            logging.INFO if recovery.met else logging.ERROR,
            "tenant %s (%s) is answered again by pool %s after %.3f s; its target is %g s",
            *(recovery.tenant, recovery.tier, self._pool, recovery.seconds, recovery.target),
        )
        self._tell(event)

    def _miss(self, tenant: str, tier: Tier) -> None:
        self._metrics.add("promptlane_recovery_missed", tenant, tier.name)
        said = "tenant %s (%s) is not answered within its target of %g s"
        _log.error(said, tenant, tier.name, tier.rto_seconds, extra={"tenant": tenant})
        if self._chronicle is not None:
            self._chronicle.missed(self._pool, tenant, tier.name, tier.rto_seconds)
        if self._present is not None:
            self._present.missed.append(tenant)
            self._tell(self._present)

    def _tell(self, event: Event) -> None:
        for listener in list(self.listeners):
            listener(event)
