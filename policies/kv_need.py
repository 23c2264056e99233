"""What requests in flight need of an engine's KV cache together, prefixes that they share once.

Floor: `policies`, pure. Blocks are counted, each once, by the index; how many tokens one stands for is every request's
own estimate. So what is charged with one request's estimate must leave with the same, and blocks that outlive who
brought them count with the mean: charging one's and discharging another's would drift for as long as the engine is
never idle.
"""

from __future__ import annotations

from dataclasses import dataclass


class KvCharge:
    """One request's part: its chain in `blocks` of `block_tokens` tokens together; `rest`, the tokens of the prompt
    beyond them and of the expected answer; `answer`, the latter alone."""

    __slots__ = ("answer", "block_tokens", "blocks", "rest")

    def __init__(self, blocks: int, block_tokens: float, rest: float, answer: float) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.rest = rest
        self.answer = answer


@dataclass(slots=True)
class KvNeed:
    """Sums of the charges. `pending`: of the tokens, those of requests that prefill; `answers`: those that are expected
    of the requests that decode."""

    blocks: int = 0
    block_tokens: float = 0.0
    rest: float = 0.0
    pending: float = 0.0
    answers: float = 0.0

    def tokens(self, held: int) -> float:
        """Of all together. `held`: the distinct blocks of their chains."""
        shared = held * self.block_tokens / self.blocks if self.blocks else 0.0
        return max(0.0, self.rest + shared)

    def inside(self, held: int, queued: bool) -> float:
        """What is believed to be in the cache now: of an answer under way half of it on average. Of a prefill half too,
        or nothing where some are `queued`: who knows which."""
        pending = self.pending if queued else self.pending / 2
        return max(0.0, self.tokens(held) - pending - self.answers / 2)

    def add(self, charge: KvCharge, new_tokens: float) -> None:
        """Sent. `new_tokens`: what it adds, without what others held already."""
        self.blocks += charge.blocks
        self.block_tokens += charge.block_tokens
        self.rest += charge.rest
        self.pending += new_tokens

    def prefilled(self, charge: KvCharge, new_tokens: float) -> None:
        """It decodes from now on."""
        self.pending -= new_tokens
        self.answers += charge.answer

    def remove(self, charge: KvCharge, new_tokens: float, *, prefilling: bool) -> None:
        """It has left."""
        self.blocks -= charge.blocks
        self.block_tokens -= charge.block_tokens
        self.rest -= charge.rest
        if prefilling:
            self.pending -= new_tokens
        else:
            self.answers -= charge.answer

    def nothing(self) -> None:
        """Nobody is in flight: what is left is float drift."""
        self.blocks = 0
        self.block_tokens = self.rest = self.pending = self.answers = 0.0
