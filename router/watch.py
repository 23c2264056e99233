"""Watches a pool's endpoints between their probes: who is silent for too long, whose ejection is over.

Floor: an adapter; when an engine is suspected and what a canary's answer means is decided in `policies.silence` and
`policies.health`. One look at an endpoint costs microseconds, and nothing per request or piece.

    silent for longer than ever seen -> suspected -> a canary at once --+-- answered, or any sign of work --> cleared
                                                                        +-- nothing until its time is over --> hung:
    ejected, what it has under way is taken away; then canaries with growing pauses until one is answered
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from policies.cost import slowdown, step_seconds, wait_seconds
from policies.endpoint_state import EndpointState
from policies.health import MAX_OPEN_SECONDS, OPEN_SECONDS, Cause
from router.canary import Canary, Verdict
from router.errors import EngineHung
from router.metrics import Metrics
from router.pools import Place, Pool
from router.proof import LATE_SECONDS, Proof, hear
from router.status_log import StatusLog
from router.wire.engine_metrics import EngineReading

_log = logging.getLogger("promptlane.health")

# Seconds between two looks while requests are under way, and while none are. The first is a part of what finding a hung
# engine takes; the second costs a gateway of a hundred idle pools a hundredth of a core.
BUSY_SECONDS, IDLE_SECONDS = 0.1, 0.25


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """`canary_timeout`: seconds for an ejected endpoint's canary. `detect_hung`: whether silence is looked at."""

    canary_timeout: float
    detect_hung: bool


@dataclass(slots=True)
class Doubt:
    """An engine that was found to hang and could not be ejected, as too few others are left. Times: the clock's."""

    since: float
    again_at: float
    pause: float = OPEN_SECONDS


