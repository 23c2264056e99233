"""The engine's KV cache as blocks: a prefix cache that evicts the least recently used block nobody is using.

Floor: pure. No clock, no asyncio. A block is known by the hash of all tokens up to its end (chained, salted), so equal
hashes mean equal prefixes. `KVCache` owns every block; a running sequence holds some of them through its `BlockTable`.

    capacity = unused + idle (cached, no holder) + shared (cached, held) + private (held, not yet cached)
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import xxhash

BlockHash = int
BlockTable = list[BlockHash | None]
"""The blocks of one running sequence, in order. None: a private block (partly filled, or a twin of a cached one)."""


class KVCache:
    """Blocks of one engine. Callers never touch a table's entries themselves."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("an engine needs at least one KV block")
        self.capacity = capacity
        self._holders: dict[BlockHash, int] = {}
        # OrderedDict, as a plain dict finds its oldest key in a time that grows with every key taken from the front.
        self._idle: OrderedDict[BlockHash, None] = OrderedDict()
        self._private = 0
        self.evicted_total = 0

    @property
    def used(self) -> int:
        """Blocks held by running sequences."""
        return len(self._holders) + self._private

    @property
    def cached(self) -> int:
        """Blocks that a new prompt could hit."""
        return len(self._holders) + len(self._idle)

    @property
    def available(self) -> int:
        """Blocks that a running sequence may take: unused ones and idle ones, which are then evicted."""
        return self.capacity - self.used

    @property
    def unused(self) -> int:
        """Blocks that hold nothing."""
        return self.capacity - self.used - len(self._idle)

    def match(self, hashes: Sequence[BlockHash], limit: int) -> int:
        """How many leading blocks, at most `limit`, are cached."""
        holders, idle = self._holders, self._idle
        for index, block in enumerate(hashes[:limit]):
            if block not in holders and block not in idle:
                return index
        return min(limit, len(hashes))

    def held(self, hashes: Sequence[BlockHash]) -> int:
        """How many of these blocks running sequences hold, so that one more holder takes nothing from anybody."""
        return sum(block in self._holders for block in hashes)

    def acquire(self, hashes: Sequence[BlockHash]) -> BlockTable:
        """Hold these cached blocks (all must be cached). Held blocks are never evicted."""
        for block in hashes:
            self._idle.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1
        return list(hashes)

    def grow(self, table: BlockTable, blocks: int) -> bool:
        """Make the table `blocks` long with private blocks; False, and nothing changes, when there are too few."""
        missing = blocks - len(table)
        if missing <= 0:
            return True
        if missing > self.available:
            return False
        self._evict(missing - self.unused)
        self._private += missing
        table.extend([None] * missing)
        return True

    def commit(self, table: BlockTable, index: int, block: BlockHash) -> None:
        """The private block at `index` is full: cache it. It stays private where another sequence was first."""
        if table[index] is not None or block in self._holders or block in self._idle:
            return
        table[index] = block
        self._private -= 1
        self._holders[block] = 1

    def release(self, table: BlockTable) -> None:
        """Let go of all blocks, tail first: the end of a prefix is evicted before its beginning."""
        for block in reversed(table):
            if block is None:
                self._private -= 1
            elif self._holders[block] > 1:
                self._holders[block] -= 1
            else:
                del self._holders[block]
                self._idle[block] = None
        table.clear()

    def reset(self) -> bool:
        """Forget all idle blocks; False, as the real engine has it, while a sequence holds any block."""
        if self.used:
            return False
        self._idle.clear()
        return True

    def _evict(self, count: int) -> None:
        for _ in range(count):
            self._idle.popitem(last=False)
            self.evicted_total += 1

    def check(self, tables: Sequence[BlockTable]) -> None:
        """Assert the invariants against all live tables: for tests."""
        held: dict[BlockHash, int] = {}
        for block in (block for table in tables for block in table if block is not None):
            held[block] = held.get(block, 0) + 1
        assert held == self._holders, "reference counts differ from the live tables"
        assert self._private == sum(block is None for table in tables for block in table)
        assert not self._holders.keys() & self._idle.keys()
        assert 0 <= self.used + len(self._idle) <= self.capacity


class BlockHasher:
    """Chained hashes of one token sequence that grows: one hash per full block. The salt enters the first block."""

    def __init__(self, block_size: int, salt: str = "") -> None:
        self._size = block_size
        self._parent = xxhash.xxh3_128_digest(salt.encode())
        self._pending: array[int] = array("I")

    def extend(self, ids: Sequence[int]) -> list[BlockHash]:
        """Append tokens; returns the hashes of the blocks that became full."""
        self._pending.extend(ids)
        return list(self._full_blocks())

    def _full_blocks(self) -> Iterator[BlockHash]:
        size = self._size
        full = len(self._pending) - len(self._pending) % size
        for start in range(0, full, size):
            self._parent = xxhash.xxh3_128_digest(self._parent + self._pending[start : start + size].tobytes())
            yield int.from_bytes(self._parent[:8], "little")
        del self._pending[:full]
