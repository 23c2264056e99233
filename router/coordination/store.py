"""The store in which replicas see each other and the leases of pools.

Floor: an adapter's port; `redis_store` and `local_store` are its two kinds. A lease is compared and set as a whole, by
replica and term, so an answer that was lost or late does no harm. Times to live are seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from policies.coordination.ownership import Lease

PREFIX: Final = "promptlane:"  # before every key, where nothing else is configured


class StoreLost(Exception):
    """The store cannot be reached, did not answer in time or refuses; the message says which. Nothing is known of what
    it did."""


class BadStoreUrl(ValueError):
    """The store's URL cannot be read; the message says why, and never repeats a password."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`leases`: of the pools asked for, those that have an owner. `replicas`: everybody's name and address. `homes`:
    where the pools' requests come in, as far as that is known."""

    leases: Mapping[str, Lease]
    replicas: Mapping[str, str]
    homes: Mapping[str, str] = field(default_factory=dict)


class Store(Protocol):
    """Every call ends within the store's timeout and raises StoreLost where it failed."""

    async def look(self, pools: Sequence[str]) -> Snapshot:
        """Who owns these pools, and who is there."""

    async def acquire(self, pool: str, me: str, address: str, ttl: float, above: int = 0) -> Lease | None:
        """Takes a free lease, with a term above all that the store has given out and above `above` (so that a store
        that has lost everything gives out none twice). None: it is not free."""

    async def renew(self, lease: Lease, pool: str, ttl: float) -> bool:
        """Lengthens this lease. False: it is gone."""

    async def release(self, lease: Lease, pool: str) -> None:
        """Frees the pool if this lease still holds it."""

    async def settle(self, pool: str, home: str, ttl: float) -> None:
        """Says where the pool is at home, for so long."""

    async def announce(self, me: str, address: str, ttl: float) -> None:
        """Says that this replica is there; with a `ttl` of 0, that it is no longer."""

    async def close(self) -> None:
        """Lets go of connections and files, not of leases."""


async def together(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """What all calls bring, made in one turn of the loop. Raises the first failure, once all have ended."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    for one in done:
        if isinstance(one, BaseException):
            raise one
    return done
