"""Which prefix blocks one endpoint probably holds: a copy of what its cache does, bounded like it.

Floor: `policies`, pure. The invariant that everything here rests on: **a block is never older than a block that
follows it in a chain**. A chain is touched tail first, so its head becomes the newest; the oldest goes first, so a
child always leaves before its parent. Hence the present blocks of a chain are a leading run, found by bisection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """A least-recently-used set of blocks with at most `capacity_blocks` of them.

    Undersize it rather than not: a block believed to be cached that is not costs far more than one missed
    (facts/routing.md: an index 20 % too large took goodput from .82 to .22).
    """

    __slots__ = ("_blocks", "_capacity")

    def __init__(self, capacity_blocks: int) -> None:
        # OrderedDict, as a plain dict finds its oldest key in a time that grows with every key taken from the front.
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._capacity = max(0, capacity_blocks)

    @property
    def capacity(self) -> int:
        return self._capacity

    def match(self, blocks: Sequence[int]) -> int:
        """How many leading blocks of this chain are present."""
        present = self._blocks
        if not blocks or blocks[0] not in present:
            return 0
        low, high = 1, len(blocks)  # the first `low` are present; the answer is at most `high`
        while low < high:
            middle = (low + high + 1) // 2
            if blocks[middle - 1] in present:
                low = middle
            else:
                high = middle - 1
        return low

    def touch(self, blocks: Sequence[int]) -> None:
        """Make this chain the newest, from its root on; of one longer than the capacity the head is kept."""
        present = self._blocks
        for block in reversed(blocks[: self._capacity]):
            present[block] = None
            present.move_to_end(block)
        self._evict()

    def resize(self, capacity_blocks: int) -> None:
        """Take a new bound; the oldest go when it is smaller."""
        self._capacity = max(0, capacity_blocks)
        self._evict()

    def clear(self) -> None:
        """Forget everything, as an engine does that restarts or sleeps."""
        self._blocks.clear()

    def __len__(self) -> int:
        return len(self._blocks)

    def _evict(self) -> None:
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
