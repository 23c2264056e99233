"""Requests at once, shared by replicas: each has seats of its own, leased from a store.

Floor: `policies`, pure. The sum of everybody's seats is never above the limit: a replica gives seats up before it says
so, and gets others only by an answer. The store takes back the seats of a replica that is silent for `LEASE_SECONDS`;
that replica (it may have been stopped, and woken) uses none of them from `SAFE_SECONDS` after its last word on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from policies.admission.counting import ASK, FITS, UNAVAILABLE, UNKNOWN, Standing
from policies.admission.demand import AHEAD_SECONDS
from policies.admission.leased import REFUSED_SECONDS
from policies.admission.leased_words import Heard
from policies.types import Alone

# Seconds after which the store gives away what a silent replica had. Its requests may still be under way if it only had
# no time to speak: long beside what a machine that is far too busy does to the 0.25 s between two words.
LEASE_SECONDS: Final = 10.0
SAFE_SECONDS: Final = 9.0


@dataclass(frozen=True, slots=True)
class SeatsAsk:
    """`held`: seats that this replica has for itself until the answer, `taken` of them in use; `needed`: for what is
    under way and of the `waiting` ones for as many as it may have; `spare`: wanted besides."""

    held: int
    taken: int
    needed: int
    spare: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class SeatsAnswer:
    """`seats`: ours; `others`: everybody else's, of which nobody uses `idle`. `hungry`: another replica has too few;
    `starving`: and fewer than its share."""

    seats: int
    others: int
    idle: int
    hungry: bool
    starving: bool


class LeasedSeats:
    """One replica's seats."""

    def __init__(self, limit: int, alone: Alone, replicas: int = 1) -> None:
        self.limit = limit
        self.replicas = self._least_replicas = replicas
        self.taken = 0
        self.seats = 0
        self._rule = alone
        self._others = 0
        self._waiting = 0
        self._peak = 0
        self._hungry = self._starving = False
        self._changed = False
        self._safe_until = float("-inf")
        self._heard_at = float("-inf")
        self._refused_until = float("-inf")
        self._lost = False

    def check(self, amount: int, now: float) -> float:
        if self.taken + amount <= self.seats and (now < self._safe_until or self._lost):
            return FITS
        if self._lost:
            return {Alone.ALLOW: FITS, Alone.REFUSE: UNAVAILABLE, Alone.SHARE: UNKNOWN}[self._rule]
        return UNKNOWN if now < self._refused_until else ASK

    def charge(self, amount: int, now: float) -> LeasedSeat:
        self._take(amount)
        return LeasedSeat(self, amount)

    def standing(self, now: float) -> Standing:
        return Standing(self.limit, max(0, self.limit - self._others - self.taken), 0.0)

    def wait_for(self, amount: int) -> None:
        """A request waits for the next answer of the store."""
        self._waiting += amount

    def due(self, now: float, period: float) -> bool:
        """Whether the store is to be asked. `period`: seconds after which it is in any case."""
        if self._waiting or self._changed:
            return True
        return now - self._heard_at >= (REFUSED_SECONDS if self.taken or self.seats else period)

    def ask(self, now: float, *, all_of_it: bool = False) -> SeatsAsk:
        waiting, self._waiting = self._waiting, 0
        if now >= self._safe_until and not self._lost:
            self.seats = 0
        spare = max(1 if self._rule is Alone.SHARE else 0, self._peak - self.taken) if not self._hungry else 0
        needed = self.taken + waiting
        if self._starving:  # others have less than their share: nobody takes more than his
            needed = max(self.taken, min(needed, self.limit // self.replicas))
        if not self._lost:  # a store that is away would give them to nobody
            self.seats = min(self.seats, needed + spare)  # given up before it is said
        self._peak = max(self.taken, int(self._peak * (1 - REFUSED_SECONDS / AHEAD_SECONDS)))
        self._changed = False
        return SeatsAsk(max(self.seats, self.taken), self.taken, needed, spare, waiting)

    def told(self, ask: SeatsAsk, answer: SeatsAnswer, heard: Heard, now: float) -> None:
        self.replicas = max(self._least_replicas, heard.replicas)
        self._heard_at = now
        self._safe_until = heard.asked_at + SAFE_SECONDS
        self.seats, self._others = answer.seats, answer.others
        self._hungry, self._starving, self._lost = answer.hungry, answer.starving, False
        short = answer.seats < ask.taken + ask.waiting and (self._starving or not answer.idle) and not heard.recovering
        self._refused_until = now + REFUSED_SECONDS if short else float("-inf")

    def again(self, ask: SeatsAsk) -> None:
        """The store did nothing: what waited is asked for again."""
        self._waiting += ask.waiting

    def correct(self, unix: float) -> None:
        """Seats know no time of day."""

    def unheard(self, now: float) -> None:
        """The store did not answer. What a replica had then is its own: a store that is away gives it to nobody.

        Not if its time had passed before: a replica that was stopped may have lost everything meanwhile. One that never
        reached the store has its share by the number of replicas."""
        if self._lost:
            return
        self._lost = True
        if self._heard_at == float("-inf"):
            self.seats = self.limit // self.replicas
        elif now >= self._safe_until:
            self.seats = 0

    def leave(self, now: float) -> None:
        """Nothing new is let in here any more."""
        self.seats = 0
        self._rule = Alone.REFUSE
        self._changed = True

    def _take(self, amount: int) -> None:
        self.taken += amount
        self._peak = max(self._peak, self.taken)
        if amount < 0 and self._starving and self.seats > self.limit // self.replicas:
            self.seats = max(self.taken, self.limit // self.replicas)
            self._changed = True


class LeasedSeat:
    """What one request has taken of `LeasedSeats`."""

    __slots__ = ("_amount", "_seats")

    def __init__(self, seats: LeasedSeats, amount: int) -> None:
        self._seats = seats
        self._amount = amount

    def settle(self, actual: int, now: float) -> None:
        self._seats._take(actual - self._amount)
        self._amount = actual
