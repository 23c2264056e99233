"""What an owner knows of engines' caches: read back when a pool becomes this replica's, written while it is.

Floor: an adapter over the journal of one pool. It is read while the owner decides already: for the milliseconds that
takes, it knows the caches as it saw them as a follower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from policies.coordination.journal import endpoint_key
from policies.prefix_index import PrefixIndex
from router.coordination.journal import JournalStore, JournalWriter, read_back
from router.pools import Pool


class Affinity:
    """`clock` gives monotonic seconds."""

    def __init__(self, store: JournalStore, pool: str, clock: Callable[[], float]) -> None:
        self._store = store
        self._pool = pool
        self._writer = JournalWriter(store, pool, clock)
        self._task: asyncio.Task[None] | None = None
        self._indexes: dict[int, PrefixIndex] = {}

    def begin(self, pool: Pool, term: int) -> None:
        """This replica owns the pool, with this term."""
        self.follow(pool, term)  # at once: what is dispatched while the journal is read is written down too
        self._start(self._inherit())

    def go_on(self, pool: Pool, term: int) -> None:
        """After a reload: it has other endpoints, and what is known of those that stay is known."""
        self.follow(pool, term)
        self._start(self._writer.run())

    def follow(self, pool: Pool, term: int) -> None:
        """Endpoints have come or gone; what is being read or written goes on, with those of now."""
        self._indexes = _indexes(pool)
        self._writer.begin(term, self._indexes)

    def end(self) -> None:
        """It owns it no longer."""
        if self._task is not None:
            self._task.cancel()
        self._writer.end()

    async def stopped(self) -> None:
        """Until nothing of it is under way; to be called after `end`."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(work, name=f"journal of pool {self._pool}")

    async def _inherit(self) -> None:
        rebuilt = await read_back(self._store, self._pool)
        rebuilt.restore(self._indexes)
        self._writer.journal.inherit(rebuilt)
        await self._writer.run()


def _indexes(pool: Pool) -> dict[int, PrefixIndex]:
    return {endpoint_key(state.endpoint.url): state.index for state in pool.states}
