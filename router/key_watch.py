"""Keeps a process's keys as the database has them: a look at a counter every second, and one after each own change.

Floor: an adapter between `KeyStore` and `KeyRing`. The database is asked in threads of its own, so one that has stopped
takes nothing from requests. While it is away the keys that are known stay as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from router.database.errors import DatabaseAway, DatabaseUnusable
from router.errors import DatabaseUnavailable
from router.metrics import Metrics
from router.stored_keys import Stamp
from router.tenants import ApiKey, KeyRing

if TYPE_CHECKING:
    from router.key_store import KeyStore

_log = logging.getLogger("promptlane.keys")

_THREADS = 2  # a look, and a change beside it; more changes at once wait
_MOST_WAITING = 16  # changes; more are refused at once while a database does not answer
_SWEEP_AFTER = 1000  # changed keys, at least, until those that have expired are taken out of memory
_Result = TypeVar("_Result")


class _News(NamedTuple):
    """What a look has found. `all`: the keys there are, None where it is only known which have changed: those that are
    `live`, by digest, and those that are `over`."""

    stamp: Stamp
    all: dict[bytes, ApiKey] | None
    live: Mapping[bytes, ApiKey] = {}
    over: Set[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Seconds between two looks, and for which known keys count while the database is away (None: for ever)."""

    look_seconds: float
    keep_seconds: float | None


class KeyWatch:
    """The watching of one process. `clock`: monotonic seconds; `wall_clock`: Unix seconds."""

    def __init__(
        self,
        store: KeyStore,
        ring: KeyRing,
        metrics: Metrics,
        settings: Callable[[], WatchSettings],
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.looked_at: float | None = None  # by `clock`: the last time that the database answered
        self._store = store
        self._ring = ring
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="database")
        self._one_look = asyncio.Lock()
        self._waiting = 0
        self._stamp: Stamp | None = None
        self._changed = self._size = 0  # keys, since the ring was made anew, and then
        self._prepared = False
        self._trouble: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch. Needs a running event loop."""
        self._task = asyncio.create_task(self._watch(), name="keys of the database")

    async def stop(self) -> None:
        """Ends the watching; whoever still waits for the database is left to its timeout."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._store.database.close()

    async def look(self) -> None:
        """Takes over what has changed. Never fails because the database is away: that is logged and counted.

        Raises DatabaseUnusable, but only until it has been usable once.
        """
        async with self._one_look:
            try:
                news = await self._in_thread(self._look)
            except DatabaseAway as away:
                self._failed(str(away))
            else:
                self._metrics.add("promptlane_key_looks", "same" if news is None else "changed")
                if news is not None:
                    self._take(news)
                self._well()

    async def change(self, work: Callable[[KeyStore], _Result]) -> _Result:
        """Does something with the store that changes keys; when it returns, this process goes by it.

        Raises DatabaseUnavailable, or what `work` does.
        """
        result = await self.ask(work)
        with contextlib.suppress(DatabaseUnusable):
            await self.look()
        return result

    async def ask(self, work: Callable[[KeyStore], _Result]) -> _Result:
        """The same for what changes nothing."""
        if self._waiting >= _MOST_WAITING:
            raise DatabaseUnavailable("Too many changes of keys wait for the database already.", retry_after=1.0)
        self._waiting += 1
        try:
            return await self._in_thread(lambda: work(self._ready_store()))
        except (DatabaseAway, DatabaseUnusable) as error:
            raise DatabaseUnavailable(f"The database of keys cannot be used: {error}") from None
        finally:
            self._waiting -= 1

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings().look_seconds)
            try:
                await self.look()
            except DatabaseUnusable as error:
                self._failed(str(error))
            except Exception:  # a fault of ours must not end the watching: revoked keys would stay valid
                _log.exception("looking for changes of keys failed")
                self._metrics.add("promptlane_internal_errors", "keys")

    def _look(self) -> _News | None:
        """In a thread: what is new. What makes up most of a look of all keys is done here too."""
        now = self._wall_clock()
        seen = self._ready_store().look(self._stamp, now)
        if seen is None:
            return None
        if seen.whole:
            return self._anew(seen.stamp, {key.digest: key.api_key() for key in seen.keys})
        live = {key.digest: key.api_key() for key in seen.keys if key.live(now)}
        over = {key.digest for key in seen.keys if not key.live(now)}
        self._changed += len(seen.keys)
        if self._changed <= max(_SWEEP_AFTER, self._size):
            return _News(seen.stamp, None, live, over)
        # Keys that have ended by time alone are in no change. One look at a time: nobody changes the ring meanwhile.
        kept = {digest: key for digest, key in self._ring.by_digest.items() if key.counts(now) and digest not in over}
        return self._anew(seen.stamp, kept | live)

    def _anew(self, stamp: Stamp, keys: dict[bytes, ApiKey]) -> _News:
        self._changed, self._size = 0, len(keys)
        return _News(stamp, keys)

    def _take(self, news: _News) -> None:
        """It counts from now on."""
        ring, before = self._ring, len(self._ring.by_digest)
        if news.all is not None:
            made = len(news.all.keys() - ring.by_digest.keys())
            ring.by_digest = news.all
        else:
            made = len(news.live.keys() - ring.by_digest.keys())
            ring.by_digest.update(news.live)
            for digest in news.over:
                ring.by_digest.pop(digest, None)
        self._stamp = news.stamp
        count = len(ring.by_digest)
        _log.info("the database has %d keys: %d new, %d gone", count, made, before + made - count)

    def _ready_store(self) -> KeyStore:
        """Once it has been well, a database is never made anew: one that lost its tables would seem to revoke all."""
        if not self._prepared:
            self._store.prepare()
            self._prepared = True
        return self._store

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _well(self) -> None:
        keep = self._settings().keep_seconds
        self._ring.known_until = math.inf if keep is None else self._wall_clock() + keep
        self.looked_at = self._clock()
        if self._trouble is not None:
            _log.warning("the database of keys answers again")
        self._trouble = None

    def _failed(self, reason: str) -> None:
        """Counted each time, logged once: an outage has as many looks as seconds."""
        self._metrics.add("promptlane_key_looks", "failed")
        if self._trouble is not None:
            return
        self._trouble = reason
        if self.looked_at is None:
            _log.warning("the database of keys cannot be used (%s): only keys of the configuration are valid", reason)
        else:
            keep = self._settings().keep_seconds
            until = "until it is back" if keep is None else f"for {keep:g} seconds"
            _log.warning("the database of keys is away (%s): its %d known keys stay valid %s", reason,
                         len(self._ring.by_digest), until)  # fmt: skip
