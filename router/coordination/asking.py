"""One request of a follower at the owner, from its question until its answer is taken or given up.

Floor: an adapter. Whatever becomes of who asked, a ticket that came for it is used or given back.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from policies.waiting import Waiting
from router.coordination import answers, seats
from router.coordination.asked import AskedRequest
from router.coordination.asks import Answered
from router.coordination.frames import Answer, Aside, Bound, Held, NotMine
from router.elsewhere import Elsewhere
from router.errors import GatewayError
from router.keeper import Detour
from router.tickets import Ticket


class Line(seats.Line, Protocol):
    """A link that is up (`router.coordination.link.Link`)."""

    def ask(
        self, pool: str, request: AskedRequest, excluded: tuple[str, ...], may_hold: bool, answered: Answered
    ) -> int: ...

    def cancel(self, number: int) -> None: ...

    def fence(self, pool: str, term: int) -> None: ...


class Asker(Protocol):
    """Who asks (`router.coordination.remote.Remote`)."""

    def bound(self, frame: Bound, line: Line, waiting: Waiting) -> Ticket:
        """A ticket of the owner. Raises Elsewhere for one that means nothing here."""

    def fenced(self, term: int) -> None:
        """There is an owner of this term."""

    def aside(self) -> GatewayError | Detour:
        """The owner's pool is degraded."""


class Asking:
    """One request at the owner, until its answer is here: what came of it is done in the turn in which it came.
    `pause`: seconds before its ticket is used."""

    __slots__ = ("_asker", "_line", "_waiting", "answer", "number", "pause")

    def __init__(self, asker: Asker, line: Line, waiting: Waiting) -> None:
        self._asker = asker
        self._line = line
        self._waiting = waiting
        self.answer: asyncio.Future[Ticket | None] = asyncio.get_running_loop().create_future()
        self.number = 0
        self.pause = 0.0

    def answered(self, frame: Answer | None) -> None:
        answer = self.answer
        if isinstance(frame, Held):
            if self._waiting.on_hold is not None and not answer.done():
                self._waiting.on_hold(frame.seconds)
        elif answer.done():  # nobody waits any more
            if isinstance(frame, Bound):
                self._line.done(frame.id, None)
        elif frame is None:
            answer.set_result(None)
        elif isinstance(frame, Bound):
            self._take(frame)
        elif isinstance(frame, NotMine):
            answer.set_exception(Elsewhere())
            self._asker.fenced(frame.term)
        else:
            answer.set_exception(self._asker.aside() if isinstance(frame, Aside) else answers.error(frame))

    def _take(self, frame: Bound) -> None:
        try:
            self.answer.set_result(self._asker.bound(frame, self._line, self._waiting))
            self.pause = frame.pause
        except Elsewhere as elsewhere:
            self.answer.set_exception(elsewhere)

    def give_up(self, number: int) -> None:
        """Nobody has taken the answer: what it gave is given back, what is still to come is not wanted."""
        answer = self.answer
        if not answer.done() or answer.cancelled():
            answer.cancel()
            self._line.cancel(number)
        elif answer.exception() is None and (ticket := answer.result()) is not None:
            ticket.settle(None)
