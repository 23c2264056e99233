"""Which endpoints of a pool hold a prefix block: one map over all of their indexes.

Floor: `policies`, pure. Kept up as each index takes and drops blocks (`PrefixIndex.watch`), so the map is never larger
than all indexes together, and who holds the most of a prompt is found without asking each endpoint. What an index has
of a chain is a leading run, so what any of them has is one too, and the deeper a block the fewer hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

Holder = TypeVar("Holder")


class Holders(Generic[Holder]):
    """Of an index each; a holder is anything that is itself and no dict."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        # Most blocks are at one endpoint: a collection for each would cost more than all indexes.
        self._held: dict[int, Holder | dict[Holder, None]] = {}

    def __len__(self) -> int:
        """Blocks that are somewhere."""
        return len(self._held)

    def took(self, holder: Holder, blocks: Sequence[int]) -> None:
        """It holds these from now on."""
        held = self._held
        for block in blocks:
            known = held.get(block)
            if known is None:
                held[block] = holder
            elif isinstance(known, dict):
                known[holder] = None
            elif known is not holder:
                held[block] = {known: None, holder: None}

    def dropped(self, holder: Holder, blocks: Sequence[int]) -> None:
        """It holds these no longer."""
        held = self._held
        for block in blocks:
            known = held.get(block)
            if known is holder:
                del held[block]
            elif isinstance(known, dict):
                known.pop(holder, None)
                if len(known) == 1:
                    (held[block],) = known

    def depth(self, blocks: Sequence[int], most: int) -> int:
        """From which block of this chain on at most `most` hold it; its length where more hold all of it."""
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high) // 2
            known = self._held.get(blocks[middle])
            if (0 if known is None else len(known) if isinstance(known, dict) else 1) > most:
                low = middle + 1
            else:
                high = middle
        return low

    def of(self, block: int) -> list[Holder]:
        """Those that hold it."""
        known = self._held.get(block)
        return [] if known is None else list(known) if isinstance(known, dict) else [known]


class Watched(Generic[Holder]):
    """One index of the map (`policies.prefix_index.Watch`)."""

    __slots__ = ("_holder", "_holders")

    def __init__(self, holders: Holders[Holder], holder: Holder) -> None:
        self._holders = holders
        self._holder = holder

    def took(self, blocks: Sequence[int]) -> None:
        self._holders.took(self._holder, blocks)

    def dropped(self, blocks: Sequence[int]) -> None:
        self._holders.dropped(self._holder, blocks)
