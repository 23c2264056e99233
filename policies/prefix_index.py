"""Which prefix blocks one endpoint probably holds: a copy of what its cache does, bounded like it.

Floor: `policies`, pure. It does what the engine's least-recently-used cache does (facts/routing.md, F): blocks of
requests under way are held and not evicted, they become the newest when their request *ends*, and the answers under way
take room. The invariant that everything here rests on: **a block is never older than a block that follows it in a
chain, unless it is held**. A chain is touched tail first and whole, so its head becomes the newest; the oldest goes
first, so a child leaves before its parent. Hence the present blocks of a chain are a leading run, found by bisection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from itertools import islice
from typing import Protocol

# Of the blocks evicted last so many are remembered, as a share of the capacity: enough to see that an index is too
# small, where engines report blocks as cached that were let go here.
GHOST_SHARE = 0.25


class Scribe(Protocol):
    """Who keeps a journal of an index (`policies.coordination.journal`): told on the hot path, so it only notes."""

    def used(self, blocks: Sequence[int]) -> None:
        """This chain has become the newest."""

    def cut(self, blocks: Sequence[int], left: int) -> None:
        """Of this chain only the first `left` blocks are still there."""

    def dropped(self, blocks: Sequence[int]) -> None:
        """These were forgotten, wherever they stood."""

    def cleared(self) -> None:
        """Everything was forgotten."""


class Watch(Protocol):
    """Who keeps a map of what several indexes have (`policies.holders`): told of every block, at once."""

    def took(self, blocks: Sequence[int]) -> None:
        """These have come."""

    def dropped(self, blocks: Sequence[int]) -> None:
        """These are no longer there."""


class Hold:
    """What a request under way holds.

    `blocks`: its chain, or the head of it that fits. `new`: how many of them nobody held before. `last_use`: the touch
    that had last used the deepest block that was present and unheld; None without one. `evicted`: whether the first
    block that was missing had been present not long ago. `epoch`: clears before it. `matched`: how many were present
    before, `use`: the touch it was made with; they tell what only this request has brought.
    """

    __slots__ = ("blocks", "epoch", "evicted", "last_use", "matched", "new", "output_blocks", "use")

    def __init__(
        self,
        blocks: Sequence[int],
        new: int,
        output_blocks: float,
        last_use: int | None,
        evicted: bool,
        epoch: int,
        matched: int,
        use: int,
    ) -> None:
        self.blocks = blocks
        self.new = new
        self.output_blocks = output_blocks
        self.last_use = last_use
        self.evicted = evicted
        self.epoch = epoch
        self.matched = matched
        self.use = use


class PrefixIndex:
    """A least-recently-used set of blocks with at most `capacity_blocks` of them.

    Undersize it rather than not: a block believed to be cached that is not costs far more than one missed
    (facts/routing.md: an index 20 % too large took goodput from .82 to .22). `version` changes whenever a match could,
    or whatever else predictions for this endpoint are made from. A chain matches nothing whose first block is not in
    `heads`: to look there costs a third of a call.
    """

    __slots__ = (
        "_blocks",
        "_capacity",
        "_crowded",
        "_epoch",
        "_ghosts",
        "_holders",
        "_room",
        "_uses",
        "heads",
        "scribe",
        "version",
        "watch",
    )

    def __init__(self, capacity_blocks: int) -> None:
        # OrderedDict, as a plain dict finds its oldest key in a time that grows with every key taken from the front.
        # The value is the number of the touch that used the block last.
        self._blocks: OrderedDict[int, int] = OrderedDict()
        self.heads: Container[object] = self._blocks
        self._capacity = max(0, capacity_blocks)
        self._ghosts: OrderedDict[int, None] = OrderedDict()  # evicted last
        self._holders: dict[int, int] = {}  # requests under way per block
        self._crowded = False  # more are held than fit, and what nobody holds is out
        self._room = 0.0  # blocks that answers under way are expected to fill
        self._uses = 0
        self._epoch = 0
        self.version = 0
        self.scribe: Scribe | None = None
        self.watch: Watch | None = None

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def estimates(self) -> bool:
        """Whether answers are guesses, which reports may correct."""
        return True

    @property
    def full(self) -> bool:
        """Whether a new block would push an old one out."""
        return len(self._blocks) >= self._capacity - int(self._room)

    @property
    def held(self) -> int:
        """Blocks of requests under way, each counted once."""
        return len(self._holders)

    def observe(self, watch: Watch | None, placed: Watch | None) -> None:
        """From now on `watch` is told of what is here, beginning with what is; `placed`: of what else may match. Who
        was told before learns that it is gone. None: nobody is told."""
        if self.watch is not None:
            self.watch.dropped(self.blocks())
        self.watch = watch
        if watch is not None:
            watch.took(self.blocks())

    def match(self, blocks: Sequence[int]) -> int:
        """How many leading blocks of this chain are present."""
        return _leading_run(blocks, self._blocks)

    def unheld(self, blocks: Sequence[int]) -> int:
        """How many blocks of this chain no request under way holds: what another one would add to what is held."""
        return len(blocks) - _leading_run(blocks, self._holders)

    def touch(self, blocks: Sequence[int]) -> None:
        """Make this chain the newest, from its root on; of one longer than the capacity the head is kept."""
        present = self._blocks
        self._uses += 1
        if self.watch is not None:
            self.watch.took(_missing(blocks[: self._capacity], present))
        for block in reversed(blocks[: self._capacity]):
            present[block] = self._uses
            present.move_to_end(block)
        self._evict()
        if self.scribe is not None:
            self.scribe.used(blocks)

    def hold(self, blocks: Sequence[int], output_blocks: float = 0.0) -> Hold:
        """Touch the chain of a request that was sent, and keep it until `let_go`, with room for its answer."""
        kept = blocks[: self._capacity]
        holders = self._holders
        shared = _leading_run(kept, holders)
        matched = _leading_run(kept, self._blocks)
        last_use = self._blocks[kept[matched - 1]] if matched > shared else None
        evicted = matched < len(kept) and kept[matched] in self._ghosts
        for block in kept[:shared]:
            holders[block] += 1
        holders.update(dict.fromkeys(kept[shared:], 1))
        self._room += output_blocks
        self.touch(kept)
        return Hold(kept, len(kept) - shared, output_blocks, last_use, evicted, self._epoch, matched, self._uses)

    def let_go(self, hold: Hold, *, computed: bool = True) -> int:
        """The request has ended: its blocks become the newest, as the engine frees them only now. Returns how many
        nobody else holds.

        `computed`: false when the engine never got to the end of the prompt: then what only this request has brought
        is dropped. What stays is moved whole, parents behind children, also where others hold it and may never use it.
        """
        if hold.epoch != self._epoch:
            return hold.new  # forgotten meanwhile
        present, holders, freed, lost = self._blocks, self._holders, list[int](), list[int]()
        self._uses += 1
        if computed and self.watch is not None:
            self.watch.took(_missing(hold.blocks, present))
        for place in range(len(hold.blocks) - 1, -1, -1):
            block = hold.blocks[place]
            count = holders.get(block, 0)
            if not count:
                continue  # twice in one chain: hashes that collide must cost a guess, not a leak
            if count > 1:
                holders[block] = count - 1
            else:
                del holders[block]
                freed.append(block)
                if not computed and place >= hold.matched and present.get(block) == hold.use:
                    del present[block]
                    lost.append(block)
            if computed or block in present:
                present[block] = self._uses
                present.move_to_end(block)
        if lost and self.watch is not None:
            self.watch.dropped(lost)
        self._room = max(0.0, self._room - hold.output_blocks) if holders else 0.0
        if len(holders) > self._capacity:
            self._drop(freed)
        self._evict()
        if self.scribe is not None:
            left = len(hold.blocks) if computed else _leading_run(hold.blocks, present)
            if left < len(hold.blocks):
                self.scribe.cut(hold.blocks, left)
            self.scribe.used(hold.blocks[:left])
        return len(freed)

    def resize(self, capacity_blocks: int) -> None:
        """Take a new bound; the oldest go when it is smaller."""
        self._capacity = max(0, capacity_blocks)
        self._evict()

    def forget_unused_since(self, use: int) -> int:
        """Drop what was last used at this touch or before and is not held: the engine is known to have evicted a block
        of that age. Returns how many blocks are left."""
        present, holders = self._blocks, self._holders
        unused = [block for block, last in present.items() if last <= use and block not in holders]
        for block in unused:
            del present[block]
        self.version += 1
        if self.watch is not None:
            self.watch.dropped(unused)
        if self.scribe is not None:
            self.scribe.dropped(unused)
        return len(present)

    def clear(self) -> None:
        """Forget everything, as an engine does that restarts or sleeps."""
        if self.watch is not None:
            self.watch.dropped(self.blocks())
        self._blocks.clear()
        self._ghosts.clear()
        self._holders.clear()
        self._room = 0.0
        self._epoch += 1
        self.version += 1
        if self.scribe is not None:
            self.scribe.cleared()

    def blocks(self) -> list[int]:
        """What is present, the oldest first."""
        return list(self._blocks)

    def restore(self, blocks: Iterable[int]) -> None:
        """Take these for present, the oldest first, in place of what nobody holds; what is held stays, as the newest.
        Tells no scribe."""
        present, holders = self._blocks, self._holders
        held = [(block, use) for block, use in present.items() if block in holders]
        if self.watch is not None:
            self.watch.dropped(self.blocks())
        present.clear()
        present.update((block, 0) for block in blocks if block not in holders)
        present.update(held)
        if self.watch is not None:
            self.watch.took(self.blocks())
        self._evict()

    def __len__(self) -> int:
        return len(self._blocks)

    def _evict(self) -> None:
        """The oldest go that nobody holds; held ones are passed over and become newer. Where more are held than fit
        (the engine's size was underestimated, or it has work in a queue) all go that nobody holds, as they are the
        first to go in the engine too, and then the oldest."""
        self.version += 1
        present, holders = self._blocks, self._holders
        if len(holders) > self._capacity:
            if not self._crowded:
                self._crowded = True
                self._drop([block for block in present if block not in holders])
            self._drop(list(islice(present, max(0, len(present) - self._capacity))))
            return
        self._crowded = False
        bound = max(self._capacity - int(self._room), len(holders))
        evicted = []
        while len(present) > bound:
            block, last = present.popitem(last=False)
            if block in holders:
                present[block] = last
            else:
                evicted.append(block)
        self._remember(evicted)

    def _drop(self, blocks: Iterable[int]) -> None:
        """Take these out and remember them as evicted."""
        present = self._blocks
        self._remember([block for block in blocks if present.pop(block, None) is not None])

    def _remember(self, evicted: Sequence[int]) -> None:
        ghosts = self._ghosts
        for block in evicted:
            ghosts[block] = None
        if self.watch is not None:
            self.watch.dropped(evicted)
        while len(ghosts) > GHOST_SHARE * self._capacity:
            ghosts.popitem(last=False)


def _missing(blocks: Iterable[int], present: Container[int]) -> list[int]:
    return [block for block in blocks if block not in present]


def _leading_run(blocks: Sequence[int], present: Container[int]) -> int:
    """How many leading blocks are present, given that the present ones are a leading run."""
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
