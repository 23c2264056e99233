"""Answers in memory, the one that was used least recently first to go: bounded by bytes, by number and by age.

Floor: `policies`, pure. What a value is does not matter here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

# Bytes that an entry takes beside its value: its key, its place in the order, the objects around them.
ENTRY_BYTES: Final = 256


class AnswerShelf:
    """Bounds: `size` never exceeds `max_bytes`, and there are never more than `max_entries`. `ttl`: seconds from `put`
    for which `get` finds a value."""

    def __init__(self, max_bytes: int, max_entries: int, ttl: float) -> None:
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.ttl = ttl
        self.size = 0
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> bytes | None:
        """The value, which is the last one to go from now on; None where there is none, or no longer."""
        found = self._entries.get(key)
        if found is None:
            return None
        value, ends = found
        if ends <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: bytes, value: bytes, now: float) -> int | None:
        """How many others had to go before their time; None where it alone is too large, and is not kept."""
        self._drop(key)
        size = len(value) + ENTRY_BYTES
        if size > self.max_bytes:
            return None
        evicted = 0
        while self._entries and (self.size + size > self.max_bytes or len(self._entries) >= self.max_entries):
            oldest = next(iter(self._entries))
            evicted += self._entries[oldest][1] > now
            self._drop(oldest)
        self._entries[key] = value, now + self.ttl
        self.size += size
        return evicted

    def clear(self) -> int:
        """Drops all, and says how many."""
        count = len(self._entries)
        self._entries.clear()
        self.size = 0
        return count

    def _drop(self, key: bytes) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self.size -= len(found[0]) + ENTRY_BYTES
