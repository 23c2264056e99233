"""Which prefix blocks one endpoint probably holds: a copy of what its cache does, bounded like it.

Floor: `policies`, pure. It does what the engine's least-recently-used cache does (facts/routing.md, F): blocks of
requests under way are held and not evicted, they become the newest when their request *ends*, and the answers under way
take room. The invariant that everything here rests on: **a block is never older than a block that follows it in a
chain, unless it is held**. A chain is touched tail first and whole, so its head becomes the newest; the oldest goes
first, so a child leaves before its parent. Hence the present blocks of a chain are a leading run, found by bisection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from policies.use_order import Run, UseOrder

# So many of the blocks evicted last are remembered, as a share of the capacity: enough to see that an index is too
# small, where engines report blocks as cached that were let go here. Of what a chain has lost at once the foremost
# block stands for all, as the others are asked for behind it.
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
        use: Run,
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
        "_lost",
        "_lost_blocks",
        "_order",
        "_room",
        "_uses",
        "heads",
        "scribe",
        "version",
        "watch",
    )

    def __init__(self, capacity_blocks: int) -> None:
        self._order = UseOrder()
        self._blocks = self._order.last  # to look at: a block, and the number of the touch that used it last
        self.heads: Container[object] = self._blocks
        self._capacity = max(0, capacity_blocks)
        self._ghosts: set[int] = set()  # evicted last
        self._lost: deque[tuple[int, int]] = deque()  # the same in order, and for how many each stands
        self._lost_blocks = 0
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

    def touch(self, blocks: Sequence[int]) -> Run:
        """Make this chain the newest, from its root on; of one longer than the capacity the head is kept."""
        kept = blocks[: self._capacity]
        self._uses += 1
        if self.watch is not None:
            self.watch.took(_missing(kept, self._blocks))
        run = self._order.use(kept, self._uses)
        self._evict()
        if self.scribe is not None:
            self.scribe.used(blocks)
        return run

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
        use = self.touch(kept)
        return Hold(kept, len(kept) - shared, output_blocks, last_use, evicted, self._epoch, matched, use)

    def let_go(self, hold: Hold, *, computed: bool = True) -> int:
        """The request has ended: its blocks become the newest, as the engine frees them only now. Returns how many
        nobody else holds.

        `computed`: false when the engine never got to the end of the prompt: then what only this request has brought
        is dropped. What stays is moved whole, parents behind children, also where others hold it and may never use it.
        """
        if hold.epoch != self._epoch:
            return hold.new  # forgotten meanwhile
        blocks, holders, present = hold.blocks, self._holders, self._blocks
        freed = _let_go(blocks, holders)
        self._uses += 1
        if computed:
            if self.watch is not None:
                self.watch.took(_missing(blocks, present))
        else:
            self._drop_brought(hold, freed)
            blocks = [block for block in blocks if block in present]
        self._order.over(hold.use)
        self._order.use(blocks, self._uses)
        self._room = max(0.0, self._room - hold.output_blocks) if holders else 0.0
        if len(holders) > self._capacity:
            gone = [block for block in freed if self._order.drop(block)]
            self._forgotten([gone] if gone else [])
        self._evict()
        if self.scribe is not None:
            left = len(hold.blocks) if computed else _leading_run(hold.blocks, present)
            if left < len(hold.blocks):
                self.scribe.cut(hold.blocks, left)
            self.scribe.used(hold.blocks[:left])
        return len(freed)

    def _drop_brought(self, hold: Hold, freed: Sequence[int]) -> None:
        """What only this request has brought, and nobody has used or holds since."""
        brought, present, number = frozenset(hold.blocks[hold.matched :]), self._blocks, hold.use.number
        lost = [block for block in freed if block in brought and present.get(block) == number]
        for block in lost:
            self._order.drop(block)
        if lost and self.watch is not None:
            self.watch.dropped(lost)

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
            self._order.drop(block)
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
        self._order.clear()
        self._ghosts.clear()
        self._lost.clear()
        self._lost_blocks = 0
        self._holders.clear()
        self._room = 0.0
        self._epoch += 1
        self.version += 1
        if self.scribe is not None:
            self.scribe.cleared()

    def blocks(self) -> list[int]:
        """What is present, the oldest first."""
        return self._order.oldest()

    def restore(self, blocks: Iterable[int]) -> None:
        """Take these for present, the oldest first, in place of what nobody holds; what is held stays, as the newest.
        Tells no scribe."""
        present, holders = self._blocks, self._holders
        held = [(present[block], block) for block in self._order.oldest() if block in holders]
        if self.watch is not None:
            self.watch.dropped(self.blocks())
        self._order.clear()
        self._order.use([block for block in blocks if block not in holders][::-1], 0)
        for number, some in groupby(held, key=itemgetter(0)):
            self._order.use([block for _, block in some][::-1], number)
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
        holders = self._holders
        if len(holders) > self._capacity:
            if not self._crowded:
                self._crowded = True
                unheld = [block for block in self._order.oldest() if block not in holders]
                self._forgotten([[block] for block in unheld if self._order.drop(block)])
            self._forgotten(self._order.shrink(self._capacity, ()))
            return
        self._crowded = False
        most = max(self._capacity - int(self._room), len(holders))
        if len(self._blocks) > most:
            self._forgotten(self._order.shrink(most, holders))

    def _forgotten(self, pieces: Sequence[Sequence[int]]) -> None:
        """These were evicted: of each chain a piece, the foremost block last."""
        ghosts, lost, most = self._ghosts, self._lost, int(GHOST_SHARE * self._capacity)
        for piece in pieces:
            if self.watch is not None:
                self.watch.dropped(piece)
            if piece[-1] not in ghosts:
                size = min(len(piece), most)
                ghosts.add(piece[-1])
                lost.append((piece[-1], size))
                self._lost_blocks += size
        while lost and (self._lost_blocks > most or not most):
            block, size = lost.popleft()
            ghosts.discard(block)
            self._lost_blocks -= size


def _let_go(blocks: Sequence[int], holders: dict[int, int]) -> list[int]:
    """One request fewer holds these; those that nobody holds any more, the deepest first. Twice in one chain, as where
    hashes collide, costs a guess and no leak."""
    # Whoever holds a block holds those before it: from some place on it is this request alone.
    alone = bisect_left(blocks, True, key=lambda block: holders.get(block, 0) <= 1)
    freed = [block for block in reversed(blocks[alone:]) if holders.pop(block, 0)]
    for block in reversed(blocks[:alone]):
        count = holders.get(block, 0)
        if count > 1:
            holders[block] = count - 1
        elif count:
            del holders[block]
            freed.append(block)
    return freed


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
