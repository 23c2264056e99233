"""Which of a pool's standbys serve: hot, then warm, then cold, then degraded, and back.

Floor: `policies`, pure. The machine is told what is seen and answers with what to do; whether a standby really comes up
is told to it again. At once it escalates when nobody can take a request; by thresholds when too many attempts fail or
first tokens come too late. It returns when a better level has been well for a while, and not too often.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from policies.endpoint_state import RANKS
from policies.sliding import SlidingShare
from policies.types import Role

# p95 above a bound means the same as more than this share above it, and a share needs no sorting.
_SLOW_SHARE = 0.05

# Seconds until all standbys are tried again after none could be raised: an engine that crashes at its start does so
# within some seconds, and must not be started for ever without a pause.
RETRY_SECONDS = 10.0


class Level(StrEnum):
    """Who serves: the hot endpoints, the warm or the cold ones, or (degraded) another pool with less."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"
    DEGRADED = "degraded"


LEVELS = tuple(Level)


class Cause(StrEnum):
    """Why the level changes."""

    NOBODY = "nobody"  # no endpoint of the level or of a better one can take a request
    ERRORS = "errors"
    LATENCY = "latency"
    CALM = "calm"  # a better level has been well for long enough


@dataclass(frozen=True, slots=True)
class StandbySettings:
    """Times in seconds. More than `error_rate` of the attempts within `error_window` failed, or p95 of the time to
    first byte within `latency_window` above `latency_seconds`, each of at least `min_samples`: the next level.
    Back after `calm_seconds`; after `max_failovers` within `failover_window` not before some have left it."""

    error_rate: float = 0.05
    error_window: float = 60.0
    latency_seconds: float = 2.0
    latency_window: float = 120.0
    min_samples: int = 20
    calm_seconds: float = 60.0
    max_failovers: int = 3
    failover_window: float = 600.0


@dataclass(frozen=True, slots=True)
class Raise:
    """Make the level ready; to be answered by `Standby.ready` or `Standby.failed`."""

    level: Level
    cause: Cause


@dataclass(frozen=True, slots=True)
class Lower:
    """The level is not needed any more."""

    level: Level


@dataclass(frozen=True, slots=True)
class Moved:
    """Another level is in force."""

    before: Level
    after: Level
    cause: Cause


@dataclass(frozen=True, slots=True)
class Stays:
    """It was calm, but there were too many failovers: the level stays until some of them are `seconds` old."""

    level: Level
    seconds: float


Action: TypeAlias = Raise | Lower | Moved | Stays


