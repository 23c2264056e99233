"""Where our prefix blocks lie among an engine's blocks: what joins hashes over text with hashes over tokens.

Floor: `policies`, pure. A block's place is its end in tokens, and the engine block up to there. Both names are made of
content, so a place stays true for as long as the engine's process lives, whether the block is in the cache or not.
What it errs by: ends are exact where prompts ended that were sent, and in even steps between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from policies.kv_tree import Hash, KvTree
from policies.prefix_index import Watch


class Place(NamedTuple):
    """Where a block of ours ends, in tokens from the prompt's beginning, and the last engine block that lies wholly
    before that (None: there is none). `exact`: by the engine's count of a prompt, not by an estimate."""

    end: int
    block: Hash | None
    exact: bool


@dataclass(slots=True, eq=False)
class Sent:
    """A request that was sent. `tokens` are the engine's count if `exact`, else they are the `estimate` at dispatch.

    What its events have told: `tail`, the deepest engine block of its prompt; `root`, the first one; `parent`, what its
    first new block follows where nobody had told of that; `stored`, tokens; `foreign`: of other prompts too.
    """

    blocks: Sequence[int]
    tokens: int
    estimate: int
    tokens_per_block: float
    exact: bool = False
    tail: Hash | None = None
    parent: Hash | None = None
    root: Hash | None = None
    stored: int = 0
    foreign: bool = False


class Places:
    """The places of at most `limit` blocks; those go first whose chain was sent longest ago, ends before beginnings."""

    __slots__ = ("_places", "_tree", "limit", "watch")

    def __init__(self, tree: KvTree, limit: int) -> None:
        self._tree = tree
        self._places: OrderedDict[int, Place] = OrderedDict()
        self.limit = limit
        self.watch: Watch | None = None

    def __len__(self) -> int:
        return len(self._places)

    def clear(self) -> None:
        if self.watch is not None:
            self.watch.dropped(list(self._places))
        self._places.clear()

    def observe(self, watch: Watch | None) -> None:
        """As `PrefixIndex.observe`, of the blocks that have a place."""
        if self.watch is not None:
            self.watch.dropped(list(self._places))
        self.watch = watch
        if watch is not None:
            watch.took(list(self._places))

    def cached(self, blocks: Sequence[int]) -> tuple[int, int]:
        """How many leading blocks of this chain the engine holds to their last token, and how many of its tokens it
        holds in whole engine blocks."""
        count, size = self._reached(blocks), self._tree.block_size
        if not count or not size:
            return 0, 0
        tokens = self._places[blocks[count - 1]].end // size * size
        while count and self._places[blocks[count - 1]].end > tokens:
            count -= 1
        return count, tokens

    def root(self, blocks: Sequence[int]) -> Hash | None:
        """The engine block that this chain begins with, where that is known."""
        place = self._places.get(blocks[0])
        above = self._tree.upwards(place.block) if place is not None else ()
        return next((block for block, depth in above if depth == 1), None)

    def put(self, sent: Sent) -> None:
        """Say for each block of the request where it lies: from the chain's end backwards, until a block is met that
        was placed before and is still right."""
        size, path = self._tree.block_size, self._tree.upwards(sent.tail)
        here = next(path, None)
        if here is None:
            return
        known = self._exact(sent.blocks)
        for number, end in self._ends(sent, known):
            depth = end // size
            while here[1] > depth and (above := next(path, None)) is not None:
                here = above  # where the path breaks off, the first block that is known stands for all before it
            if depth > here[1]:
                continue  # the engine has not told that far
            block, place = here[0] if depth else None, self._places.get(sent.blocks[number])
            if number < known and place is not None and place.block == block:
                break
            if sent.exact or place is None or not place.exact:
                self._places[sent.blocks[number]] = Place(end, block, sent.exact)
        if self.watch is not None:
            self.watch.took([block for block in sent.blocks if block in self._places])
        self._refresh(sent.blocks)

    def _reached(self, blocks: Sequence[int]) -> int:
        """How many leading blocks end behind engine blocks that are all there, by bisection."""
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high + 1) // 2
            if self._covered(blocks[middle - 1]):
                low = middle
            else:
                high = middle - 1
        while low and self._places[blocks[low - 1]].block is None:
            low -= 1  # ends within the first engine block: nothing says that it is there
        return low

    def _covered(self, block: int) -> bool:
        place = self._places.get(block)
        return place is not None and (place.block is None or self._tree.rooted(place.block))

    def _exact(self, blocks: Sequence[int]) -> int:
        """How many leading blocks have an exact place."""
        count = len(blocks)
        while count and not ((place := self._places.get(blocks[count - 1])) and place.exact):
            count -= 1
        return count

    def _ends(self, sent: Sent, known: int) -> Iterator[tuple[int, int]]:
        """Number and end of each block, the last first: placed ones as they are, those after them in even steps."""
        count = len(sent.blocks)
        last = sent.tokens * min(1.0, count * sent.tokens_per_block / sent.estimate)
        base = self._places[sent.blocks[known - 1]].end if known else 0
        step = max(0.0, last - base) / max(1, count - known)
        for number in range(count - 1, known - 1, -1):
            yield number, round(base + step * (number + 1 - known))
        for number in range(known - 1, -1, -1):
            place = self._places.get(sent.blocks[number])
            if place is not None:
                yield number, place.end

    def _refresh(self, blocks: Sequence[int]) -> None:
        places = self._places
        for block in reversed(blocks):
            if block in places:
                places.move_to_end(block)
        gone = []
        while len(places) > self.limit:
            gone.append(places.popitem(last=False)[0])
        if self.watch is not None:
            self.watch.dropped(gone)
