"""The order in which blocks were used last, kept by whole chains: what a use costs a block is one look in a table.

Floor: `policies`, pure. A use is noted as one run of blocks; nothing is moved. Of several runs that name a block only
the one counts whose number the block has, and the others are passed over when the oldest are looked for, so a run is
out of date without being searched for. Where too much of what is noted is out of date, each new use sweeps some of it
out: never all at once, which for a large cache would stop the event loop for longer than anybody may wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence

# What may be noted for each block that is there before it is swept, and beyond that in any case; and how much is swept
# for as much that is noted anew, so that in all there is never more than a half above that.
_NOTED_PER_BLOCK, _NOTED = 3, 4096
_SWEPT_PER_NOTED = 4
_FEW = 8  # blocks for which calls that do many at once take longer


class Run:
    """One use: of its blocks the first `left` may still be here, and the last of these is the oldest."""

    __slots__ = ("blocks", "left", "number")

    def __init__(self, blocks: Sequence[int], number: int) -> None:
        self.blocks = blocks
        self.left = len(blocks)
        self.number = number


class UseOrder:
    """Blocks from the one that was used longest ago to the newest. `last`: of each the number of its last use, which
    only grows from use to use; read it, and take out by `drop`."""

    __slots__ = ("_noted", "_runs", "_swept", "last")

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self._swept: deque[Run] = deque()  # the older runs, of which the present sweep has left what counts
        self._runs: deque[Run] = deque()  # those after them
        self._noted = 0  # blocks and runs

    def oldest(self) -> list[int]:
        """All, the oldest first."""
        last = self.last
        found = [
            block
            for run in (*self._swept, *self._runs)
            for block in reversed(run.blocks[: run.left])
            if last.get(block) == run.number
        ]
        return found if len(found) == len(last) else list(dict.fromkeys(found))  # twice where hashes collide

    def use(self, blocks: Sequence[int], number: int) -> Run:
        """These are the newest now, the first of them the very newest."""
        if len(blocks) > _FEW:
            self.last.update(dict.fromkeys(blocks, number))
        else:
            for block in blocks:
                self.last[block] = number
        return self._note(blocks, number)

    def over(self, run: Run) -> None:
        """All blocks of this use were used again, or are gone."""
        self._noted -= run.left
        run.blocks, run.left = (), 0

    def drop(self, block: int) -> bool:
        """Whether it was there."""
        return self.last.pop(block, None) is not None

    def shrink(self, most: int, spared: Container[int]) -> list[list[int]]:
        """Takes out the oldest until there are no more than `most`, and returns them: of each run in a piece, the
        oldest first. Those of `spared` are passed over and become the newest; there must be fewer than `most`."""
        last = self.last
        pieces: list[list[int]] = []
        while len(last) > most:
            runs = self._swept or self._runs
            run = runs[0]
            blocks, number, left = run.blocks, run.number, run.left
            gone, passed = list[int](), list[int]()
            while left and len(last) > most:
                left -= 1
                block = blocks[left]
                if last.get(block) != number:
                    continue
                if block in spared:
                    passed.append(block)
                else:
                    del last[block]
                    gone.append(block)
            self._noted -= run.left - left
            run.left = left
            if not left:
                runs.popleft()
                self._noted -= 1
            if gone:
                pieces.append(gone)
            if passed:
                passed.reverse()
                self._note(passed, number)
        return pieces

    def clear(self) -> None:
        """Forgets all."""
        self.last.clear()
        for run in (*self._swept, *self._runs):
            run.blocks, run.left = (), 0
        self._swept.clear()
        self._runs.clear()
        self._noted = 0

    def _note(self, blocks: Sequence[int], number: int) -> Run:
        run = Run(blocks, number)
        self._runs.append(run)
        self._noted += len(blocks) + 1
        if self._noted > _NOTED_PER_BLOCK * len(self.last) + _NOTED:
            self._sweep(_SWEPT_PER_NOTED * (len(blocks) + 1))
        return run

    def _sweep(self, some: int) -> None:
        """Of so many blocks and runs, the next ones, those go that are out of date. Runs stay the same objects, as
        requests under way refer to theirs."""
        last = self.last
        while some > 0 and self._runs:
            run = self._runs.popleft()
            number, left = run.number, run.left
            some -= left + 1
            run.blocks = [block for block in run.blocks[:left] if last.get(block) == number]
            run.left = len(run.blocks)
            self._noted -= left - run.left
            if run.left:
                self._swept.append(run)
            else:
                self._noted -= 1
        if not self._runs:
            self._runs, self._swept = self._swept, self._runs
