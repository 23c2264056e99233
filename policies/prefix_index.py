"""Which prefix blocks one endpoint probably holds: a copy of what its cache does, bounded like it.

Floor: `policies`, pure. It does what the engine's least-recently-used cache does (facts/routing.md, F): blocks of
requests under way are held and not evicted, they become the newest when their request *ends*, and the answers under way
take room. The invariant that everything here rests on: **a block is never older than a block that follows it in a
chain, unless it is held**. A chain is touched tail first, so its head becomes the newest; the oldest goes first, so a
child leaves before its parent. Hence the present blocks of a chain are a leading run, found by bisection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """A least-recently-used set of blocks with at most `capacity_blocks` of them.

    Undersize it rather than not: a block believed to be cached that is not costs far more than one missed
    (facts/routing.md: an index 20 % too large took goodput from .82 to .22).
    """

    __slots__ = ("_blocks", "_capacity", "_holders", "_room")

    def __init__(self, capacity_blocks: int) -> None:
        # OrderedDict, as a plain dict finds its oldest key in a time that grows with every key taken from the front.
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._capacity = max(0, capacity_blocks)
        self._holders: dict[int, int] = {}  # requests under way per block
        self._room = 0.0  # blocks that answers under way are expected to fill

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def held(self) -> int:
        """Blocks of requests under way, each counted once."""
        return len(self._holders)

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

    def hold(self, blocks: Sequence[int], output_blocks: float = 0.0) -> Sequence[int]:
        """Touch the chain of a request that was sent, and keep it until `let_go`, with room for its answer.

        Returns what `let_go` must be given: the part of the chain that is held.
        """
        kept = blocks[: self._capacity]
        present, holders = self._blocks, self._holders
        for block in reversed(kept):
            holders[block] = holders.get(block, 0) + 1
            present[block] = None
            present.move_to_end(block)
        self._room += output_blocks
        self._evict()
        return kept

    def let_go(self, kept: Sequence[int], output_blocks: float = 0.0, *, computed: bool = True) -> None:
        """The request has ended: what nobody else holds becomes the newest, as the engine frees it only now.

        `computed`: false when the engine never got to the end of the prompt; then nothing is refreshed.
        """
        present, holders = self._blocks, self._holders
        for block in reversed(kept):
            count = holders.get(block)
            if count is None:
                continue  # forgotten meanwhile
            if count > 1:
                holders[block] = count - 1
                continue
            del holders[block]
            if computed:
                present[block] = None
                present.move_to_end(block)
        self._room = max(0.0, self._room - output_blocks) if holders else 0.0
        self._evict()

    def resize(self, capacity_blocks: int) -> None:
        """Take a new bound; the oldest go when it is smaller."""
        self._capacity = max(0, capacity_blocks)
        self._evict()

    def clear(self) -> None:
        """Forget everything, as an engine does that restarts or sleeps."""
        self._blocks.clear()
        self._holders.clear()
        self._room = 0.0

    def __len__(self) -> int:
        return len(self._blocks)

    def _evict(self) -> None:
        """The oldest go that nobody holds; held ones are passed over and become newer. Where more are held than fit
        (the engine's size, or its blocks, were overestimated) the oldest go, held or not."""
        present, holders = self._blocks, self._holders
        if len(holders) > self._capacity:
            while len(present) > self._capacity:
                present.popitem(last=False)
            return
        bound = max(self._capacity - int(self._room), len(holders))
        while len(present) > bound:
            block, _ = present.popitem(last=False)
            if block in holders:
                present[block] = None
