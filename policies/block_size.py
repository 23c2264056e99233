"""How many bytes a prefix block has, so that it stands for about 64 tokens of one model.

Floor: `policies`, pure. One size belongs to one tenant's model and is kept with its `TokenEstimator`.

The trade: the endpoint indexes are bounded in blocks of 64 tokens. A block of more tokens makes them believe in more
cache than an engine has, which costs far more than the opposite (facts/routing.md: an index 20 % too large took goodput
from .82 to .22); so a size is chosen that stands for 64 tokens or somewhat fewer. But another size changes every hash:
all that the indexes hold of this model is then useless until its prompts have been sent once more. So the sizes are
few, a new one must be wanted well beyond the noise, and by many reports in a row.
"""

from __future__ import annotations

from policies.prefix_blocks import BLOCK_BYTES

BLOCK_TOKENS = 64
# Steps of 4:3 and 3:2, for 1 to 12 bytes per token: what no tokenizer leaves (`tokens.py`).
LADDER = (64, 96, 128, 192, 256, 384, 512, 768)
# How far the present size may be off before it is left: 10 % too large, or the next larger one fits with 10 % to spare.
# With the steps above, text must change by a fifth before a size that was left is taken again: 256 is left below 3.6
# bytes per token and comes back at 4.4.
MARGIN = 0.1
# Reports in a row that must want it. The estimate follows its last 20 or so reports, so this is no one burst of odd
# prompts; and no change comes before the estimate itself has settled.
PATIENCE = 50


class BlockSize:
    """The block size of one model, `now`; it follows bytes per token in coarse steps."""

    __slots__ = ("_wanted", "now")

    def __init__(self, now: int = BLOCK_BYTES) -> None:
        self.now = now
        self._wanted = 0

    def follow(self, bytes_per_token: float) -> None:
        """Tell of the estimate after each report of an engine."""
        self._wanted = self._wanted + 1 if self._misfit(bytes_per_token) else 0
        if self._wanted >= PATIENCE:
            self.now, self._wanted = fitting(bytes_per_token), 0

    def _misfit(self, bytes_per_token: float) -> bool:
        ideal = BLOCK_TOKENS * bytes_per_token
        if self.now > ideal * (1 + MARGIN):
            return self.now > LADDER[0]
        return fitting(bytes_per_token * (1 - MARGIN)) > self.now


def fitting(bytes_per_token: float) -> int:
    """The largest size of at most 64 tokens."""
    ideal = BLOCK_TOKENS * bytes_per_token
    return max((size for size in LADDER if size <= ideal), default=LADDER[0])
