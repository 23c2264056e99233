"""Watches a pool's endpoints between their probes: who is silent for too long, whose ejection is over, what changed.

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
from router.wire.engine_metrics import EngineReading

_log = logging.getLogger("promptlane.health")

# Seconds between two looks while requests are under way, and while none are. The first is a part of what finding a hung
# engine takes; the second costs a gateway of a hundred idle pools a thousandth of a core.
BUSY_SECONDS, IDLE_SECONDS = 0.1, 0.25
# The loop itself was busy for so long (seconds): what engines have sent may lie unread, and their silence is our own.
LATE_SECONDS = 0.1
# While a canary is under way: between two looks at the connections, between two reads of the engine's figures, and
# between two canaries where one fails at once.
LOOK_SECONDS, FIGURES_SECONDS, AGAIN_SECONDS = 0.05, 0.2, 0.1
# For what came in the very moment that the time was over.
LAST_LOOK_SECONDS = 0.02

REASONS = {
    "failures": "requests fail there in a row",
    "outlier": "far more requests fail there than at the pool's other endpoints",
    "hung": "it is silent though its port is open, and a canary got no answer",
    "unhealthy": "its probes fail",
    "paused": "it says that it computes nothing for now",
    "sleeping": "it says that it sleeps",
    "suspected": "it has been silent for longer than ever before; a canary is under way",
    "half-open": "its time is over; a canary or a request is to show whether it works",
    "starting": "it works, and gets more and more",
    "healthy": "it gets all that it can take",
}
QUIET = frozenset({"healthy", "starting", "half-open", "suspected", "sleeping", "draining", "unknown"})


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
        self._read = read
        self._paused = paused
        self._asking: set[int] = set()  # by the state's id, as all below
        self._doubts: dict[int, Doubt] = {}
        self._status: dict[int, str] = {}
        self._ejections = {id(state): dict(state.health.ejections) for state in pool.states}

    async def run(self) -> None:
        """Watches until it is cancelled."""
        for place in self._pool.places:
            place.state.health.canaried = True
        async with asyncio.TaskGroup() as group:
            while True:
                wait = BUSY_SECONDS if any(state.in_flight for state in self._pool.states) else IDLE_SECONDS
                began = self._pool.clock()
                await asyncio.sleep(wait)
                late = self._pool.clock() - began > wait + LATE_SECONDS
                for place in self._pool.places:
                    self._look(place, group, late)

    def _look(self, place: Place, group: asyncio.TaskGroup, late: bool) -> None:
        state, health, now = place.state, place.state.health, self._pool.clock()
        self._tell(state, now)
        if id(state) in self._asking:
            return
        if health.canary_due(now) and not state.sleeping:
            self._ask(group, place, self._decide)
        elif health.canaried and not health.ejected and self._settings.detect_hung and not late:
            if state.in_flight and self._silent(place, now):
                health.suspected = True
                self._tell(state, now)
                self._ask(group, place, self._examine)
            elif not state.in_flight:
                self._clear(state)

    def _ask(self, group: asyncio.TaskGroup, place: Place, work: Callable[[Place], Awaitable[None]]) -> None:
        self._asking.add(id(place.state))
        group.create_task(self._guarded(place, work), name=f"canary {place.state.endpoint.name}")

    async def _guarded(self, place: Place, work: Callable[[Place], Awaitable[None]]) -> None:
        try:
            await work(place)
        except Exception:  # one odd answer must not end the watching of a whole pool
            _log.exception("watching %s failed", place.state.endpoint.name)
            self._metrics.add("promptlane_internal_errors", "watch")
        finally:
            self._asking.discard(id(place.state))
            self._tell(place.state, self._pool.clock())

    # -- silence -----------------------------------------------------------------------------------------------------

    def _silent(self, place: Place, now: float) -> bool:
        """Whether the endpoint is to be examined now."""
        state = place.state
        streams = self._hear(place, now)
        doubt = self._doubts.get(id(state))
        if doubt is not None:
            if state.silence.alive_since(doubt.since):
                self._clear(state)
            elif self._eject(place) or now < doubt.again_at:
                return False
        return state.silence.suspicious(now, streams > 0)

    def _hear(self, place: Place, now: float) -> int:
        """Notes what streams under way have said; how many there are that could speak."""
        flow = place.upstream.flow()
        if flow.quiet is not None:
            place.state.silence.alive(now - flow.quiet, between=True)
        return flow.streams

    def _clear(self, state: EndpointState) -> None:
        state.health.suspected = state.paused = False
        self._doubts.pop(id(state), None)

    async def _examine(self, place: Place) -> None:
        """A canary at once; any other sign of work counts too. None until its time is over: the engine hangs."""
        state, now = place.state, self._pool.clock()
        pending = wait_seconds(state, now) * slowdown(state.rates, step_seconds(state))
        verdict = await self._proof(place, state.silence.canary_seconds(pending, now))
        if verdict is Verdict.CANNOT:
            state.health.canaried = False  # nothing can be proved: what is overdue counts in the scores
        if verdict is not Verdict.BAD:
            state.silence.alive(self._pool.clock())
            self._clear(state)
            return
        known = self._doubts.get(id(state))
        pause = min(2 * known.pause, MAX_OPEN_SECONDS) if known is not None else OPEN_SECONDS
        if not self._eject(place):
            if known is None:
                _log.warning("endpoint %s hangs and stays, as too few others are left", state.endpoint.name)
            since = known.since if known is not None else now
            self._doubts[id(state)] = Doubt(since, self._pool.clock() + pause, pause)
        state.paused = await self._paused(place)

    async def _proof(self, place: Place, seconds: float) -> Verdict:
        """GOOD with the first sign of work, BAD when there is none in so many seconds."""
        state, clock = place.state, self._pool.clock
        since = clock()
        asked, moved = asyncio.create_task(self._answered(place, seconds)), asyncio.create_task(self._moves(place))
        try:
            while (left := since + seconds - clock()) > 0:
                done, _ = await asyncio.wait(
                    {asked, moved}, timeout=min(left, LOOK_SECONDS), return_when="FIRST_COMPLETED"
                )
                self._hear(place, clock())
                if done or state.silence.alive_since(since):
                    break
            else:
                await asyncio.sleep(LAST_LOOK_SECONDS)
                self._hear(place, clock())
            if asked.done() or moved.done():
                return asked.result() if asked.done() else Verdict.GOOD
            return Verdict.GOOD if state.silence.alive_since(since) else Verdict.BAD
        finally:
            asked.cancel()
            moved.cancel()
            await asyncio.gather(asked, moved, return_exceptions=True)

    async def _answered(self, place: Place, seconds: float) -> Verdict:
        """Returns only with an answer that says something: an engine that fails at once may do so while it restarts."""
        while True:
            verdict = await self._send(place, seconds)
            if verdict is not Verdict.BAD:
                return verdict
            await asyncio.sleep(AGAIN_SECONDS)

    async def _moves(self, place: Place) -> None:
        """Returns when the engine's own figures move: it computes, however long the canary waits behind others."""
        before: tuple[float | None, ...] | None = None
        while True:
            reading = await self._read(place)
            if reading is not None:
                figures = _progress(reading)
                if before is not None and figures != before:
                    return
                before = figures
            await asyncio.sleep(FIGURES_SECONDS)

    def _eject(self, place: Place) -> bool:
        """Takes a hung engine out, and away from it what it has. False where too few others are left."""
        if not place.state.health.eject(Cause.HUNG, self._pool.clock()):
            return False
        self._doubts.pop(id(place.state), None)
        self._tell(place.state, self._pool.clock())
        self._abandon(place)
        return True

    def _abandon(self, place: Place) -> None:
        place.upstream.abandon(EngineHung("The engine has stopped answering."))
        self._pool.run_pass()

    # -- the way back ------------------------------------------------------------------------------------------------

    async def _decide(self, place: Place) -> None:
        """An ejected endpoint's canary."""
        state, health, seconds = place.state, place.state.health, self._settings.canary_timeout
        verdict = await self._send(place, max(seconds, state.silence.canary_seconds(0.0, self._pool.clock())))
        now = self._pool.clock()
        if verdict is Verdict.CANNOT:
            health.canaried = False  # from now on a request is let through instead
        else:
            health.canary(verdict is Verdict.GOOD, now)
        if verdict is Verdict.GOOD:
            state.silence.alive(now)
            state.paused = False
        elif verdict is Verdict.BAD:
            if state.in_flight and state.silence.suspicious(now, self._hear(place, now) > 0):
                self._abandon(place)  # sent before the ejection, or on no proof but hope
            state.paused = await self._paused(place)
        self._pool.run_pass()

    async def _send(self, place: Place, seconds: float) -> Verdict:
        verdict = await self._canary.ask(place.state, seconds)
        self._metrics.add("promptlane_canaries", self._pool.name, place.state.endpoint.name, verdict.value)
        return verdict

    # -- for operators -----------------------------------------------------------------------------------------------

    def _tell(self, state: EndpointState, now: float) -> None:
        """Logs what has changed, and counts ejections, whoever decided them."""
        status, before = state.status(now), self._status.get(id(state), "unknown")
        if status != before:
            self._status[id(state)] = status
            level = logging.INFO if status in QUIET else logging.WARNING
            reason = REASONS.get(status, "")
            _log.log(level, "endpoint %s was %s and is %s: %s", state.endpoint.name, before, status, reason)
        counted = self._ejections[id(state)]
        for cause, number in state.health.ejections.items():
            if number > counted[cause]:
                labels = (self._pool.name, state.endpoint.name, cause.value)
                self._metrics.add("promptlane_endpoint_ejections", *labels, amount=number - counted[cause])
                counted[cause] = number


def _progress(reading: EngineReading) -> tuple[float | None, ...]:
    """What changes only while the engine computes: its core reports these figures after a step."""
    return (
        reading.prompt_tokens,
        reading.generation_tokens,
        reading.kv_usage,
        reading.running,
        reading.prefix_queries,
    )
