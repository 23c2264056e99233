"""The journal of a pool's affinity: written in batches by its owner, read back by the next one before it leads.

Floor: an adapter; what is written is decided in `policies.coordination.journal`. It lies in a Redis stream per pool,
or, for workers of one machine, in a file beside their leases: a worker that dies must not cost the others what it knew,
and the file costs next to nothing. A batch is msgpack `[term, [entry, ...]]`. Blocks are salted hashes: there is
nothing in it that could be read. Who writes with a lower term than the last one is refused, so an owner that does not
know yet that it is none spoils nothing. What is lost costs cache hits, never an answer: failures are counted and passed
over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from xxhash import xxh3_64_hexdigest

from policies.coordination.journal import Entry, Journal, Rebuilt
from policies.prefix_index import PrefixIndex
from router.coordination.local_store import folder_errors
from router.coordination.store import StoreLost

if TYPE_CHECKING:  # who has no Redis need not load its client
    from router.coordination.redis_store import RedisStore

_log = logging.getLogger("promptlane.coordination")

BATCH_SECONDS = 0.1
BATCH_NOTES = 256
READ_SECONDS = 1.0
# Batches that a stream keeps; half of them after the last snapshots new ones are written, so none is ever cut off.
MAX_BATCHES = 4096
# After this long without a dispatch engines' caches say little of what the journal says; seconds.
TTL_SECONDS = 1800.0
_PAGE = 64
_MAX_BATCH_BYTES = 64 * 1024 * 1024
_HEAD = struct.Struct(">QI")  # of a batch in a file: term, length

_ADD = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and tonumber(last[2][2]) > tonumber(ARGV[1]) then return false end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 't', ARGV[1], 'b', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return id
"""


class _Batch(msgspec.Struct, array_like=True, gc=False):
    term: int
    entries: list[tuple[int, int, int, bytes, int]]


class Outdated(Exception):
    """There is a newer owner: this one's journal ends here."""


class JournalStore(Protocol):
    """Where batches are kept, by pool, in order. Raises StoreLost, and Outdated on writing."""

    async def append(self, pool: str, term: int, batch: bytes) -> None:
        """Adds one."""

    async def rewrite(self, pool: str, term: int, batches: Sequence[bytes]) -> None:
        """Puts these in place of all that was written before."""

    def read(self, pool: str) -> AsyncGenerator[bytes, None]:
        """All that is kept, the oldest first."""


class StreamJournal:
    """In a Redis stream per pool, which ends `ttl` seconds after the last batch."""

    def __init__(self, store: RedisStore, ttl: float = TTL_SECONDS) -> None:
        self._store = store
        self._ttl = round(ttl * 1000)

    async def append(self, pool: str, term: int, batch: bytes) -> None:
        await self._add(pool, term, batch)

    async def rewrite(self, pool: str, term: int, batches: Sequence[bytes]) -> None:
        first: bytes | None = None
        for batch in batches:
            added = await self._add(pool, term, batch)
            first = first or added
        if first is not None:
            await self._store.client.call("XTRIM", self._key(pool), "MINID", first)

    async def read(self, pool: str) -> AsyncGenerator[bytes, None]:
        after = "-"
        while page := await self._store.client.call("XRANGE", self._key(pool), after, "+", "COUNT", _PAGE):
            for _, fields in page:
                yield fields.get(b"b", b"")
            after = "(" + page[-1][0].decode()

    async def _add(self, pool: str, term: int, batch: bytes) -> bytes:
        call = self._store.client.call
        added: bytes | None = await call("EVAL", _ADD, 1, self._key(pool), term, batch, MAX_BATCHES, self._ttl)
        if added is None:
            raise Outdated
        return added

    def _key(self, pool: str) -> str:
        return self._store.key(pool, "journal")


