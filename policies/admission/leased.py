"""A window that replicas share: chunks of it are leased from a store, so that a request costs no round trip.

Floor: `policies`, pure; what is asked of the store and what it says come in and go out as values.

Why no window is ever exceeded:

- A chunk lies in the store's window as if all of it were spent at the last moment at which it may be. Spending it
  earlier only makes the window fuller than the truth.
- The store knows of each replica what it has in each slice as an absolute figure (`mine`), not as changes: a call that
  was lost, came late or was repeated is put right by the next one.
- While the store is away, a replica spends its chunks, and its reserve: a part of what was free, which the store keeps
  for it. After `RESPEND_SECONDS` it spends also what leaves the window of its own earlier charges, never more than
  limit / replicas; and once all that the store had granted to anybody has left the window, just limit / replicas. The
  sum over replicas is at most the limit at any time.
- What was spent meanwhile is told when the store is back, before it grants anything (`LeasedWindow.ask`).
- A store that has lost its memory is told by each replica, besides, what everybody had in each slice when it last heard
  of it: what of that no living replica has, the dead had. It grants nothing, to new replicas neither, before those who
  lived through the loss have had the time to say so.

Where it can be, as nobody is left who could know: by what a replica spends that alone cannot reach the store for longer
than the store keeps its reserve, or while the store loses its memory; by what one spends without the store that dies
before it is back; and by what one was granted in its last moments, before others heard of it, if the store then loses
its memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from policies.admission.calendar import Calendar
from policies.admission.counting import ASK, FITS, NEVER, UNAVAILABLE, Standing
from policies.admission.demand import Demand
from policies.admission.leased_words import Heard, WindowAnswer, WindowAsk, slices_of
from policies.types import Alone

# Seconds without the store until a replica may spend what leaves the window of its own charges. As long as the store
# counts on it (`leased_seats.LEASE_SECONDS`) it may be the only one that does not reach it, and what leaves the window
# is others' by then: chunks and reserve are charged already, and cost them nothing.
RESPEND_SECONDS: Final = 10.0
# Seconds for which a refusal by the store is believed: clients that hammer cost four round trips a second.
REFUSED_SECONDS: Final = 0.25
# Seconds within which replicas give back what others need more.
RESERVE_SECONDS: Final = 1.0
# Seconds by which the last of everybody's grants may be younger than our own last word from the store.
_OTHERS_SECONDS: Final = 5.0
# Seconds for which our own figures outlive the window, so that the store, not we, decides that they have left it.
_KEPT_SECONDS: Final = 5.0
# When to come back while the store is away (seconds): about when it may be there again.
_AWAY_RETRY_SECONDS: Final = 1.0


class LeasedWindow:
    """One replica's part of a window. `unix`: what to add to `now` for the store's clock, until it has told its own;
    `replicas`: how many there are at least, which is all that one that never reached the store can go by."""

    def __init__(self, limit: int, calendar: Calendar, alone: Alone, unix: float, replicas: int = 1) -> None:
        self.limit = limit
        self.calendar = calendar
        self._rule = alone
        self._unix = unix
        self._mine: dict[int, int] = {}
        self._stored: dict[int, int] = {}  # of it, what is in `_answer`
        self._dirty: set[int] = set()
        self._chunks: deque[Chunk] = deque()
        self._free = 0
        self._answer = WindowAnswer(0, 0, 0, 0, 0, False, 0, "")
        self._reserve = 0
        self.replicas = self._least_replicas = replicas
        self._waiting: list[int] = []
        self._refused: tuple[int, float] = (limit, 0.0)  # what was left in the store, and until when that is believed
        self._demand = Demand()
        self._heard_at = float("-inf")
        self._touched_at = float("-inf")
        self._lost: _Lost | None = None

    # -- what the line asks

    def check(self, amount: int, now: float) -> float:
        if amount > self.limit:
            return NEVER
        if self._chunks and now >= self._chunks[0].end:
            self._end_chunks(now)
        if self._free >= amount:
            return FITS
        if self._lost is not None:
            alone = self._check_alone(self._lost, amount, now)
            return ASK if alone != FITS and self._lost.recovering else alone
        room, until = self._refused
        if now < until and amount - self._free > room:
            return self._wait(amount, now)
        return ASK

    def charge(self, amount: int, now: float) -> LeasedCharge:
        return LeasedCharge(self, amount, self._use(amount, now))

    def standing(self, now: float) -> Standing:
        answer, at = self._answer, now + self._unix
        taken = answer.used - self._free + (0 if self._lost is None else sum(self._lost.spent.values()))
        reset = self.calendar.leaves(answer.last) - at if taken and answer.last else 0.0
        return Standing(self.limit, max(0, self.limit - taken), max(0.0, reset))

    def wait_for(self, amount: int) -> None:
        """A request of `amount` waits for the next answer of the store."""
        self._waiting.append(amount)

    # -- what the store is asked and says

    def due(self, now: float, period: float) -> bool:
        """Whether the store is to be asked. `period`: seconds after which it is in any case."""
        if self._waiting or (self._chunks and now >= self._chunks[0].end):
            return True
        if self._dirty or self._demand.low(self._free, now):
            return True
        active = now - self._touched_at < self.calendar.seconds + _KEPT_SECONDS or self._rule is Alone.SHARE
        return active and now - self._heard_at >= period

    def ask(self, now: float, *, all_of_it: bool = False, forgotten: bool = False) -> WindowAsk:
        """`all_of_it`: the store may not know what we have; `forgotten`: it has lost what it knew of everybody.

        One at a time: `told` or `unheard` ends it.
        """
        self._end_chunks(now)
        self._forget(now)
        number, end = self.calendar.stamp(now + self._unix)
        waiting, self._waiting = self._waiting, []
        if self._answer.hungry:
            self._shrink(sum(waiting))
        least = max(0, sum(waiting) - self._free)
        more = max(0, self._demand.expected(now) - max(0, self._free - sum(waiting)))
        numbers = {number, *self._dirty, *(self._mine if all_of_it else ())}
        mine = {one: self._mine.get(one, 0) for one in numbers}
        self._dirty.add(number)  # if the answer is lost, the chunk in it is given back by the next call
        keep = self._held_back(hungry=self._answer.hungry or bool(waiting))
        smallest = min(waiting, default=1)
        return WindowAsk(
            mine, number, end - self._unix, least, max(1, smallest - self._free), more, self._free, keep,
            tuple(waiting), self._everybodys(now) if forgotten else {},
        )  # fmt: skip

    def told(self, ask: WindowAsk, answer: WindowAnswer, heard: Heard, now: float) -> None:
        """While replicas tell a store that was away what they did (`heard.recovering`), nothing is granted."""
        self._unix, self._heard_at = heard.unix, now
        self.replicas = max(self._least_replicas, heard.replicas)
        if answer.granted:
            self._mine[ask.number] = self._mine.get(ask.number, 0) + answer.granted
            self._chunks.append(Chunk(ask.number, ask.end, answer.granted))
            self._free += answer.granted
        for number, amount in ask.mine.items():
            known = amount + (answer.granted if number == ask.number else 0)
            if self._mine.get(number, 0) == known:
                self._dirty.discard(number)
        if heard.recovering:
            self.unheard(now)
            if self._lost is not None:
                self._lost.since = now  # what is spent from here on, nobody would know of when grants begin
                self._lost.recovering = True
            return
        for number, amount in ask.mine.items():
            if known := amount + (answer.granted if number == ask.number else 0):
                self._stored[number] = known
            else:  # most slices of a tenant that is idle
                self._stored.pop(number, None)
        self._answer, self._reserve, self._lost = answer, answer.reserve, None
        left = self.limit - answer.used - answer.reserves
        short = answer.granted < ask.least and left + answer.reserves + answer.idle < ask.smallest
        self._refused = (left, now + REFUSED_SECONDS) if short else (self.limit, 0.0)

    def again(self, ask: WindowAsk) -> None:
        """The store did nothing: what waited is asked for again."""
        self._waiting.extend(ask.waiting)

    def correct(self, unix: float) -> None:
        """The store's clock is not what we thought."""
        self._unix = unix

    def unheard(self, now: float) -> None:
        """The store did not answer."""
        if self._lost is None:
            self._lost = _Lost(now, sum(self._live(now).values()) + self._reserve)
        self._lost.recovering = False

    def leave(self, now: float) -> None:
        """Gives up every chunk: nothing is spent here any more."""
        for chunk in self._chunks:
            chunk.end = now
        self._end_chunks(now)
        self._rule = Alone.REFUSE

    # -- without the store

    def _check_alone(self, lost: _Lost, amount: int, now: float) -> float:
        if self._rule is Alone.ALLOW:
            return FITS
        if self._rule is Alone.REFUSE:
            return UNAVAILABLE
        first = self.calendar.first(now + self._unix)
        spent = sum(used for number, used in lost.spent.items() if number >= first)
        if spent + amount > self.limit // self.replicas:
            return _AWAY_RETRY_SECONDS
        if self._heard_at == float("-inf"):
            return FITS  # it never reached the store: there is nothing to go by but the number of replicas
        if now - lost.since < RESPEND_SECONDS:
            return FITS if sum(lost.spent.values()) + amount <= self._reserve else _AWAY_RETRY_SECONDS
        if self._others_gone(lost, now):
            return FITS
        return FITS if sum(self._live(now).values()) + amount <= lost.ceiling else _AWAY_RETRY_SECONDS

    def _others_gone(self, lost: _Lost, now: float) -> bool:
        """Whether all that the store had granted to anybody has left the window."""
        granted_until, _ = self.calendar.stamp(lost.since + _OTHERS_SECONDS + self._unix)
        return self.calendar.first(now + self._unix) > granted_until

    # -- the books

    def _use(self, amount: int, now: float) -> list[tuple[int, int]]:
        """Spends `amount`: of chunks, and what these do not hold as a charge that the store is told of."""
        self._touched_at = now
        self._demand.add(amount)
        if self._chunks:
            chunk = self._chunks[0]
            if amount < chunk.free and now < chunk.end:  # nearly always
                chunk.free -= amount
                self._free -= amount
                return [(chunk.number, amount)]
            self._end_chunks(now)
        pieces: list[tuple[int, int]] = []
        left = amount
        while left and self._chunks:
            chunk = self._chunks[0]
            taken = min(left, chunk.free)
            chunk.free -= taken
            self._free -= taken
            left -= taken
            if taken:
                pieces.append((chunk.number, taken))
            if not chunk.free:
                self._chunks.popleft()
        if left:
            number, _ = self.calendar.stamp(now + self._unix)
            self._add(number, left)
            pieces.append((number, left))
            if self._lost is not None:
                self._lost.spent[number] = self._lost.spent.get(number, 0) + left
        return pieces

    def _give_back(self, pieces: list[tuple[int, int]], amount: int, now: float) -> None:
        first = self.calendar.first(now + self._unix)
        for number, held in reversed(pieces):
            part = min(held, amount)
            amount -= part
            if number >= first and part:
                self._add(number, -part)
                if self._lost is not None and number in self._lost.spent:
                    self._lost.spent[number] = max(0, self._lost.spent[number] - part)

    def _add(self, number: int, amount: int) -> None:
        self._mine[number] = self._mine.get(number, 0) + amount
        self._dirty.add(number)

    def _end_chunks(self, now: float) -> None:
        """What was not spent in its time is given back."""
        while self._chunks and now >= self._chunks[0].end:
            chunk = self._chunks.popleft()
            self._free -= chunk.free
            self._add(chunk.number, -chunk.free)

    def _shrink(self, keep: int) -> None:
        """Others need it: of what is left of chunks only `keep` stays."""
        for chunk in reversed(self._chunks):
            part = min(chunk.free, max(0, self._free - keep))
            if part:
                chunk.free -= part
                self._free -= part
                self._add(chunk.number, -part)

    def _held_back(self, *, hungry: bool) -> int:
        """The reserve that we go on holding: given up here before the store is told, never by it."""
        if self._rule is not Alone.SHARE:
            self._reserve = 0
            return -1
        answer = self._answer
        fair = max(0, (self.limit - answer.used - answer.reserves) // (2 * self.replicas))
        if self._lost is None:
            self._reserve = 0 if hungry else min(self._reserve, fair)
        return self._reserve

    def _live(self, now: float) -> dict[int, int]:
        first = self.calendar.first(now + self._unix)
        return {number: amount for number, amount in self._mine.items() if number >= first}

    def _forget(self, now: float) -> None:
        first = self.calendar.first(now - _KEPT_SECONDS + self._unix)
        for number in [number for number in self._mine if number < first]:
            del self._mine[number]
            self._stored.pop(number, None)
            self._dirty.add(number)  # the store drops its copy too

    def _everybodys(self, now: float) -> dict[int, int]:
        """By slice what everybody had in the last answer, but for ours, which is what it is now."""
        first, found = self.calendar.first(now + self._unix), dict[int, int]()
        for number, amount in slices_of(self._answer.slices):  # a slice may be there in parts
            if number >= first:
                ours = 0 if number in found else self._mine.get(number, 0) - self._stored.get(number, 0)
                found[number] = found.get(number, ours) + amount
        return found

    def _wait(self, amount: int, now: float) -> float:
        """Seconds until `amount` fits by what the store has told, if nothing else happens."""
        answer, at = self._answer, now + self._unix
        excess = answer.used - self._free + amount - self.limit
        if excess <= 0:
            return RESERVE_SECONDS if answer.reserves else REFUSED_SECONDS
        for number, used in slices_of(answer.slices):
            excess -= used
            if excess <= 0:
                return max(REFUSED_SECONDS, self.calendar.leaves(number) - at)
        return max(REFUSED_SECONDS, self.calendar.leaves(answer.last) - at)


class LeasedCharge:
    """What one request has used, and in which slices it lies."""

    __slots__ = ("_amount", "_pieces", "_window")

    def __init__(self, window: LeasedWindow, amount: int, pieces: list[tuple[int, int]]) -> None:
        self._window = window
        self._amount = amount
        self._pieces = pieces

    def settle(self, actual: int, now: float) -> None:
        if actual > self._amount:
            self._window._use(actual - self._amount, now)
        elif actual < self._amount:
            self._window._give_back(self._pieces, self._amount - actual, now)


@dataclass(slots=True)
class Chunk:
    """A part of the window that this replica may spend until `end` (monotonic seconds)."""

    number: int
    end: float
    free: int


class _Lost:
    """The time without the store: since when, what was spent by slice, and how much may lie in the window at most.

    `recovering`: it is there, and will grant again within seconds, for which a request may wait.
    """

    __slots__ = ("ceiling", "recovering", "since", "spent")

    def __init__(self, since: float, ceiling: int) -> None:
        self.since = since
        self.ceiling = ceiling
        self.recovering = False
        self.spent: dict[int, int] = {}
