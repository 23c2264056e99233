"""The follower's requests that are under way in one pool, and who of the owners knows of them.

Floor: an adapter. Whoever decided, every ticket of this replica's own clients is in here until it is settled: so that a
new owner can be told of all. What is said of it goes to the owner whose link it is on; without one nobody is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from policies.types import Outcome
from router.coordination import answers
from router.coordination.frames import CarriedSeat, Ended
from router.coordination.framing import Unsayable
from router.tickets import Ticket


class Line(Protocol):
    """The follower's end of a link (`router.coordination.link.Link`), as far as seats need it."""

    def first(self, number: int) -> None: ...

    def done(self, number: int, outcome: Ended | None) -> None: ...

    def adopt(self) -> int: ...

    def carry(self, pool: str, seats: Sequence[CarriedSeat]) -> None: ...


class Seat:
    """One ticket. `line` and `number`: by which the owner knows it; None where none does."""

    __slots__ = ("_seats", "line", "number", "ticket")

    def __init__(self, seats: Seats, ticket: Ticket, line: Line | None, number: int) -> None:
        self._seats = seats
        self.ticket = ticket
        self.line = line
        self.number = number

    def first_token(self) -> None:
        if self.line is not None:
            self.line.first(self.number)

    def settled(self, outcome: Outcome | None) -> None:
        self._seats.drop(self)
        if self.line is not None:
            self.line.done(self.number, None if outcome is None else Ended.of(outcome))

    def move(self, line: Line | None) -> None:
        """From now on this owner keeps it; for the one before it is over, and nothing was learned."""
        if self.line is not None:
            self.line.done(self.number, None)
        self.line = line
        self.number = line.adopt() if line is not None else 0


class Seats:
    """All of a pool. `clock` gives monotonic seconds."""

    def __init__(self, pool: str, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._all: dict[Seat, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, ticket: Ticket, line: Line | None, number: int = 0) -> Seat:
        """A request is under way."""
        ticket.seat = seat = Seat(self, ticket, line, number)
        self._all[seat] = None
        return seat

    def drop(self, seat: Seat) -> None:
        self._all.pop(seat, None)

    def move(self, line: Line | None) -> None:
        """There is a new owner, this replica itself where `line` is None: it is told of what it does not know."""
        moved = [seat for seat in self._all if seat.line is not line]
        for seat in moved:
            seat.move(line)
        if moved and line is not None:
            self._carry(line, moved)

    def tell(self, line: Line) -> None:
        """The owner's connection is a new one: which of its tickets are still under way."""
        self._carry(line, [seat for seat in self._all if seat.line is line])

    def leave(self, line: Line) -> None:
        """The link is closed for good."""
        for seat in self._all:
            if seat.line is line:
                seat.line = None

    def _carry(self, line: Line, seats: Sequence[Seat]) -> None:
        now = self._clock()
        said = [answers.carried(seat.number, seat.ticket, now) for seat in seats]
        try:
            line.carry(self._pool, said)
        except (Unsayable, UnicodeEncodeError, OverflowError):  # one odd request must not hide all others
            for one in said:
                self._carry_one(line, one)
            line.carry(self._pool, ())

    def _carry_one(self, line: Line, seat: CarriedSeat) -> None:
        try:
            line.carry(self._pool, (seat,))
        except (Unsayable, UnicodeEncodeError, OverflowError):
            return
