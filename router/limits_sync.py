"""The loop that keeps all shared limits of this process in touch with the store.

Floor: an adapter over `limits_redis`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from router.coordination.store import PREFIX
from router.limits_redis import SharedBook, Store
from router.metrics import Metrics

_log = logging.getLogger("promptlane.limits")

# Seconds between two looks at what has to be told and asked; so soon do others get what was given back.
TICK_SECONDS: Final = 0.25
# Counters that are looked after in a second though nothing happens: some 2 % of a core.
_IDLE_COUNTERS: Final = 500


class SharedLimits:
    """All books of this process, and the loop that keeps them in touch with the store. `prefix`: before its keys."""

    def __init__(self, store: Store, metrics: Metrics, prefix: str = PREFIX) -> None:
        self.store = store
        self.prefix = prefix
        self._metrics = metrics
        self._books: dict[str, SharedBook] = {}
        self._leaving: list[SharedBook] = []
        self._task: asyncio.Task[None] | None = None

    def keep(self, books: Iterable[SharedBook]) -> None:
        """From now on these; books that are not among them are wound up."""
        following = {book.tenant: book for book in books}
        for tenant, book in self._books.items():
            if following.get(tenant) is not book:
                book.leave()
                self._leaving.append(book)
        self._books = following

    def start(self) -> None:
        """Needs a running event loop. Twice is once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="shared limits")

    async def stop(self) -> None:
        """Gives back what was not spent, so that others have it at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.keep(())
        leaving, self._leaving = self._leaving, []
        await asyncio.gather(*(book.exchange() for book in leaving if not book.lost))
        await self.store.close()

    async def _run(self) -> None:
        while True:
            try:
                await self.turn()
            except Exception:  # a guard: without this loop no replica would hear of us any more
                _log.exception("a look at the shared limits failed")
                self._metrics.add("promptlane_internal_errors", "limits")
            await asyncio.sleep(TICK_SECONDS)

    async def turn(self) -> None:
        """One look at all books."""
        books = [*self._books.values(), *self._leaving]
        period = max(TICK_SECONDS, sum(book.counters for book in books) / _IDLE_COUNTERS)
        due = [book for book in books if book.due(period)]
        lost = [book for book in due if book.lost]
        if lost:
            await lost[0].exchange()  # one finds out whether the store is back
            if lost[0].lost and len(lost) > 1:
                due = [book for book in due if not book.lost]
        await asyncio.gather(*(book.exchange() for book in due if book not in lost[:1]))
        self._leaving = [book for book in self._leaving if not book.gone]
