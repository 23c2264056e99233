"""The store that replicas share limits by, on a clock that a test drives: what `router/limits_lua.py` does, in Python.

Floor: tests only. One counter; replicas that die, stop, lose the store, and a store that loses its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from policies.admission.leased import RESPEND_SECONDS, LeasedWindow
from policies.admission.leased_seats import LEASE_SECONDS, LeasedSeats, SeatsAnswer, SeatsAsk
from policies.admission.leased_words import Heard, WindowAnswer, WindowAsk

RECOVERY_SECONDS, HUNGRY_SECONDS = 2.0, 1.5


@dataclass
class Counts:
    """What the store knows. `mine`: per replica and slice; `""` are those who died before it lost its memory."""

    mine: dict[str, dict[int, int]] = field(default_factory=dict)
    everybodys: dict[int, int] = field(default_factory=dict)  # before it lost its memory
    reserves: dict[str, int] = field(default_factory=dict)
    seats: dict[str, int] = field(default_factory=dict)
    idle: dict[str, int] = field(default_factory=dict)
    hungry: dict[str, float] = field(default_factory=dict)  # who had too few seats, and when
    starving: dict[str, float] = field(default_factory=dict)  # and fewer than its share
    hungry_at: float = float("-inf")
    last: dict[str, float] = field(default_factory=dict)


class SharedStore:
    """`now` is the world's clock, which is the store's too."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 1_700_000_000.0
        self.reachable = True
        self.epoch = 0
        self.counts = Counts()
        self.recovery: tuple[float, int] | None = None

    def forget(self) -> None:
        """It restarts empty: until it is somewhat older, or all who lived have had their say, it grants nothing."""
        self.epoch += 1
        self.counts, self.recovery = Counts(), (self.now, 0)

    def begin(self, me: str, returning: bool, replicas: int) -> tuple[int, bool]:
        """How many replicas there are, and whether they still tell what they did while the store was away."""
        counts = self.counts
        if returning and (self.recovery is None or replicas > self.recovery[1]):
            self.recovery = (self.recovery[0] if self.recovery and self.recovery[1] else self.now, replicas)
        counts.last[me] = self.now
        alive = self.alive()
        recovering = False
        if self.recovery is not None:
            began, expected = self.recovery
            reported = sum(counts.last[one] >= began for one in alive)
            recovering = (expected == 0 or reported < expected) and self.now - began < RECOVERY_SECONDS
            if not recovering:
                self.recovery = None
        return len(alive), recovering

    def alive(self) -> set[str]:
        return {one for one, last in self.counts.last.items() if self.now - last <= LEASE_SECONDS}

    def window(self, me: str, window: LeasedWindow, ask: WindowAsk, recovering: bool) -> WindowAnswer:
        counts, alive = self.counts, self.alive()
        own = counts.mine.setdefault(me, {})
        own.update(ask.mine)
        for number, amount in ask.everybodys.items():
            counts.everybodys[number] = max(amount, counts.everybodys.get(number, 0))
        slices = self._slices(window.calendar.first(self.now))
        if counts.everybodys and not recovering:
            dead = counts.mine.setdefault("", {})
            for number, total in counts.everybodys.items():
                dead[number] = dead.get(number, 0) + max(0, total - slices.get(number, 0))
            counts.everybodys.clear()
            slices = self._slices(window.calendar.first(self.now))
        counts.reserves = {one: amount for one, amount in counts.reserves.items() if one in alive}
        others = sum(amount for one, amount in counts.reserves.items() if one != me)
        used, granted = sum(slices.values()), 0
        room = self.limit - used - others - max(0, ask.keep)
        if not recovering:
            if ask.number * window.calendar.slice_seconds >= self.now:
                if room >= ask.least:
                    plenty = room - ask.least - max(self.limit / 10, 16 * len(alive))
                    granted = ask.least + max(0, min(ask.more, int(plenty // (2 * len(alive)))))
                elif room >= ask.smallest:
                    granted = room
            own[ask.number] = own.get(ask.number, 0) + granted
            slices[ask.number] = slices.get(ask.number, 0) + granted
            if granted < ask.least:
                counts.hungry_at = self.now
            fair = (room + ask.keep - granted) // (2 * len(alive))
            quiet = self.now - counts.hungry_at >= HUNGRY_SECONDS
            counts.reserves[me] = max(0, ask.keep, fair if quiet and ask.keep >= 0 else 0)
            counts.idle[me] = ask.free + granted - min(granted, ask.least)
        else:
            counts.reserves[me] = max(0, ask.keep)
        idle = sum(amount for one, amount in counts.idle.items() if one in alive and one != me)
        hungry = self.now - counts.hungry_at < HUNGRY_SECONDS
        told = ";".join(f"{number}:{amount}" for number, amount in slices.items() if amount)
        last = max((number for number, amount in slices.items() if amount), default=0)
        return WindowAnswer(granted, used + granted, counts.reserves.get(me, 0), others, idle, hungry, last, told)

    def _slices(self, first: int) -> dict[int, int]:
        found: dict[int, int] = {}
        for figures in self.counts.mine.values():
            for number, amount in figures.items():
                if number >= first:
                    found[number] = found.get(number, 0) + amount
        return found

    def take_seats(self, me: str, ask: SeatsAsk, recovering: bool) -> SeatsAnswer:
        counts, alive = self.counts, self.alive()
        counts.seats = {one: seats for one, seats in counts.seats.items() if one in alive}
        since = self.now - HUNGRY_SECONDS
        others = sum(seats for one, seats in counts.seats.items() if one != me)
        ours, room = ask.held, self.limit - others
        if not recovering:
            ours = max(ask.held, min(ask.needed, room))
            if room > ours:
                ours += min(ask.spare, (room - ours) // (2 * len(alive)))
        counts.seats[me] = ours
        idle = sum(amount for one, amount in counts.idle.items() if one in alive and one != me)
        counts.idle[me] = max(0, ours - ask.needed)
        hungry = any(at > since for one, at in counts.hungry.items() if one in alive and one != me)
        starving = any(at > since for one, at in counts.starving.items() if one in alive and one != me)
        if ours < ask.needed:
            counts.hungry[me] = self.now
            if ours < self.limit // len(alive):
                counts.starving[me] = self.now
        return SeatsAnswer(ours, others, idle, hungry, starving)


class Replica:
    """One replica's counter and its talk with the store, as `router.limits_redis.SharedBook` has it."""

    def __init__(self, name: str, store: SharedStore, counter: LeasedWindow | LeasedSeats) -> None:
        self.name = name
        self.counter = counter
        self.replicas = 1
        self._store = store
        self._epoch: int | None = None
        self._heard_at = float("-inf")
        self._lost = False
        self._everything = True
        self._returning = self._forgotten = False
        self.cut = False  # nothing passes between it and the store, which all others reach

    @property
    def knows_epoch(self) -> bool:
        """Whether it has talked with the store since that lost its memory."""
        return self._epoch == self._store.epoch

    def talk(self, *, answer_lost: bool = False, meanwhile: Callable[[], None] = lambda: None) -> None:
        """One exchange. `answer_lost`: the store does what it is asked, and the replica never hears of it.
        `meanwhile`: what happens between question and answer."""
        store = self._store
        now = store.now
        reachable = store.reachable and not self.cut
        if self._epoch != store.epoch and reachable:
            self._forgotten = self._forgotten or self._epoch is not None
            self._returning = self._returning or self._forgotten
            self._epoch, self._everything = store.epoch, True
        if isinstance(self.counter, LeasedWindow):
            ask: WindowAsk | SeatsAsk = self.counter.ask(now, all_of_it=self._everything, forgotten=self._forgotten)
        else:
            ask = self.counter.ask(now, all_of_it=self._everything)
        if not reachable:
            self._fail(now)
            return
        returning = self._returning or (self._lost and now - self._heard_at >= RESPEND_SECONDS)
        replicas, recovering = store.begin(self.name, returning, self.replicas)
        heard = Heard(0.0, now, replicas, recovering)
        if isinstance(ask, WindowAsk) and isinstance(self.counter, LeasedWindow):
            answer = store.window(self.name, self.counter, ask, recovering)
            meanwhile()
            if answer_lost:
                self._fail(now)
                return
            self.counter.told(ask, answer, heard, now)
        elif isinstance(ask, SeatsAsk) and isinstance(self.counter, LeasedSeats):
            seats = store.take_seats(self.name, ask, recovering)
            meanwhile()
            if answer_lost:
                self._fail(now)
                return
            self.counter.told(ask, seats, heard, now)
        self.replicas = replicas
        self._heard_at, self._lost, self._returning, self._everything = now, False, False, recovering
        self._forgotten = self._forgotten and recovering

    def _fail(self, now: float) -> None:
        self._lost = self._everything = True
        self.counter.unheard(now)
