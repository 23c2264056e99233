"""A pool's standbys at work: what `policies.standby` says is done here, and what comes of it is told there.

Floor: an adapter over a pool, its engines and its hooks. Every task has a name and ends with `stop`. One raising is
under way at a time; everybody whom nobody can serve meanwhile waits for it (`holds`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from policies.endpoint_state import EndpointState
from policies.health import is_engine_failure
from policies.holding import Holding
from policies.standby import Action, Cause, Level, Lower, Moved, Raise, Standby, StandbySettings, Stays, ranks
from policies.types import FailureCause, InferenceRequest, Lane, Outcome, Role
from policies.waiting import Waiting
from router.hooks import Hook, HookFailed
from router.metrics import Metrics
from router.pools import Detour, Place, Pool, Terms
from router.recovery import Event, Recoveries
from router.wake import POLL_SECONDS, EngineControl, Leases, WakeFailed

_log = logging.getLogger("promptlane.standby")
_BUSY_TICK, _IDLE_TICK = 0.1, 1.0  # seconds between two looks: while something is going on, and else
_HOUR = 3600.0
_GOOD_PROBES = 16  # more than anybody asks for until an endpoint counts as healthy
# After these an endpoint may be gone altogether, and is asked at once whether it is.
_ASK_AFTER = frozenset({FailureCause.CONNECT, FailureCause.CLOSED, FailureCause.TIMEOUT})
_ROLES = {Level.HOT: Role.HOT, Level.WARM: Role.WARM, Level.COLD: Role.COLD}


@dataclass(frozen=True, slots=True)
class StandbysSettings:
    """Times in seconds. `shared`: URLs of warm engines that other pools have too."""

    machine: StandbySettings
    heartbeat_seconds: float = 3.0
    sleep_when_idle: bool = True
    start: Hook | None = None
    stop: Hook | None = None
    starts_per_hour: int = 4
    give_up_seconds: float = 600.0
    shared: frozenset[str] = frozenset()


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
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.heartbeat_seconds = settings.heartbeat_seconds
        self._control = control
        self._leases = leases
        self._metrics = metrics
        self._degraded = degraded
        self._by_level = {
            level: [place for place in pool.places if place.state.endpoint.role is role]
            for level, role in _ROLES.items()
        }
        levels = [level for level, places in self._by_level.items() if places]
        self.machine = Standby(settings.machine, [*levels, *([Level.DEGRADED] if degraded is not None else [])])
        self.holding = Holding()
        self.recoveries = Recoveries(pool.name, metrics, pool.clock, wall_clock)
        self._raised: set[str] = set()  # endpoints that were woken or started here, by name
        self._starts: deque[float] = deque(maxlen=settings.starts_per_hour)
        self._gone: set[str] = set()  # endpoints that do not answer, whatever their probes say
        self._asking: set[str] = set()
        self._simulated: set[str] = set()
        self._ending: set[str] = set()
        self._rising = 0  # endpoints of the level that rises which may still come
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # -- for the runtime ---------------------------------------------------------------------------------------------

    def take_over(self, before: Standbys | None) -> None:
        """From now on the pool asks these; what the standbys before a reload had raised is theirs."""
        if before is not None and before is not self:
            self.machine.resume(before.machine)
            self.recoveries.adopt(before.recoveries)
            self.holding = before.holding
            self._raised, self._starts = before._raised, before._starts
            self._simulated = before._simulated
            before.pool.keeper = self
        self.pool.keeper = self
        self._keep_out()
        self._apply_ranks()

    def start(self) -> None:
        """Begins to look after the pool. Needs a running event loop; once is enough."""
        if "look" not in self._tasks:
            self._begin("look", self._tick())

    async def stop(self) -> None:
        """Ends all that is under way; engines stay as they are."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.machine.rising = None  # nobody waits for what does not come
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
        self._simulated.update(names)
        self._keep_out()
        self._look_and_pass()

    def end_simulation(self) -> None:
        """They are back."""
        self._simulated.clear()
        self._keep_out()
        self._look_and_pass()

    # -- for the pool and its tickets (router.pools.Keeper) ----------------------------------------------------------

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
        if self._degraded is None or self.machine.level is not Level.DEGRADED:
            return None
        pool, terms = self._degraded
        return Detour(pool, self, terms)

    def answered(self, state: EndpointState, request: InferenceRequest, now: float) -> None:
        if request.lane is Lane.SHORT and self._owns(state):
            self.machine.answered(now - request.arrived_at, now)
        if request.stream:
            self.recoveries.answered(request, now, hot=state.endpoint.role is Role.HOT and self._owns(state))

    def ended(
        self, state: EndpointState, request: InferenceRequest, outcome: Outcome, sent_at: float, now: float
    ) -> None:
        failed = is_engine_failure(outcome)
        if self._owns(state):
            self.machine.attempted(failed, now)
        if not failed:
            if not request.stream and outcome.failure is None:
                self.recoveries.answered(request, now, hot=state.endpoint.role is Role.HOT and self._owns(state))
            return
        # An attempt that never began to answer was in trouble from its beginning on, another one is since now.
        self.recoveries.in_trouble(request, now if outcome.started else sent_at)
        name = state.endpoint.name
        if outcome.failure in _ASK_AFTER and self._owns(state) and name not in self._gone and name not in self._asking:
            self._ask(state)
        self.look(now)

    # -- inside: looking ---------------------------------------------------------------------------------------------

    @property
    def _expecting(self) -> bool:
        """Whether somebody may soon take what nobody takes now."""
        return self.machine.rising is not None or bool(self._asking)

    def look(self, now: float) -> None:
        """Tells the machine how things are, and does what it says."""
        usable = {level for level, places in self._by_level.items() if any(self._takes(place, now) for place in places)}
        if Level.HOT not in usable and any(
            place.state.health.state(now) == "unknown" for place in self._by_level[Level.HOT]
        ):
            return  # nobody has looked yet: a gateway that starts wakes nobody
        if self._degraded is not None:
            usable.add(Level.DEGRADED)
        self._do(self.machine.look(usable, now), now)

    def _takes(self, place: Place, now: float) -> bool:
        return place.available(now) and place.state.endpoint.name not in self._gone

    def _owns(self, state: EndpointState) -> bool:
        return state in self.pool.states  # not so for requests that went to another pool

    def _is_shared(self, place: Place) -> bool:
        return place.state.endpoint.url in self.settings.shared

    async def _tick(self) -> None:
        asked_at = 0.0
        while True:
            busy = self.machine.rising is not None or self.machine.level is not Level.HOT or bool(self._gone)
            await asyncio.sleep(_BUSY_TICK if busy else _IDLE_TICK)
            try:
                now = self.pool.clock()
                if self._gone and now - asked_at >= _IDLE_TICK:
                    asked_at = now
                    for state in self.pool.states:
                        if state.endpoint.name in self._gone:
                            self._ask(state)
                self.recoveries.look(now, rising=self.machine.rising is not None)
                self._look_and_pass()
            except Exception:  # a background loop ends with its process, not with one odd moment
                _log.exception("looking after pool %s failed", self.pool.name)
                self._metrics.add("promptlane_internal_errors", "standby")

    def _look_and_pass(self) -> None:
        self.look(self.pool.clock())
        self.pool.run_pass()

    def _ask(self, state: EndpointState) -> None:
        name = state.endpoint.name
        self._asking.add(name)
        self._begin(f"ask {name}", self._ask_health(state))

    async def _ask_health(self, state: EndpointState) -> None:
        """Whether an endpoint at which a request has failed is there at all."""
        name = state.endpoint.name
        try:
            well = await self._control.healthy(state.endpoint.url)
        finally:
            self._asking.discard(name)
        if well:
            self._gone.discard(name)
        else:
            self._gone.add(name)
        self._look_and_pass()

    # -- inside: doing -----------------------------------------------------------------------------------------------

    def _do(self, actions: Sequence[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Raise):
                self._raise(action.level, now)
            elif isinstance(action, Lower):
                self._lower(action.level)
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

    def _raise(self, level: Level, now: float) -> None:
        """Makes every endpoint of the level ready; the first that is makes the level ready."""
        _log.warning(
            "pool %s needs its %s standby (%s)", self.pool.name, level.value, self.machine.cause or Cause.NOBODY
        )
        places = self._by_level.get(level, [])
        asleep = [place for place in places if not self._takes(place, now)]
        for place in places:
            if place.state.endpoint.name not in self._ending:
                self._cancel(f"lower {place.state.endpoint.name}")
        self._rising = len(asleep)
        if level is Level.DEGRADED or len(asleep) < len(places):
            self._do(self.machine.ready(level, now), now)
        elif level is Level.COLD and not self._may_start(now):
            self._do(self.machine.failed(level, now), now)
            return
        if level is Level.COLD and len(asleep) == len(places):
            self._begin(f"start {self.pool.name}", self._start_cold(asleep))
        elif level is Level.WARM:
            for place in asleep:
                self._begin(f"wake {place.state.endpoint.name}", self._bring(place, level, self._wake))

    def _may_start(self, now: float) -> bool:
        if self.settings.start is None:
            return False
        while self._starts and now - self._starts[0] >= _HOUR:
            self._starts.popleft()
        if len(self._starts) >= self.settings.starts_per_hour:
            _log.error(
                "pool %s may not start its cold standby: %d starts within an hour", self.pool.name, len(self._starts)
            )
            return False
        self._starts.append(now)
        return True

    async def _start_cold(self, places: Sequence[Place]) -> None:
        """Runs the hook once, then waits for each of the endpoints."""
        try:
            async with asyncio.timeout(self.settings.give_up_seconds):
                assert self.settings.start is not None  # noqa: S101  # `_may_start` has asked
                await self.settings.start.run("start", self.pool.name, [one.state.endpoint.name for one in places])
        except (HookFailed, TimeoutError) as error:
            _log.error("the cold standby of pool %s was not started: %s", self.pool.name, str(error) or "too slow")
            self._failed(Level.COLD)
            return
        for place in places:
            name = place.state.endpoint.name
            self._begin(f"await {name}", self._bring(place, Level.COLD, self._await_start))

    async def _bring(self, place: Place, level: Level, work: Callable[[Place], Awaitable[None]]) -> None:
        """Does the work that makes an endpoint ready, and tells the machine what came of it."""
        name, bound = place.state.endpoint.name, self.settings.give_up_seconds
        try:
            async with asyncio.timeout(bound if level is Level.COLD else self._control.wake_seconds * 2):
                await work(place)
        except (WakeFailed, TimeoutError) as error:
            _log.error("standby %s did not come up: %s", name, str(error) or "too slow")
            if self._is_shared(place):
                self._leases.give_back(place.state.endpoint.url, self.pool.name)
            self._rising -= 1
            if not self._rising:
                self._failed(level)
            return
        now, state = self.pool.clock(), place.state
        self._gone.discard(name)
        state.sleeping, state.draining = False, self._kept_out(place)
        for _ in range(_GOOD_PROBES):
            if not state.health.admits(now):
                state.health.probe(True, now)  # it has just answered the canary
        _log.warning("standby %s is ready", name)
        self._do(self.machine.ready(level, now), now)
        self._look_and_pass()

    def _failed(self, level: Level) -> None:
        now = self.pool.clock()
        self._do(self.machine.failed(level, now), now)
        self.pool.run_pass()

    async def _wake(self, place: Place) -> None:
        url, control = place.state.endpoint.url, self._control
        while place.state.endpoint.name in self._ending:  # noqa: ASYNC110  # what falls asleep cannot be woken yet
            await asyncio.sleep(POLL_SECONDS)
        if self._is_shared(place):
            await self._leases.take(url, self.pool.name)
        if not await control.healthy(url):
            raise WakeFailed("its /health does not answer")
        if await control.asleep(url):
            await control.wake(url)
            self._raised.add(place.state.endpoint.name)
        await control.canary(url)

    async def _await_start(self, place: Place) -> None:
        url = place.state.endpoint.url
        while not await self._control.healthy(url):  # noqa: ASYNC110  # it is another machine that starts
            await asyncio.sleep(POLL_SECONDS)
        self._raised.add(place.state.endpoint.name)
        await self._control.canary(url)

    # -- inside: putting away ----------------------------------------------------------------------------------------

    def _lower(self, level: Level) -> None:
        for place in self._by_level.get(level, []):
            name = place.state.endpoint.name
            if self._is_shared(place) or name in self._raised:
                self._begin(f"lower {name}", self._put_away(place, level))

    async def _put_away(self, place: Place, level: Level) -> None:
        """After another calm no request is sent there any more; when the last is done it sleeps or is stopped. A shared
        one is given back at once, as others may wait for it."""
        state, shared, settings = place.state, self._is_shared(place), self.settings
        if not shared:
            if level is Level.WARM and not settings.sleep_when_idle:
                return
            await asyncio.sleep(settings.machine.calm_seconds)
        state.draining = True
        try:
            while state.in_flight:  # noqa: ASYNC110  # states are pure and tell nobody
                await asyncio.sleep(POLL_SECONDS)
            self._ending.add(state.endpoint.name)
            if state.endpoint.name in self._raised:
                await self._end(place, level)
            self._raised.discard(state.endpoint.name)
            if shared:
                self._leases.give_back(state.endpoint.url, self.pool.name)
        finally:
            self._ending.discard(state.endpoint.name)
            state.draining = self._kept_out(place)

    async def _end(self, place: Place, level: Level) -> None:
        state = place.state
        if level is Level.WARM:
            if self.settings.sleep_when_idle and await self._control.sleep(state.endpoint.url):
                state.sleeping = True
                state.index.clear()  # it has dropped its cache
        elif self.settings.stop is not None:
            try:
                await self.settings.stop.run("stop", self.pool.name, [state.endpoint.name])
            except HookFailed as error:
                _log.error("the cold standby %s was not stopped: %s", state.endpoint.name, error)

    def _keep_out(self) -> None:
        for place in self.pool.places:
            place.state.draining = self._kept_out(place)

    def _kept_out(self, place: Place) -> bool:
        """Whether nothing may be sent there, however well it is: a drill, or another pool has the engine."""
        if place.state.endpoint.name in self._simulated:
            return True
        return self._is_shared(place) and self._leases.holder(place.state.endpoint.url) != self.pool.name

    # -- inside: tasks -----------------------------------------------------------------------------------------------

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._cancel(name)
        task = asyncio.create_task(work, name=f"standby {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._tasks.pop(name, None) if self._tasks.get(name) is done else None)

    def _cancel(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
