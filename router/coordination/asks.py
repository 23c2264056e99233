"""The requests of one follower at one owner: their numbers, and who waits for which answer.

Floor: sans-IO. Numbers grow by one in the life of a link, across its connections: a seat outlives the connection that
it was asked on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from router.coordination.frames import Answer, Bound, Held
from router.coordination.framing import BadFrame

# Called with the answer; before it perhaps with Held; with None when the connection was lost before any came.
Answered: TypeAlias = Callable[[Answer | None], None]


class Asks:
    """`given`: the last number that was given."""

    __slots__ = ("_bound", "_waiting", "given")

    def __init__(self) -> None:
        self.given = 0
        self._waiting: dict[int, Answered] = {}
        self._bound: set[int] = set()

    @property
    def open(self) -> bool:
        """Whether there is anything that the owner knows, or should, and that has not ended."""
        return bool(self._bound or self._waiting)

    def new(self, answered: Answered) -> int:
        self.given = number = self.given + 1
        self._waiting[number] = answered
        return number

    def adopt(self) -> int:
        """A number for a request that has its ticket from somebody else."""
        self.given = number = self.given + 1
        self._bound.add(number)
        return number

    def answer(self, frame: Answer) -> None:
        """Hands the answer to who waits for it; one that nobody waits for any more is passed over. Raises BadFrame."""
        number = frame.id
        kind = type(frame)
        answered = self._waiting.get(number) if kind is Held else self._waiting.pop(number, None)
        if answered is None:
            self._check(number)
            return
        if kind is Bound:
            self._bound.add(number)
        answered(frame)

    def settled(self, number: int) -> None:
        """It has ended, or nobody waits for it any more; idempotent."""
        self._bound.discard(number)
        self._waiting.pop(number, None)

    def lost(self) -> None:
        """The connection is gone: who waits is told so. Who has a ticket keeps it."""
        waiting, self._waiting = self._waiting, {}
        for answered in waiting.values():
            answered(None)

    def _check(self, number: int) -> None:
        if number > self.given:
            raise BadFrame("an answer to what was never asked")
        if number in self._bound:
            raise BadFrame("a second answer to one request")
