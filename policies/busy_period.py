"""A stretch in which an engine computed known prefills: how much work, and how long it took.

Floor: `policies`, pure. It begins when something is sent to an engine that has no prefill to do, and ends with the last
of the first tokens: who shared which step does not matter then. Under sustained load there is no such end, and it is
cut between two first tokens when it holds enough work; what one stretch gets too much, the next has too little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.engine_progress import Flight, Marks

# First tokens that come closer together are of one step (seconds).
SAME_STEP = 0.002

# A stretch is cut when it holds this much: two budgets of a step (tokens), as the work of one may be counted on the
# wrong side of a cut; or that many prompts, so that small ones are learned from too.
CUT_TOKENS = 16_384
CUT_PROMPTS = 4


class BusyPeriod:
    """`tokens` and `pairs` (uncached · (cached + uncached/2)): the work. `doubted`: tokens thought to be cached, which
    no engine has confirmed. `moments`: steps that ended with a first token. `cut`: it began with the end of
    another. `decoding`: requests that decoded when it began. `unsettled`: prompts whose answer is still under way.
    `used`: nothing more is to be learned from it, or nothing at all.
    """

    __slots__ = (
        "began", "closed", "cut", "decoding", "doubted", "ended", "moments", "pairs", "prompts", "tokens", "unsettled",
        "used",
    )  # fmt: skip

    def __init__(self, began: Marks, decoding: int, cut: bool = False, used: bool = False) -> None:
        self.began = self.ended = began
        self.decoding = decoding
        self.cut = cut
        self.used = used
        self.tokens = self.doubted = self.prompts = self.moments = self.unsettled = 0
        self.pairs = 0.0
        self.closed = False

    @property
    def seconds(self) -> float:
        return self.ended.at - self.began.at

    @property
    def full(self) -> bool:
        """Holds enough to be cut before the next first token of another step."""
        return self.tokens >= CUT_TOKENS or self.prompts >= CUT_PROMPTS

    def same_step(self, now: float) -> bool:
        """Whether a first token now comes from the step that gave the last one."""
        return now - self.ended.at <= SAME_STEP

    def add(self, uncached: int, cached: int) -> None:
        """This prefill is part of it."""
        self.tokens += uncached
        self.pairs += uncached * (cached + uncached / 2)
        self.doubted += cached

    def first_token(self, flight: Flight, at: Marks) -> None:
        """Another of its prompts is done."""
        if not self.moments or not self.same_step(at.at):
            self.moments += 1
        self.add(flight.uncached, flight.cached)
        self.prompts += 1
        self.unsettled += 1
        self.ended = at
        flight.period = self

    def correct(self, flight: Flight, uncached: int, cached: int) -> None:
        """The engine has told how much of a prompt it had to compute."""
        self.tokens += uncached - flight.uncached
        self.pairs += uncached * (cached + uncached / 2) - flight.uncached * (flight.cached + flight.uncached / 2)
        self.doubted -= flight.cached
