"""A pool's standby engines: brought up when they are needed, put away when they are not.

Floor: an adapter over a pool's endpoints, under `router.standbys`, which is told what came of it. Every task has a name
and an owner that ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from policies.standby import Level, StandbySettings
from router.hooks import Hook, HookFailed
from router.pools import Place
from router.wake import POLL_SECONDS, EngineControl, Leases, WakeFailed

_log = logging.getLogger("promptlane.standby")
_HOUR = 3600.0
_GOOD_PROBES = 16  # more than anybody asks for until an endpoint counts as healthy


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


class Tasks:
    """Tasks by name: another of the same name ends the one before."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self.cancel(name)
        task = asyncio.create_task(work, name=f"standby {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._tasks.pop(name, None) if self._tasks.get(name) is done else None)

    def cancel(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Ends all of them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class StandbyEngines:
    """Of the pool of this name. `on_up`, `on_failed`: an endpoint of the level serves now; none of it will.

    `simulated`: names of endpoints that a drill keeps out.
    """

    def __init__(
        self,
        pool: str,
        settings: StandbysSettings,
        control: EngineControl,
        leases: Leases,
        clock: Callable[[], float],
        on_up: Callable[[Level, str], None],
        on_failed: Callable[[Level], None],
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._control = control
        self._leases = leases
        self._clock = clock
        self._on_up = on_up
        self._on_failed = on_failed
        self.simulated: set[str] = set()
        self._raised: set[str] = set()  # endpoints that were woken or started here, by name
        self._starts: deque[float] = deque(maxlen=settings.starts_per_hour)
        self._ending: set[str] = set()  # endpoints that are just being sent to sleep or stopped
        self._rising: dict[Level, int] = {}  # endpoints that may still come
        self._tasks = Tasks()
        self._appeared = asyncio.Event()

    def adopt(self, before: StandbyEngines) -> None:
        """What the standbys before a reload had raised is for these to put away."""
        self._raised, self.simulated = before._raised, before.simulated
        self._starts.extend(before._starts)

    async def stop(self) -> None:
        """Ends all that is under way; engines stay as they are."""
        await self._tasks.stop()

    def kept_out(self, place: Place) -> bool:
        """Whether nothing may be sent there, however well it is: a drill, or another pool has the engine."""
        if place.state.endpoint.name in self.simulated:
            return True
        return self._is_shared(place) and self._leases.holder(place.state.endpoint.url) != self._pool

    def raise_(self, level: Level, places: Sequence[Place]) -> None:
        """Makes these endpoints of the level ready, which cannot take requests now."""
        self._rising[level] = len(places)
        if level is Level.WARM:
            for place in places:
                self._tasks.begin(f"wake {place.state.endpoint.name}", self._bring(place, level, self._wake))
        elif level is Level.COLD and self._may_start():
            self._appeared.clear()
            self._tasks.begin(f"start {self._pool}", self._start_cold(places))
        else:
            self._on_failed(level)

    def appeared(self, places: Sequence[Place]) -> None:
        """Cold endpoints were found while the level is being raised: what was started is there."""
        for place in places:
            self._rising[Level.COLD] = self._rising.get(Level.COLD, 0) + 1
            self._await(place)
            self._appeared.set()

    def replaced(self, places: Sequence[Place]) -> None:
        """These stand in for what was started here, and are put away with it."""
        self._raised.update(place.state.endpoint.name for place in places)

    def keep(self, places: Sequence[Place]) -> None:
        """These are needed again, if they were about to be put away."""
        for place in places:
            if place.state.endpoint.name not in self._ending:
                self._tasks.cancel(f"lower {place.state.endpoint.name}")

    def lower(self, level: Level, places: Sequence[Place]) -> None:
        """Puts away what was raised, and gives back what is shared."""
        for place in places:
            name = place.state.endpoint.name
            if self._is_shared(place) or name in self._raised:
                self._tasks.begin(f"lower {name}", self._put_away(place, level))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _is_shared(self, place: Place) -> bool:
        return place.state.endpoint.url in self._settings.shared

    def _may_start(self) -> bool:
        if self._settings.start is None:
            return False
        now = self._clock()
        while self._starts and now - self._starts[0] >= _HOUR:
            self._starts.popleft()
        if len(self._starts) >= self._settings.starts_per_hour:
            _log.error("pool %s may not start its cold standby: %d starts in an hour", self._pool, len(self._starts))
            return False
        self._starts.append(now)
        return True

    async def _start_cold(self, places: Sequence[Place]) -> None:
        """Runs the hook once, then waits for each of the endpoints; where none is known, for one to be found."""
        assert self._settings.start is not None  # noqa: S101  # `_may_start` has asked
        try:
            await self._settings.start.run("start", self._pool, [one.state.endpoint.name for one in places])
        except HookFailed as error:
            _log.error("the cold standby of pool %s was not started: %s", self._pool, error)
            self._on_failed(Level.COLD)
            return
        for place in places:
            self._await(place)
        if places:
            return
        try:
            async with asyncio.timeout(self._settings.give_up_seconds):
                await self._appeared.wait()
        except TimeoutError:
            _log.error("the cold standby of pool %s was started, and no endpoint of it was found", self._pool)
            self._on_failed(Level.COLD)

    def _await(self, place: Place) -> None:
        self._tasks.begin(f"await {place.state.endpoint.name}", self._bring(place, Level.COLD, self._await_start))

    async def _bring(self, place: Place, level: Level, work: Callable[[Place], Awaitable[None]]) -> None:
        """Does the work that makes an endpoint ready, and tells what came of it."""
        name, state = place.state.endpoint.name, place.state
        try:
            # A shared engine may have to be waited for as long as it takes to wake.
            async with asyncio.timeout(
                self._settings.give_up_seconds if level is Level.COLD else 2 * self._control.wake_seconds
            ):
                await work(place)
        except (WakeFailed, TimeoutError) as error:
            _log.error("standby %s did not come up: %s", name, str(error) or "it took too long")
            self._leases.give_back(state.endpoint.url, self._pool)
            self._rising[level] -= 1
            if not self._rising[level]:
                self._on_failed(level)
            return
        now = self._clock()
        state.sleeping, state.draining = False, self.kept_out(place)
        for _ in range(_GOOD_PROBES):
            if not state.health.admits(now):
                state.health.probe(True, now)  # it has just answered the canary
        _log.warning("standby %s is ready", name)
        self._on_up(level, name)

    async def _wake(self, place: Place) -> None:
        url, control = place.state.endpoint.url, self._control
        while place.state.endpoint.name in self._ending:  # noqa: ASYNC110  # what falls asleep cannot be woken yet
            await asyncio.sleep(POLL_SECONDS)
        if self._is_shared(place):
            await self._leases.take(url, self._pool)
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

    async def _put_away(self, place: Place, level: Level) -> None:
        """After another calm no request is sent there any more; when the last is done it sleeps or is stopped. A shared
        one is given back at once, as others may wait for it."""
        state, shared, settings = place.state, self._is_shared(place), self._settings
        if not shared:
            if level is Level.WARM and not settings.sleep_when_idle:
                return
            await asyncio.sleep(settings.machine.calm_seconds)
        name = state.endpoint.name
        state.draining = True
        try:
            while state.in_flight:  # noqa: ASYNC110  # states are pure and tell nobody
                await asyncio.sleep(POLL_SECONDS)
            self._ending.add(name)
            if name in self._raised:
                await self._end(place, level)
            self._raised.discard(name)
            self._leases.give_back(state.endpoint.url, self._pool)
        finally:
            self._ending.discard(name)
            state.draining = self.kept_out(place)

    async def _end(self, place: Place, level: Level) -> None:
        state, settings = place.state, self._settings
        if level is Level.WARM:
            if settings.sleep_when_idle and await self._control.sleep(state.endpoint.url):
                state.sleeping = True
                state.index.clear()  # it has dropped its cache
        elif settings.stop is not None:
            try:
                await settings.stop.run("stop", self._pool, [state.endpoint.name])
            except HookFailed as error:
                _log.error("the cold standby %s was not stopped: %s", state.endpoint.name, error)
