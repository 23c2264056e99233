"""What every counter of a limit has in common, whether it lives in this process or is shared by replicas.

Floor: `policies`, pure. A counter is asked before it is charged; what it says is one of four things, told as seconds so
that the hot path compares numbers.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

# What `Counter.check` says besides seconds to wait.
FITS: Final = 0.0
ASK: Final = -1.0  # only the store that replicas share can tell
UNAVAILABLE: Final = -2.0  # that store is away, and the limit is to refuse then
UNKNOWN: Final = float("inf")  # not now, and nobody knows when
NEVER: Final = float("nan")  # more than the whole limit


class Standing(NamedTuple):
    """Where a counter stands. `reset`: seconds until the whole limit is there again if nothing else happens."""

    limit: int
    remaining: int
    reset: float


class Charge(Protocol):
    """One request's part of a counter. Settled at most once."""

    def settle(self, actual: int, now: float) -> None:
        """It was `actual` in the end: what is too much is given back, what is missing is charged now."""


class Counter(Protocol):
    """`now`: monotonic seconds, never backwards."""

    limit: int

    def check(self, amount: int, now: float) -> float:
        """FITS, ASK, UNAVAILABLE, UNKNOWN, NEVER, or the seconds until `amount` fits if nothing else happens."""

    def charge(self, amount: int, now: float) -> Charge:
        """Uses `amount` now, fitting or not."""

    def standing(self, now: float) -> Standing: ...


class Seats:
    """So many at once, in this process."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def check(self, amount: int, now: float) -> float:
        return FITS if self.taken + amount <= self.limit else UNKNOWN

    def charge(self, amount: int, now: float) -> Seat:
        self.taken += amount
        return Seat(self, amount)

    def standing(self, now: float) -> Standing:
        return Standing(self.limit, max(0, self.limit - self.taken), 0.0)


class Seat:
    """What one request has taken of `Seats`."""

    __slots__ = ("_amount", "_seats")

    def __init__(self, seats: Seats, amount: int) -> None:
        self._seats = seats
        self._amount = amount

    def settle(self, actual: int, now: float) -> None:
        self._seats.taken += actual - self._amount
        self._amount = actual