class Standby:
    """The machine of one pool. `levels`: those that the pool has beside hot. `level` is in force, `rising` is being
    made ready. `now` never runs backwards."""

    def __init__(self, settings: StandbySettings, levels: Collection[Level]) -> None:
        self.settings = settings
        self.level = Level.HOT
        self.rising: Level | None = None
        self.levels: tuple[Level, ...] = ()
        self.offer(levels)
        self.cause: Cause | None = None
        self.held_up = False  # it would return, had there not been too many failovers
        self.failovers: deque[float] = deque(maxlen=settings.max_failovers)
        self._errors = SlidingShare(settings.error_window)
        self._slow = SlidingShare(settings.latency_window)
        self._usable_since: dict[Level, float] = {}
        self._again_at = 0.0

    def offer(self, levels: Collection[Level]) -> None:
        """The pool has these levels beside hot from now on; the one in force, or on its way, stays until it is left."""
        kept = {Level.HOT, *levels, self.level, self.rising}
        self.levels = tuple(level for level in LEVELS if level in kept)

    def resume(self, before: Standby) -> None:
        """Go on where the machine of an earlier configuration was, as far as this one has its level."""
        if before.level in self.levels:
            self.level, self.cause = before.level, before.cause
        self.failovers.extend(before.failovers)
        self._usable_since = before._usable_since

    def attempted(self, failed: bool, now: float) -> None:
        """An attempt at one of the pool's endpoints has ended. `failed`: and the endpoint is to blame."""
        self._errors.note(failed, now)

    def answered(self, seconds: float, now: float) -> None:
        """The first byte of an answer in the short lane came so long after the request."""
        self._slow.note(seconds > self.settings.latency_seconds, now)

    def look(self, usable: Collection[Level], now: float) -> list[Action]:
        """`usable`: the levels of which an endpoint can take a request now. To be told when that changes, and now and
        then, as it is the machine's clock too."""
        for level in self.levels:
            if level not in usable:
                self._usable_since.pop(level, None)
            else:
                self._usable_since.setdefault(level, now)
        if self.rising is not None:
            return []
        cause = self._cause(usable, now)
        if cause is None:
            return self._return(now)
        following = self._after(self.level, cause)
        if following is None or now < self._again_at:
            still_slow = cause is self.cause is Cause.LATENCY  # with all that help: it is not calm
            return [] if cause is Cause.NOBODY or still_slow else self._return(now)
        return self._raise(following, cause)

    def ready(self, level: Level, now: float) -> list[Action]:
        """The level that was rising can serve."""
        if level is not self.rising:
            return []
        self.rising = None
        before, cause = self.level, self.cause or Cause.NOBODY
        if cause is Cause.NOBODY and self._calm_level(now) is not None:
            return [Lower(level)]  # who was gone has long been back
        if before is Level.HOT:
            self.failovers.append(now)
        self._enter(level)
        if cause is not Cause.NOBODY:  # who fails or is slow was usable all along: its calm begins now
            self._usable_since = dict.fromkeys(self._usable_since, now)
        return [Moved(before, level, cause)]

    def failed(self, level: Level, now: float) -> list[Action]:
        """The level that was rising will not come."""
        if level is not self.rising:
            return []
        self.rising, cause = None, self.cause or Cause.NOBODY
        following = self._after(level, cause)
        if following is not None:
            return self._raise(following, cause)
        self._again_at = now + RETRY_SECONDS
        return []

    # -- inside ------------------------------------------------------------------------------------------------------

    def _cause(self, usable: Collection[Level], now: float) -> Cause | None:
        upto = self.levels[: self.levels.index(self.level) + 1]
        if not any(level in usable for level in upto):
            return Cause.NOBODY
        least = self.settings.min_samples
        if self._errors.samples(now) >= least and self._errors.share(now) > self.settings.error_rate:
            return Cause.ERRORS
        if self._slow.samples(now) >= least and self._slow.share(now) > _SLOW_SHARE:
            return Cause.LATENCY
        return None

    def _after(self, level: Level, cause: Cause) -> Level | None:
        """The next level. Degraded helps only who would otherwise be refused."""
        rest: Sequence[Level] = self.levels[self.levels.index(level) + 1 :]
        return next((one for one in rest if cause is Cause.NOBODY or one is not Level.DEGRADED), None)

    def _raise(self, level: Level, cause: Cause) -> list[Action]:
        self.rising, self.cause = level, cause
        return [Raise(level, cause)]

    def _enter(self, level: Level) -> None:
        self.level, self.held_up = level, False
        self._errors.clear()
        self._slow.clear()

    def _calm_level(self, now: float) -> Level | None:
        """The best level that has been usable for long enough: of those up to the one in force, while one rises."""
        upto = self.levels[: self.levels.index(self.level) + 1]
        since = self._usable_since
        return next((one for one in upto if one in since and now - since[one] >= self.settings.calm_seconds), None)

    def _return(self, now: float) -> list[Action]:
        target = self._calm_level(now)
        if target is None or target is self.level:
            return []
        seconds = self.settings.failover_window
        while self.failovers and now - self.failovers[0] >= seconds:
            self.failovers.popleft()
        if target is Level.HOT and len(self.failovers) >= self.settings.max_failovers:
            said, self.held_up = self.held_up, True
            return [] if said else [Stays(self.level, seconds)]
        before = self.level
        self._enter(target)
        left = self.levels[self.levels.index(target) + 1 : self.levels.index(before) + 1]
        if target is Level.HOT:
            self.cause = None
        return [Moved(before, target, Cause.CALM), *(Lower(level) for level in left)]


def ranks(level: Level, cause: Cause | None) -> Mapping[Role, int]:
    """In which order roles serve (equal: together) while the level is in force; of the available endpoints those of the
    lowest rank get the requests. Too slow: standbys help. Failing or gone: standbys take over, and the hot ones get
    nothing while one of them is there, until it is certain that they are well."""
    if level is Level.HOT:
        return RANKS
    cold = 2 if level is Level.WARM else 0
    return {Role.HOT: 0 if cause is Cause.LATENCY else 1, Role.WARM: 0, Role.COLD: cold}
