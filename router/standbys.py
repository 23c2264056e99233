"""A pool's standbys at work: what `policies.standby` says is done here, and what comes of it is told there.

Floor: an adapter over a pool, its engines and its hooks. Every task has a name and ends with `stop`. One raising is
under way at a time; everybody whom nobody can serve meanwhile waits for it (`holds`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from policies.endpoint_state import EndpointState
from policies.health import is_engine_failure
from policies.holding import Holding
from policies.standby import Action, Cause, Level, Lower, Moved, Raise, Standby, Stays, ranks
from policies.types import FailureCause, InferenceRequest, Lane, Outcome, Role
from policies.waiting import Waiting
from router.keeper import Detour, Terms
from router.metrics import Metrics
from router.pools import Place, Pool
from router.presence import Presence
from router.recovery import Chronicle, Event, Recoveries
from router.standby_engines import StandbyEngines, StandbysSettings, Tasks
from router.wake import EngineControl, Leases

_log = logging.getLogger("promptlane.standby")
_BUSY_TICK, _IDLE_TICK = 0.1, 1.0  # seconds between two looks: while something is going on, and else
# After these an endpoint may be gone altogether, and is asked at once whether it is.
_ASK_AFTER = frozenset({FailureCause.CONNECT, FailureCause.CLOSED, FailureCause.TIMEOUT})
_IN_VAIN = frozenset({FailureCause.CONNECT, FailureCause.TIMEOUT, FailureCause.HUNG})
_ROLES = {Level.HOT: Role.HOT, Level.WARM: Role.WARM, Level.COLD: Role.COLD}


class Standbys:
    """Of one pool. `degraded`: the pool that serves when nobody of this one can, and on which terms.

    For drills: `level`, `events`, `listen`, `simulate_failure`, `end_simulation`.
    """

    def __init__(
        self,
        pool: Pool,
        settings: StandbysSettings,
        control: EngineControl,
        leases: Leases,
        metrics: Metrics,
        wall_clock: Callable[[], float],
        degraded: tuple[Pool, Terms] | None = None,
        chronicle: Chronicle | None = None,
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.heartbeat_seconds = settings.heartbeat_seconds
        self._control = control
        self._metrics = metrics
        self._degraded = degraded
        self._by_level = _by_level(pool)
        self.machine = Standby(settings.machine, self._levels())
        self.holding = Holding()
        self.recoveries = Recoveries(pool.name, metrics, pool.clock, wall_clock, chronicle)
        self._engines = StandbyEngines(
            pool.name, settings, control, leases, pool.clock, on_up=self._up, on_failed=self._failed
        )
        self._own = set(map(id, pool.states))
        self._tasks = Tasks()
        self._presence = Presence(pool, control, self._tasks, self._look_and_pass)
        self._watched = self._closed = False
        self._heir: Standbys | None = None  # after a reload: who is told of requests that began before it

    # -- for the runtime ---------------------------------------------------------------------------------------------

    def take_over(self, before: Standbys | None) -> None:
        """From now on the pool asks these; what the standbys before a reload had raised is theirs."""
        if before is not None and before is not self:
            self.machine.resume(before.machine)
            self.recoveries.adopt(before.recoveries)
            self.holding = before.holding
            self._engines.adopt(before._engines)
            before.pool.keeper = before._heir = self
        self.pool.keeper = self
        self._keep_out()
        self._apply_ranks()

    def refresh(self) -> None:
        """The pool has other endpoints, or others of them may get requests."""
        before = {id(place.state) for place in self._by_level[Level.COLD]}
        self._by_level = _by_level(self.pool)
        self._own = set(map(id, self.pool.states))
        self._presence.gone &= {state.endpoint.name for state in self.pool.states}
        self.machine.offer(self._levels())
        self._apply_ranks()
        new = [place for place in self._by_level[Level.COLD] if id(place.state) not in before]
        if self.machine.rising is Level.COLD:
            self._engines.appeared(new)
        elif self.machine.level is Level.COLD:
            self._engines.replaced(new)
        if self._watched:
            self._look_and_pass()

    def start(self) -> None:
        """Begins to look after the pool. Needs a running event loop; once is enough."""
        if not self._watched:
            self._watched = True
            self._tasks.begin("look", self._tick())

    async def stop(self) -> None:
        """Ends all that is under way; engines stay as they are."""
        await asyncio.gather(self._tasks.stop(), self._engines.stop())
        self._closed, self.machine.rising = True, None  # nobody waits for what does not come
        await self._control.close()

    # -- for operators and drills ------------------------------------------------------------------------------------

    @property
    def level(self) -> Level:
        """Who serves now."""
        return self.machine.level

    @property
    def held(self) -> int:
        """Requests that wait for a standby."""
        return len(self.holding)

    @property
    def rising(self) -> Level | None:
        """What is being made ready."""
        return self.machine.rising

    @property
    def events(self) -> Sequence[Event]:
        """The last changes, the oldest first."""
        return tuple(self.recoveries.events)

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Calls back with every event, and again when a recovery is added to it. Returns how to end that."""
        self.recoveries.listeners.append(listener)
        return lambda: self.recoveries.listeners.remove(listener)

    def simulate_failure(self, names: Collection[str]) -> None:
        """These endpoints of the pool get nothing, as if they were gone, until `end_simulation`; what is under way
        there ends undisturbed."""
        self._engines.simulated.update(names)
        self._keep_out()
        self._look_and_pass()

    def end_simulation(self) -> None:
        """They are back."""
        self._engines.simulated.clear()
        self._keep_out()
        self._look_and_pass()

    # -- for the pool and its tickets (router.keeper.Keeper) ---------------------------------------------------------

    def holds(self, waiting: Waiting, now: float) -> bool:
        if not self._expecting:
            self.look(now)  # this request may be the first to see that nobody is left
        if not self._expecting:
            return False
        first = waiting.held_since is None
        if not self.holding.keep(waiting, now):
            return False
        if first:
            self.recoveries.in_trouble(waiting.request, now)
            if waiting.on_hold is not None:
                waiting.on_hold(self.heartbeat_seconds)
        return True

    def released(self, waiting: Waiting) -> None:
        self.holding.release(waiting)

    def instead(self) -> Detour | None:
        return self.aside() if self.machine.level is Level.DEGRADED else None

    def aside(self) -> Detour | None:
        if self._degraded is None:
            return None
        pool, terms = self._degraded
        return Detour(pool, self, terms)

    def answered(self, state: EndpointState, request: InferenceRequest, now: float) -> None:
        if self._heir is not None:
            self._heir.answered(state, request, now)
            return
        if request.lane is Lane.SHORT and self._owns(state):
            self.machine.answered(now - request.arrived_at, now)
        if request.stream:
            self.recoveries.answered(request, now, hot=state.endpoint.role is Role.HOT and self._owns(state))

    def ended(
        self, state: EndpointState, request: InferenceRequest, outcome: Outcome, sent_at: float, now: float
    ) -> None:
        if self._heir is not None:
            self._heir.ended(state, request, outcome, sent_at, now)
            return
        failed = is_engine_failure(outcome)
        if self._owns(state):
            self.machine.attempted(failed, now)
        if not failed:
            if not request.stream and outcome.failure is None:
                self.recoveries.answered(request, now, hot=state.endpoint.role is Role.HOT and self._owns(state))
            return
        # Who was waited for in vain was in trouble all the time; who breaks off what it was doing is since now.
        in_vain = outcome.failure in _IN_VAIN and not outcome.started
        self.recoveries.in_trouble(request, sent_at if in_vain else now)
        if outcome.failure in _ASK_AFTER and self._owns(state) and not self._closed:
            self._presence.doubt(state)
        self.look(now)

    # -- inside: looking ---------------------------------------------------------------------------------------------

    @property
    def _expecting(self) -> bool:
        """Whether somebody may soon take what nobody takes now."""
        return self.machine.rising is not None or self._presence.asking

    def look(self, now: float) -> None:
        """Tells the machine how things are, and does what it says; not where another replica does."""
        if self._closed or not self.pool.known or (self.pool.remote is not None and not self.pool.remote.looks_after()):
            return
        usable = {level for level, places in self._by_level.items() if any(self._takes(place, now) for place in places)}
        if Level.HOT not in usable and any(
            place.state.health.state(now) == "unknown" for place in self._by_level[Level.HOT]
        ):
            return  # nobody has looked yet: a gateway that starts wakes nobody
        if self._degraded is not None:
            usable.add(Level.DEGRADED)
        self._do(self.machine.look(usable, now), now)

    def _levels(self) -> list[Level]:
        """Those that somebody is there for, or could be started for."""
        levels = [level for level, places in self._by_level.items() if places]
        if self.pool.source is not None and self.settings.start is not None:
            levels.append(Level.COLD)
        return [*levels, Level.DEGRADED] if self._degraded is not None else levels

    def _takes(self, place: Place, now: float) -> bool:
        return place.available(now) and place.state.endpoint.name not in self._presence.gone

    def _owns(self, state: EndpointState) -> bool:
        return id(state) in self._own  # not so for requests that went to another pool

    async def _tick(self) -> None:
        while True:
            busy = self.machine.rising is not None or self.machine.level is not Level.HOT or bool(self._presence.gone)
            await asyncio.sleep(_BUSY_TICK if busy else _IDLE_TICK)
            try:
                now = self.pool.clock()
                self._presence.look(now)
                self.recoveries.look(now, rising=self.machine.rising is not None)
                self._look_and_pass()
            except Exception:  # a background loop ends with its process, not with one odd moment
                _log.exception("looking after pool %s failed", self.pool.name)
                self._metrics.add("promptlane_internal_errors", "standby")

    def _look_and_pass(self) -> None:
        self.look(self.pool.clock())
        self.pool.run_pass()

    # -- inside: doing -----------------------------------------------------------------------------------------------

    def _do(self, actions: Sequence[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Raise):
                self._raise(action.level, now)
            elif isinstance(action, Lower):
                self._engines.lower(action.level, self._by_level.get(action.level, []))
            elif isinstance(action, Moved):
                self._apply_ranks()
                self.recoveries.moved(action)
                asyncio.get_running_loop().call_soon(self.pool.run_pass)
            else:
                self._say_that_it_stays(action)

    def _say_that_it_stays(self, stays: Stays) -> None:
        _log.error(
            "pool %s stays with its %s endpoints: it has failed over %d times within %g s",
            *(self.pool.name, stays.level.value, self.settings.machine.max_failovers, stays.seconds),
        )

    def _apply_ranks(self) -> None:
        order = ranks(self.machine.level, self.machine.cause)
        for state in self.pool.states:
            state.rank = order[state.endpoint.role]
        self.pool.noticed()

    def _raise(self, level: Level, now: float) -> None:
        """Makes every endpoint of the level ready; the first that is makes the level ready."""
        cause = self.machine.cause or Cause.NOBODY
        _log.warning("pool %s needs its %s standby (%s)", self.pool.name, level.value, cause.value)
        places = self._by_level.get(level, [])
        self._engines.keep(places)
        down = [place for place in places if not self._takes(place, now)]
        if len(down) < len(places) or level is Level.DEGRADED:  # one is there, or none is needed
            self._do(self.machine.ready(level, now), now)
        if level is Level.WARM and not places:  # it was withdrawn just now
            self._do(self.machine.failed(level, now), now)
        elif (down or level is Level.COLD) and (level is Level.WARM or len(down) == len(places)):
            self._engines.raise_(level, down)

    def _up(self, level: Level, name: str) -> None:
        now = self.pool.clock()
        self._presence.gone.discard(name)
        self.pool.noticed()
        self._do(self.machine.ready(level, now), now)
        self._look_and_pass()

    def _failed(self, level: Level) -> None:
        now = self.pool.clock()
        self._do(self.machine.failed(level, now), now)
        asyncio.get_running_loop().call_soon(self.pool.run_pass)

    def _keep_out(self) -> None:
        for place in self.pool.places:
            place.state.draining = self._engines.kept_out(place)
        self.pool.noticed()


def _by_level(pool: Pool) -> dict[Level, list[Place]]:
    return {
        level: [place for place in pool.places if place.state.endpoint.role is role] for level, role in _ROLES.items()
    }