class FileJournal:
    """In a file per pool, for workers of one machine. Nothing is synced: it need not outlive the machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def append(self, pool: str, term: int, batch: bytes) -> None:
        with folder_errors():
            self._refuse_outdated(pool, term)
            with self._file(pool).open("ab") as file:
                file.write(_HEAD.pack(term, len(batch)) + batch)

    async def rewrite(self, pool: str, term: int, batches: Sequence[bytes]) -> None:
        with folder_errors():
            self._refuse_outdated(pool, term)
            descriptor, aside = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(_HEAD.pack(term, len(batch)) + batch for batch in batches)
            os.replace(aside, self._file(pool))

    async def read(self, pool: str) -> AsyncGenerator[bytes, None]:
        with folder_errors(), contextlib.suppress(FileNotFoundError), self._file(pool).open("rb") as file:
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                length = _HEAD.unpack(head)[1]
                if length > _MAX_BATCH_BYTES or len(batch := file.read(length)) < length:
                    return  # its writer died in the middle
                yield batch

    def _refuse_outdated(self, pool: str, term: int) -> None:
        """A new owner begins its file anew, so the first batch tells whose it is."""
        with contextlib.suppress(FileNotFoundError), self._file(pool).open("rb") as file:
            head = file.read(_HEAD.size)
            if len(head) == _HEAD.size and _HEAD.unpack(head)[0] > term:
                raise Outdated

    def _file(self, pool: str) -> Path:
        return self._folder / f"{xxh3_64_hexdigest(pool.encode())}.journal"


class JournalWriter:
    """Writes one pool's journal while this replica owns it. `clock` gives monotonic seconds.

    `written`, `failed`: batches. After a failure everything is written anew, as what arrived is not known.
    """

    def __init__(self, store: JournalStore, pool: str, clock: Callable[[], float], journal: Journal | None = None):
        self._store = store
        self._pool = pool
        self._clock = clock
        self.journal = journal or Journal()
        self._term = 0
        self._since_snapshots = 0
        self._wrote_at = 0.0
        self.written = self.failed = 0

    def begin(self, term: int, indexes: Mapping[int, PrefixIndex], rebuilt: Rebuilt | None = None) -> None:
        """This replica owns the pool, with this term. `rebuilt`: what was read back of it before."""
        self._term = term
        self.journal.follow(indexes)
        if rebuilt is not None:
            self.journal.inherit(rebuilt)

    def end(self) -> None:
        """It owns it no longer."""
        self.journal.leave()

    async def run(self) -> None:
        """Until cancelled, or until there is a newer owner."""
        while True:
            try:
                await self.flush()
            except Outdated:
                _log.info("the journal of pool %s is another owner's now", self._pool)
                self.end()
                return
            await asyncio.sleep(BATCH_SECONDS)

    async def flush(self) -> None:
        """Writes what is noted. Raises Outdated."""
        if self._clock() - self._wrote_at > TTL_SECONDS / 2:
            self.journal.lost()  # what was written may have ended meanwhile
        try:
            if self.journal.due or self._since_snapshots >= MAX_BATCHES // 2:
                await self._snapshots()
            while self.journal.waiting:
                entries = self.journal.entries(BATCH_NOTES)
                await self._store.append(self._pool, self._term, self._encoded(entries))
                self._count(1)
        except Outdated:
            self.journal.lost()  # whoever asks again shall hear it again
            raise
        except StoreLost as error:
            self.failed += 1
            self.journal.lost()
            _log.debug("a batch of the journal of pool %s is lost: %s", self._pool, error)

    async def _snapshots(self) -> None:
        batches = []
        for entry in self.journal.snapshots():
            batches.append(self._encoded([entry]))
            await asyncio.sleep(0)  # an endpoint's takes milliseconds
        await self._store.rewrite(self._pool, self._term, batches)
        self._since_snapshots = 0
        self._count(len(batches))

    def _encoded(self, entries: Sequence[Entry]) -> bytes:
        return msgspec.msgpack.encode((self._term, entries))

    def _count(self, batches: int) -> None:
        self.written += batches
        self._since_snapshots += batches
        self._wrote_at = self._clock()


async def read_back(store: JournalStore, pool: str, seconds: float = READ_SECONDS) -> Rebuilt:
    """What the journal says of a pool's endpoints; as much of it as can be read in this time."""
    rebuilt, highest = Rebuilt(), 0
    try:
        async with asyncio.timeout(seconds), contextlib.aclosing(store.read(pool)) as batches:
            async for data in batches:
                batch = _decoded(data)
                if batch is not None and batch.term >= highest:
                    highest = batch.term
                    for entry in batch.entries:
                        rebuilt.apply(Entry(*entry))
                await asyncio.sleep(0)  # others may want the loop, and the time may be over
    except (TimeoutError, StoreLost) as error:
        _log.warning("the journal of pool %s could not be read to its end: %s", pool, str(error) or "out of time")
    return rebuilt


def _decoded(data: bytes) -> _Batch | None:
    try:
        return msgspec.msgpack.decode(data, type=_Batch)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
