"""The waiting room of a pool: who waits for an endpoint with room, bounded in number and in time.

Floor: an adapter around futures; who goes next is decided in `policies.dispatch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Generic, TypeVar

from policies.types import InferenceRequest

T = TypeVar("T")


class WaitingRoom(Generic[T]):
    """Waiting requests in order of arrival, each with the future of what it waits for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # By identity: clients may send the same request id twice at once.
        self._waiting: dict[int, tuple[InferenceRequest, asyncio.Future[T], frozenset[str]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[InferenceRequest]:
        return (entry[0] for entry in self._waiting.values())

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self.limit

    def enter(self, request: InferenceRequest, exclude: frozenset[str] = frozenset()) -> asyncio.Future[T]:
        """Joins the room; the future is done by `serve`, by `turn_away`, or cancelled by the caller.

        `exclude`: endpoints that have failed the request.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting[id(request)] = (request, future, exclude)
        return future

    def with_exclusions(self) -> list[InferenceRequest]:
        """Those who must not be sent everywhere."""
        return [request for request, _, exclude in self._waiting.values() if exclude]

    def excluded(self, request: InferenceRequest) -> frozenset[str]:
        """The endpoints that a waiting request must not be sent to."""
        entry = self._waiting.get(id(request))
        return entry[2] if entry is not None else frozenset()

    def leave(self, request: InferenceRequest) -> None:
        """Leaves, served or not; idempotent."""
        self._waiting.pop(id(request), None)

    def serve(self, request: InferenceRequest, what: T) -> bool:
        """Hands over what the request waited for. False when it has left meanwhile: the caller takes it back."""
        entry = self._waiting.pop(id(request), None)
        if entry is None or entry[1].done():
            return False
        entry[1].set_result(what)
        return True

    def turn_away(self, request: InferenceRequest, error: Exception) -> None:
        """Ends a wait with an error."""
        entry = self._waiting.pop(id(request), None)
        if entry is not None and not entry[1].done():
            entry[1].set_exception(error)
