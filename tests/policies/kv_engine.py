"""An engine's prefix cache as plain as can be: which prefixes have a copy, and the events that tell of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from policies.kv_tree import AllBlocksCleared, BlockRemoved, BlockStored, CacheEvent

Tokens = tuple[int, ...]


class KvEngine:
    """Blocks of `size` tokens, named by all tokens up to their end. Nothing is evicted unless told to."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.copies: Counter[int] = Counter()
        self.events: list[CacheEvent] = []
        self.parents: dict[int, int] = {}

    def names(self, tokens: Tokens) -> list[int]:
        ends = range(self.size, len(tokens) + 1, self.size)
        return [xxh3_64_intdigest(repr(tokens[:end]).encode()) for end in ends]

    def cached(self, tokens: Tokens) -> int:
        """Tokens of the blocks from the first one on that are there."""
        count = 0
        for name in self.names(tokens):
            if not self.copies[name]:
                break
            count += self.size
        return count

    def run(self, session: str | None, tokens: Tokens, *, alone: bool = True, chunk: int = 3) -> int:
        """Computes a prompt and tells what it stored, `chunk` blocks an event; returns the tokens it had cached. Not
        `alone`: beside another of the same prompt, so that nothing was there yet and all is stored once more."""
        names = self.names(tokens)
        had = min(self.cached(tokens), (len(tokens) - 1) // self.size * self.size) if alone else 0
        for start in range(had // self.size, len(names), chunk):
            new = names[start : start + chunk]
            self.copies.update(new)
            self.parents.update(zip(names[1:], names, strict=False))
            parent = names[start - 1] if start else None
            self.events.append(BlockStored(tuple(new), parent, self.size, session))
        return had

    def is_leaf(self, name: int) -> bool:
        """Whether no block that is there follows this one."""
        return not any(parent == name and self.copies[child] for child, parent in self.parents.items())

    def evict(self, number: int) -> None:
        there = sorted(self.copies.elements())
        if there:
            name = there[number % len(there)]
            self.copies[name] -= 1
            self.events.append(BlockRemoved((name,)))

    def clear(self) -> None:
        self.copies.clear()
        self.events.append(AllBlocksCleared())

    def tell(self) -> list[CacheEvent]:
        told, self.events = self.events, []
        return told


def chain_of(tokens: Sequence[int], per_block: int) -> tuple[int, ...]:
    """Our prefix blocks of a prompt whose text has the same length for every token."""
    ends = range(per_block, len(tokens) + 1, per_block)
    return tuple(xxh3_64_intdigest(repr(("ours", tuple(tokens[:end]))).encode()) for end in ends)
