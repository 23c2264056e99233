"""What one engine's KV cache holds, block by engine block, as its events tell it.

Floor: `policies`, pure. An engine's block is named by a hash that is chained to its parent's, so a block stands for all
tokens up to and including its own. Blocks are counted: engines keep two copies of a block that two requests computed
side by side, and tell the removal of each. Only whole-prefix attention in the engine's own memory is looked at: one
group of layers (sliding windows and states keep other blocks, and a hit needs the whole prefix anyway), medium GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

Hash: TypeAlias = int | bytes

# Groups of layers that need every block of a prefix, as vLLM names them. Engines that name no kind have this one.
_WHOLE_PREFIX = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})


@dataclass(frozen=True, slots=True)
class BlockStored:
    """Blocks that a request has filled, each the child of the one before it, the first of `parent` (None: the root).

    `session`: the id that came with the request. `medium`: GPU, CPU, ...; None is GPU. `remote`: not on this engine.
    """

    hashes: tuple[Hash, ...]
    parent: Hash | None
    block_size: int
    session: str | None = None
    medium: str | None = None
    group: int | None = None
    kind: str | None = None
    remote: bool = False


@dataclass(frozen=True, slots=True)
class BlockRemoved:
    """One copy of each of these blocks is gone."""

    hashes: tuple[Hash, ...]
    medium: str | None = None
    group: int | None = None
    remote: bool = False


@dataclass(frozen=True, slots=True)
class AllBlocksCleared:
    """The cache is empty."""


CacheEvent: TypeAlias = BlockStored | BlockRemoved | AllBlocksCleared


@dataclass(slots=True, eq=False)
class _Node:
    """`depth`: blocks from the root to this one, itself included; 0 while unknown. `rooted`: all of them are there."""

    parent: Hash | None
    depth: int
    rooted: bool
    copies: int = 1
    children: dict[Hash, None] = field(default_factory=dict)


class KvTree:
    """The blocks of one engine process, at most `limit` copies of them (0: no bound yet).

    A block whose parent was never seen has no depth, and is no hit: it is kept, to be placed when the parent is.
    """

    __slots__ = ("_copies", "_group", "_nodes", "_orphans", "block_size", "limit")

    def __init__(self) -> None:
        self.limit = 0
        self.clear()

    def clear(self) -> None:
        """Forget every block, and how long blocks are."""
        self._nodes: OrderedDict[Hash, _Node] = OrderedDict()
        self._orphans: dict[Hash, dict[Hash, None]] = {}  # children of blocks that are not there
        self._copies = 0
        self._group: int | None = None
        self.block_size = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def rooted(self, block: Hash) -> bool:
        """Whether this block and all before it are there: what a request that begins with them would find."""
        node = self._nodes.get(block)
        return node is not None and node.rooted

    def depth(self, block: Hash) -> int:
        """Blocks from the root to this one, itself included; 0 when it is not there or its place is unknown."""
        node = self._nodes.get(block)
        return node.depth if node is not None else 0

    def upwards(self, block: Hash | None) -> Iterator[tuple[Hash, int]]:
        """This block and those before it with their depths, as far as they are there and their place is known."""
        while block is not None and (node := self._nodes.get(block)) is not None and node.depth:
            yield block, node.depth
            block = node.parent

    def store(self, event: BlockStored) -> bool:
        """Take in new blocks. False when they are none of those that are looked at."""
        if not self._concerns(event.medium, event.group, event.remote) or event.kind not in _WHOLE_PREFIX:
            return False
        if not event.hashes or event.block_size <= 0 or self.block_size not in (0, event.block_size):
            return False  # another size is a part of a block, made reachable early
        self.block_size, self._group = event.block_size, event.group
        parent = event.parent
        for block in event.hashes:
            self._add(block, parent)
            parent = block
        self._trim()
        return True

    def remove(self, event: BlockRemoved) -> None:
        """Take away one copy of each; unknown ones are passed over."""
        if not self._concerns(event.medium, event.group, event.remote):
            return
        for block in event.hashes:
            node = self._nodes.get(block)
            if node is None:
                continue
            self._copies -= 1
            node.copies -= 1
            if not node.copies:
                self._drop(block, node)

    def adopt(self, block: Hash, depth: int) -> None:
        """A request has used this block at this depth, so it was there, and all before it: what no event had told.

        What comes before it stays unseen. Engines evict a chain from its end, so while this block is there, they are.
        """
        node = self._nodes.get(block)
        if node is None:
            node = self._nodes[block] = _Node(None, 0, False, children=self._orphans.pop(block, {}))
            self._copies += 1
        elif node.rooted:
            return
        node.depth, node.rooted = node.depth or depth, True
        self._spread(block, node)

    def _concerns(self, medium: str | None, group: int | None, remote: bool) -> bool:
        if remote or (medium is not None and medium.upper() != "GPU"):
            return False
        # The first group that needs whole prefixes is the one; a removal that names none may be of it.
        return not self.block_size or group is None or group == self._group

    def _add(self, block: Hash, parent: Hash | None) -> None:
        self._copies += 1
        node = self._nodes.get(block)
        if node is not None:
            node.copies += 1
            return
        above = self._nodes.get(parent) if parent is not None else None
        if parent is None:
            node = _Node(None, 1, True)
        elif above is None:
            node = _Node(parent, 0, False)
            self._orphans.setdefault(parent, {})[block] = None
        else:
            node = _Node(parent, above.depth + 1 if above.depth else 0, above.rooted)
            above.children[block] = None
        node.children = self._orphans.pop(block, {})
        self._nodes[block] = node
        if node.children:
            self._spread(block, node)

    def _drop(self, block: Hash, node: _Node) -> None:
        del self._nodes[block]
        if node.parent is not None:
            above = self._nodes.get(node.parent)
            siblings = above.children if above is not None else self._orphans.get(node.parent, {})
            siblings.pop(block, None)
            if above is None and not siblings:
                self._orphans.pop(node.parent, None)
        if node.children:
            self._orphans[block] = node.children
            node.rooted = False
            self._spread(block, node)

    def _spread(self, block: Hash, node: _Node) -> None:
        """Tell all below a block what has become of it. A depth once known stays true: it is part of the content."""
        below = [node]
        while below:
            node = below.pop()
            for child in node.children:
                known = self._nodes[child]
                depth = node.depth + 1 if node.depth else known.depth
                if (known.rooted, known.depth) != (node.rooted, depth):
                    known.rooted, known.depth = node.rooted, depth
                    below.append(known)

    def _trim(self) -> None:
        """More copies than the engine has room for: removals were missed, most likely of the oldest."""
        while self.limit and self._copies > self.limit:
            block, node = next(iter(self._nodes.items()))
            self._copies -= node.copies
            self._drop(block, node)
