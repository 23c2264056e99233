"""The waiting room of a pool: who waits for an endpoint, bounded in number and in time.

Floor: an adapter around futures; who may wait and who goes next is decided in `policies.admission.desk`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from policies.admission.desk import Desk
from policies.endpoint_state import EndpointState
from policies.types import Rejection
from policies.waiting import Waiting

T = TypeVar("T")


class Queued(NamedTuple, Generic[T]):
    """A place in the queue. `ahead`: how many stood before it when it was taken."""

    future: asyncio.Future[T]
    ahead: int


class WaitingRoom(Generic[T]):
    """Waiting requests on the books of `desk`, each with the future of what it waits for."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._futures: dict[int, asyncio.Future[T]] = {}

    def __len__(self) -> int:
        return len(self._futures)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self.desk.queue)

    def enter(self, waiting: Waiting, states: Sequence[EndpointState], now: float) -> Queued[T] | Rejection:
        """Joins the room, if the desk lets it in. The future is done by `serve`, by `turn_away`, or cancelled by the
        caller."""
        ahead = self.desk.enter(waiting, states, now)
        if isinstance(ahead, Rejection):
            return ahead
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._futures[id(waiting)] = future
        return Queued(future, ahead)

    def leave(self, waiting: Waiting, now: float) -> None:
        """Gives up, or has been served; idempotent."""
        self.desk.leave(waiting, now)
        self._futures.pop(id(waiting), None)

    def serve(self, waiting: Waiting, what: T) -> bool:
        """Hands over what the request waited for; the desk knows already. False when it has left meanwhile: the caller
        takes it back."""
        future = self._futures.pop(id(waiting), None)
        if future is None or future.done():
            return False
        future.set_result(what)
        return True

    def turn_away(self, waiting: Waiting, error: Exception, now: float) -> None:
        """Ends a wait with an error."""
        future = self._futures.pop(id(waiting), None)
        self.desk.leave(waiting, now)
        if future is not None and not future.done():
            future.set_exception(error)
