"""Limits that replicas share by Redis: one book per tenant, which asks the store for chunks and seats.

Floor: an adapter; how much is asked for and what may be spent is decided in `policies.admission`. A book has one call
under way at a time; requests that come meanwhile wait for the next, all of them together. Nothing else in a request's
way waits: what it needs was leased before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final, Protocol

import msgspec

from policies.admission.calendar import DAY, MINUTE, MONTH, Calendar
from policies.admission.counting import Counter
from policies.admission.leased import RESERVE_SECONDS, RESPEND_SECONDS, LeasedWindow
from policies.admission.leased_seats import LeasedSeats, SeatsAnswer, SeatsAsk
from policies.admission.leased_words import Heard, WindowAnswer, WindowAsk
from policies.admission.limit import Scope
from policies.admission.limits import Short
from policies.types import LimitSpec, RejectReason
from router.coordination.store import PREFIX, StoreLost
from router.limits_lua import LATE, OK, SCRIPT
from router.metrics import Metrics

_log = logging.getLogger("promptlane.limits")

# A call that fails in less than this share of its timeout has lost its connection: perhaps the store lost its memory.
_BROKEN: Final = 0.8
_CALENDARS: Final[dict[RejectReason, Calendar]] = {
    RejectReason.REQUESTS_PER_MINUTE: MINUTE,
    RejectReason.TOKENS_PER_MINUTE: MINUTE,
    RejectReason.TOKENS_PER_DAY: DAY,
    RejectReason.MONEY_PER_MONTH: MONTH,
}


class Store(Protocol):
    """What is needed of a Redis client. `call` raises StoreLost within `timeout` seconds."""

    timeout: float

    async def call(self, *command: str | bytes | int) -> Any: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Named:
    """A counter and the keys of the store that hold it, the second (of windows) for this replica alone."""

    counter: LeasedWindow | LeasedSeats
    keys: tuple[str, ...]


class SharedBook:
    """The shared counters of one tenant on one replica. A name of its own in the store: its figures are absolute, and
    must not be taken for those of the book that a reload puts in its place. `prefix`: before every key."""

    def __init__(
        self,
        tenant: str,
        store: Store,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        metrics: Metrics,
        replicas: int = 1,
        prefix: str = PREFIX,
    ) -> None:
        self.tenant = tenant
        self.me = token_hex(8)
        self._store = store
        self._prefix = f"{prefix}{{{tenant}}}:limit"  # one hash tag: a cluster has all of a tenant in one place
        self._clock = clock
        self._metrics = metrics
        self._replicas = self._least_replicas = replicas
        self._named: list[Named] = []
        self._unix = wall_clock() - clock()
        self._epoch = ""
        self._calls = 0
        self._heard_at = float("-inf")
        self._tell_all = True
        self._returning = self._forgotten = False
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self.recovering = False
        self.lost = False
        self.leaving = self.gone = self._said_goodbye = False

    def make(self, scope: Scope, name: str, reason: RejectReason, limit: int, spec: LimitSpec) -> Counter:
        """A `MakeCounter`."""
        calendar = _CALENDARS.get(reason)
        key = f"{self._prefix}:{scope}:{name}:{reason.value}"
        if calendar is None:
            seats = LeasedSeats(limit, spec.without_redis, self._least_replicas)
            self._named.append(Named(seats, (key,)))
            return seats
        window = LeasedWindow(limit, calendar, spec.without_redis, self._unix, self._least_replicas)
        self._named.append(Named(window, (key, f"{key}:{self.me}")))
        return window

    async def fetch(self, short: Short) -> None:
        """Asks for what a request needs. Returns when the store has answered, or will not."""
        for counter, amount in short.needs:
            if isinstance(counter, LeasedWindow | LeasedSeats):
                counter.wait_for(amount)
        await self.exchange()

    async def exchange(self) -> None:
        """The next call, shared by all who want one before it begins; goes on when the caller is cancelled."""
        if self._next is None:
            self._next = asyncio.create_task(self._exchange(), name=f"limits of {self.tenant}")
        await asyncio.shield(self._next)

    def due(self, period: float) -> bool:
        now = self._clock()
        if self.lost or self.recovering or self._tell_all or self.leaving:
            return True
        return any(one.counter.due(now, period) for one in self._named)

    @property
    def counters(self) -> int:
        return len(self._named)

    @property
    def idle(self) -> bool:
        """Whether nothing that holds a seat is under way."""
        return not any(isinstance(one.counter, LeasedSeats) and one.counter.taken for one in self._named)

    def leave(self) -> None:
        """Nothing new comes in: what is under way is settled, the rest given back."""
        self.leaving = True
        for one in self._named:
            one.counter.leave(self._clock())

    # -- one call

    async def _exchange(self) -> None:
        async with self._one_at_a_time:
            self._next = None  # who comes from here on needs the one after
            for _ in range(4):  # a new epoch, a wrong clock, and one of both again
                if await self._call():
                    return
            self._unheard("the store knows another time at every call")

    async def _call(self) -> bool:
        """Whether that was all."""
        now = self._clock()
        everything = self._tell_all or self.recovering or self.leaving
        named = [one for one in self._named if everything or one.counter.due(now, RESERVE_SECONDS / 2)]
        asks = [(one, self._question(one.counter, now, everything)) for one in named]
        self._calls += 1
        try:
            answer = await self._send(now, asks)
        except StoreLost as error:
            broken = self._clock() - now < _BROKEN * self._store.timeout
            self._returning = self._returning or (broken and self._epoch != "")
            self._unheard(str(error))
            return True
        except (msgspec.DecodeError, ValueError) as error:
            self._unheard(f"it answers what is none of Promptlane's: {error}")
            return True
        status, time, epoch, replicas, recovering, found = answer
        self._unix = float(time) - now
        if status != OK:
            self._again(asks, epoch, late=status == LATE)
            return False
        self._replicas = max(self._least_replicas, replicas)
        self._hear(asks, found, Heard(self._unix, now, replicas, recovering))
        return True

    def _question(self, counter: LeasedWindow | LeasedSeats, now: float, everything: bool) -> WindowAsk | SeatsAsk:
        if isinstance(counter, LeasedSeats):
            return counter.ask(now)
        return counter.ask(now, all_of_it=everything, forgotten=self._forgotten)

    async def _send(self, now: float, asks: Sequence[tuple[Named, WindowAsk | SeatsAsk]]) -> tuple[Any, ...]:
        self._said_goodbye = self.leaving and self.idle
        away = self.lost and now - self._heard_at >= RESPEND_SECONDS and self._epoch != ""
        packed = msgspec.msgpack.encode(
            (
                self.me,
                self._calls,
                now + self._unix,
                self._epoch,
                self._returning or away,
                self._replicas,
                self._said_goodbye,
                [_words(one.counter, ask) for one, ask in asks],
            )
        )
        keys = [f"{self._prefix}s", *(key for one, _ in asks for key in one.keys)]
        answer = msgspec.msgpack.decode(await self._store.call("EVAL", SCRIPT, len(keys), *keys, packed))
        if not isinstance(answer, list) or len(answer) != 6:
            raise ValueError("an answer of another shape")
        return tuple(answer)

    def _again(self, asks: Sequence[tuple[Named, WindowAsk | SeatsAsk]], epoch: str, *, late: bool) -> None:
        """The store did nothing; the next call puts right what it found wrong."""
        for one, ask in asks:
            one.counter.again(ask)  # type: ignore[arg-type]  # each counter gets its own ask back
            if late:
                one.counter.correct(self._unix)
        if not late:
            self._forgotten = self._forgotten or self._epoch != ""
            self._returning = self._returning or self._forgotten
            self._epoch, self._tell_all = epoch, True

    def _hear(self, asks: Sequence[tuple[Named, WindowAsk | SeatsAsk]], found: Sequence[Any], heard: Heard) -> None:
        now = self._clock()
        for (one, ask), words in zip(asks, found, strict=True):
            if isinstance(one.counter, LeasedWindow) and isinstance(ask, WindowAsk):
                one.counter.told(ask, WindowAnswer(*words), heard, now)
            elif isinstance(one.counter, LeasedSeats) and isinstance(ask, SeatsAsk):
                one.counter.told(ask, SeatsAnswer(*words), heard, now)
        if self.lost:
            _log.info("limits of tenant %s are shared again", self.tenant, extra={"tenant": self.tenant})
        self.lost = self._tell_all = self._returning = False
        self._forgotten = self._forgotten and heard.recovering
        self._heard_at, self.recovering, self.gone = now, heard.recovering, self._said_goodbye
        self._metrics.add("promptlane_limit_calls", "ok")

    def _unheard(self, why: str) -> None:
        now = self._clock()
        if not self.lost:
            said = "limits of tenant %s are not shared, each goes by its without_redis: %s"
            _log.warning(said, self.tenant, why, extra={"tenant": self.tenant})
        self.lost = self._tell_all = True
        for one in self._named:
            one.counter.unheard(now)
        self._metrics.add("promptlane_limit_calls", "failed")


def _words(counter: LeasedWindow | LeasedSeats, ask: WindowAsk | SeatsAsk) -> tuple[Any, ...]:
    """A question as the script reads it."""
    if isinstance(ask, SeatsAsk):
        return 1, counter.limit, ask.held, ask.taken, ask.needed, ask.spare
    calendar = counter.calendar if isinstance(counter, LeasedWindow) else MINUTE
    figures = [figure for pair in ask.mine.items() for figure in pair]
    return (
        0, counter.limit, calendar.monthly, calendar.seconds, calendar.slice_seconds, ask.number, figures,
        ask.least, ask.smallest, ask.more, ask.free, ask.keep,
        [figure for pair in ask.everybodys.items() for figure in pair],
    )  # fmt: skip