class Watcher:
    """Watches one pool in `run`. `read`: an endpoint's figures now; `paused`: whether it says that it is paused."""

    def __init__(
        self,
        pool: Pool,
        canary: Canary,
        metrics: Metrics,
        settings: WatchSettings,
        read: Callable[[Place], Awaitable[EngineReading | None]],
        paused: Callable[[Place], Awaitable[bool]],
    ) -> None:
        self._pool = pool
        self._canary = canary
        self._metrics = metrics
        self._settings = settings
        self._paused = paused
        self._proof = Proof(pool.clock, self._send, read)
        self._asking: set[int] = set()  # by the state's id
        self._doubts: dict[int, Doubt] = {}  # the same
        self._watched: set[int] = set()  # the same
        self._log = StatusLog(pool.name, pool.states, metrics, pool.clock())

    async def run(self) -> None:
        """Watches until it is cancelled."""
        self.refresh()
        async with asyncio.TaskGroup() as group:
            while True:
                wait = BUSY_SECONDS if any(state.in_flight for state in self._pool.states) else IDLE_SECONDS
                began = self._pool.clock()
                await asyncio.sleep(wait)
                # The loop itself was busy: what engines have sent may lie unread, and their silence is our own.
                late = self._pool.clock() - began > wait + LATE_SECONDS
                for place in self._pool.places:
                    self._look(place, group, late)

    def refresh(self) -> None:
        """Watches the endpoints that the pool has now."""
        here = {id(place.state) for place in self._pool.places}
        for place in self._pool.places:
            if id(place.state) not in self._watched:
                place.state.health.canaried = True
        self._watched = here
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if key in here}
        self._log.follow(self._pool.states, self._pool.clock())

    def _look(self, place: Place, group: asyncio.TaskGroup, late: bool) -> None:
        state, health, now = place.state, place.state.health, self._pool.clock()
        if id(state) in self._asking:
            return
        if health.canary_due(now) and not state.sleeping:
            self._ask(group, place, self._decide)
        elif health.canaried and self._settings.detect_hung and not health.ejected and not late:
            if state.in_flight and self._silent(place, now):
                health.suspected = True
                self._ask(group, place, self._examine)
            elif health.suspected and id(state) not in self._doubts:
                self._clear(state)  # nothing is owed any more, or whoever examined it before a reload was stopped
        self._log.look(state, now)

    def _ask(self, group: asyncio.TaskGroup, place: Place, work: Callable[[Place], Awaitable[None]]) -> None:
        self._asking.add(id(place.state))
        group.create_task(self._guarded(place, work), name=f"examine {place.state.endpoint.name}")

    async def _guarded(self, place: Place, work: Callable[[Place], Awaitable[None]]) -> None:
        try:
            await work(place)
        except Exception:  # one odd answer must not end the watching of a whole pool
            _log.exception("watching %s failed", place.state.endpoint.name)
            self._metrics.add("promptlane_internal_errors", "watch")
        finally:
            self._asking.discard(id(place.state))

    # -- silence -----------------------------------------------------------------------------------------------------

    def _silent(self, place: Place, now: float) -> bool:
        """Whether the endpoint is to be examined now."""
        state = place.state
        streams = hear(place, now)
        doubt = self._doubts.get(id(state))
        if doubt is not None:
            if state.silence.alive_since(doubt.since):
                self._clear(state)
            elif self._eject(place) or now < doubt.again_at:
                return False
        return state.silence.suspicious(now, streams > 0)

    def _clear(self, state: EndpointState) -> None:
        state.health.suspected = state.paused = False
        self._doubts.pop(id(state), None)

    async def _examine(self, place: Place) -> None:
        """A canary at once; any other sign of work counts too. None until its time is over: the engine hangs."""
        state, now = place.state, self._pool.clock()
        pending = wait_seconds(state, now) * slowdown(state.rates, step_seconds(state))
        verdict = await self._proof.of(place, state.silence.canary_seconds(pending, now))
        if verdict is Verdict.BAD:
            if not self._eject(place):
                self._doubt(state, now)
            state.paused = await self._paused(place)
            return
        if verdict is Verdict.CANNOT:
            state.health.canaried = False  # nothing can be proved: what is overdue counts in the scores
        state.silence.alive(self._pool.clock())
        self._clear(state)

    def _eject(self, place: Place) -> bool:
        """Takes a hung engine out, and away from it what it has. False where too few others are left."""
        now = self._pool.clock()
        if not place.state.health.eject(Cause.HUNG, now):
            return False
        self._doubts.pop(id(place.state), None)
        self._log.look(place.state, now)
        self._abandon(place)
        return True

    def _doubt(self, state: EndpointState, since: float) -> None:
        """It stays, and is examined again, with growing pauses."""
        known = self._doubts.get(id(state))
        if known is None:
            _log.warning("endpoint %s hangs and stays, as too few others are left", state.endpoint.name)
            self._doubts[id(state)] = Doubt(since, self._pool.clock() + OPEN_SECONDS)
        else:
            known.pause = min(2 * known.pause, MAX_OPEN_SECONDS)
            known.again_at = self._pool.clock() + known.pause

    def _abandon(self, place: Place) -> None:
        place.upstream.abandon(EngineHung("The engine has stopped answering."))
        self._pool.changed(place.state)

    # -- the way back ------------------------------------------------------------------------------------------------

    async def _decide(self, place: Place) -> None:
        """An ejected endpoint's canary."""
        state, health, silence = place.state, place.state.health, place.state.silence
        seconds = max(self._settings.canary_timeout, silence.canary_seconds(0.0, self._pool.clock()))
        verdict = await self._send(place, seconds)
        now = self._pool.clock()
        if verdict is Verdict.CANNOT:
            health.canaried = False  # from now on a request is let through instead
        else:
            health.canary(verdict is Verdict.GOOD, now)
        if verdict is Verdict.GOOD:
            silence.alive(now)
            state.paused = False
        elif verdict is Verdict.BAD:
            if state.in_flight and silence.suspicious(now, hear(place, now) > 0):
                self._abandon(place)  # sent before it was ejected for something else
            state.paused = await self._paused(place)
        self._pool.changed(state)

    async def _send(self, place: Place, seconds: float) -> Verdict:
        verdict = await self._canary.ask(place.state, seconds)
        self._metrics.add("promptlane_canaries", self._pool.name, place.state.endpoint.name, verdict.value)
        return verdict
