"""What a pool asks of its replicas: a ticket, from whoever decides for it.

Floor: a port of `router.pools`, whose other side is `router.coordination.remote`; nothing is decided here.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypedDict

from policies.waiting import Waiting
from router.tickets import Ticket


class Elsewhere(Exception):
    """Not a failure: another replica decides for the pool now, and who waited here is to ask there."""


class Other(NamedTuple):
    """An endpoint that was not chosen, as `policies.decision.Candidate` has it."""

    endpoint: str
    cost: float
    cached_tokens: int
    own_seconds: float
    ttft_seconds: float


class Told(NamedTuple):
    """What another replica has decided for a request. Times are seconds; `others`: the next best few."""

    endpoint: str
    cached_tokens: int
    own_seconds: float
    ttft_seconds: float
    queued_seconds: float = 0.0
    ahead: int = 0
    priority: int | None = None
    session: str | None = None
    others: tuple[Other, ...] = ()


class Part(TypedDict):
    """What operators see of a replica's part in a pool. `part`: leads, follows or alone; `home`: where nearly all of
    the pool's requests come in; `under_way`: requests of its own clients; `seats_of_followers`: those of others that it
    has an account of."""

    part: str
    owner: str | None
    home: str | None
    term: int
    under_way: int
    seats_of_followers: int


class Remote(Protocol):
    """A pool's part in the coordination of replicas (`router.coordination.remote`)."""

    async def dispatch(self, waiting: Waiting) -> Ticket:
        """`Pool.dispatch`, by whoever decides for the pool."""

    def keep(self, ticket: Ticket) -> None:
        """A ticket that was decided here is under way: a new owner is told of it."""

    def decides(self) -> bool:
        """Whether who waits here may be sent: this replica leads, or can reach nobody who does."""

    def looks_after(self) -> bool:
        """Whether this replica may wake the pool's standbys and let them sleep."""

    def changed(self) -> None:
        """The pool has other endpoints."""

    def describe(self) -> Part:
        """For operators."""
