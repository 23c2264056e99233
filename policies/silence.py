"""For how much longer than it should an endpoint has said nothing: the engine that is healthy and does not answer.

Floor: `policies`, pure. `/health` says that a process answers, not that its engine computes (vLLM's stays 200 when it
hangs, facts/vllm.md), and a connection may stay open and silent for minutes. Two answers to that:

- What is predicted of an endpoint becomes less believable with every second that it owes a sign of life: such seconds
  are added to what sending there costs (`overdue`), so what could go elsewhere does. They close nothing: where all are
  late nobody is held back for it, as a prediction may be what is wrong.
- An engine that is silent for longer than it was ever seen to be is suspected (`suspicious`). That too closes nothing:
  it is worth a canary, and only what becomes of that tells a hung engine from one with much to do. Both together are to
  take no longer than twice the p99 of its first tokens and a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from policies.spread import Spread

# What was predicted to take so many seconds may take that much longer: rates that are still to be learned are off by
# more, answers in one piece are often twice as long as expected, and who has got no first token for two seconds only
# loses a little affinity by going elsewhere.
PATIENCE = 2.0
GRACE_SECONDS = 2.0

# The first token's time that is reckoned with until so many have been seen; it shrinks with each. A server that has
# just started compiles and captures graphs in its first requests, and takes seconds for them: after so many answers it
# has, and what the first tokens of the pool's other endpoints take is the better guess.
PRIOR_SECONDS = 5.0
ENOUGH = 20
WARMED_UP = 3

# Beyond the p99 before an engine is suspected, and at least: shorter stalls are those of a busy machine. Then what a
# canary gets beyond the p99. Together with the watcher's looks (a tenth of a second) they stay a quarter below the
# second that twice the p99 may be exceeded by, as the gateway itself may be late.
SUSPECT_MARGIN = 0.1
LEAST_QUIET = 0.25
CANARY_MARGIN = 0.4

# Streams under way that are silent so many times longer than they ever were between two pieces (p99).
BETWEEN_PIECES = 2.0

# An engine that has answered a canary is not asked again for so long: it may be silent for a good reason, such as a
# tool call whose text is held back until it is whole. One that hangs from then on is still to be found in time.
TRUST_SECONDS = 0.3


class Owed(NamedTuple):
    """A sign of life that is to come. `first`: it will be the first token; else the end of an answer in one piece."""

    sent: float
    seconds: float
    first: bool


class Silence:
    """Of one endpoint. Keys are the caller's; unknown ones do nothing. Times never fall.

    `fellows`: of the pool's endpoints, which serve the same model (`introduce`).
    """

    __slots__ = ("_alive_at", "_due", "_heard_at", "_spoke_at", "_trusted_until", "fellows", "firsts", "gaps", "wholes")

    def __init__(self) -> None:
        self._due: dict[int, Owed] = {}
        self._heard_at = 0.0  # a first token or an end, or when something became owed
        self._spoke_at = 0.0  # a first token, an end or a piece of a stream
        self._alive_at = 0.0  # any sign that the engine computes
        self._trusted_until = 0.0
        self.firsts = Spread()  # from dispatch to first token
        self.wholes = Spread()  # from dispatch to the end of an answer in one piece
        self.gaps = Spread()  # between two signs while streams were under way
        self.fellows: Sequence[Silence] = ()

    def __len__(self) -> int:
        """Requests that owe a sign."""
        return len(self._due)

    @property
    def first_token_seconds(self) -> float:
        """The p99 of the time to a first token, as learned; until that is known, what is reckoned with."""
        known = self.firsts.quantile(0.99)
        return known if self.firsts.seen >= ENOUGH else max(known, self._guess())

    def _guess(self) -> float:
        """What a first token may take where few have been seen: no longer than any of these says."""
        guesses = [PRIOR_SECONDS * (1 - self.firsts.seen / ENOUGH)]
        if self.wholes.seen >= ENOUGH:
            guesses.append(self.wholes.quantile(0.99))  # a first token nobody saw came before the end
        if self.firsts.seen + self.wholes.seen >= WARMED_UP:
            theirs = [
                one.firsts.quantile(0.99) for one in self.fellows if one is not self and one.firsts.seen >= ENOUGH
            ]
            guesses += [max(theirs)] if theirs else []
        return min(guesses)

    def expects(self, key: int, seconds: float, now: float, *, first: bool = True) -> None:
        """Something was sent: its first token, or its end where that is all that shows, is predicted in `seconds`."""
        if not self._due:
            self._heard_at = now  # nothing was owed until now
        self._due[key] = Owed(now, seconds, first)

    def heard(self, key: int, now: float) -> None:
        """A sign came, by this request."""
        owed = self._due.pop(key, None)
        self._heard_at = self._spoke_at = self._alive_at = now
        if owed is not None:
            (self.firsts if owed.first else self.wholes).learn(now - owed.sent)

    def left(self, key: int) -> None:
        """It owes nothing any more, and nothing is known."""
        self._due.pop(key, None)

    def spoke(self, at: float) -> None:
        """A further piece of a stream came at this time."""
        if at > self._spoke_at:
            if self._spoke_at:
                self.gaps.learn(at - self._spoke_at)
            self._spoke_at = at
            self._alive_at = max(self._alive_at, at)

    def alive(self, now: float) -> None:
        """The engine has shown that it computes, by a canary or its figures."""
        self._alive_at = now
        self._trusted_until = now + TRUST_SECONDS

    def alive_since(self, then: float) -> bool:
        """Whether there has been a sign after this time."""
        return self._alive_at > then

    def forget(self) -> None:
        """Another engine process answers here: how fast it is has to be seen."""
        self.firsts, self.wholes, self.gaps = Spread(), Spread(), Spread()

    def overdue(self, now: float) -> float:
        """Seconds since which something should have been heard; 0 while all is as it should be."""
        quiet = now - self._heard_at - GRACE_SECONDS
        if quiet <= 0 or not self._due:
            return 0.0
        due = min([owed.sent + PATIENCE * owed.seconds for owed in self._due.values()]) + GRACE_SECONDS
        return max(0.0, min(quiet, now - due))

    def suspicious(self, now: float, streams: bool) -> bool:
        """Whether nothing at all has come for longer than the engine was ever seen to be silent.

        `streams`: answers are under way whose next piece could come at any time.
        """
        quiet = now - self._alive_at
        if quiet < LEAST_QUIET or now < self._trusted_until:
            return False
        first = self.first_token_seconds
        if streams and quiet >= self._between(first):
            return True
        if min(quiet, now - self._heard_at) < max(LEAST_QUIET, first + SUSPECT_MARGIN):
            return False
        whole = self.wholes.quantile(0.99) if self.wholes.seen >= ENOUGH else None
        return any(now >= _bound(owed, first, whole) for owed in self._due.values())

    def canary_seconds(self, pending: float, now: float) -> float:
        """What a canary may take. `pending`: the predicted prefill of what was sent before it (seconds): it waits in
        the engine like everybody else, but not for what must have been done since the last sign."""
        quiet = now - max(self._alive_at, self._heard_at)
        return max(self.first_token_seconds, pending - quiet) + CANARY_MARGIN

    def _between(self, first: float) -> float:
        """Silence of streams under way that is longer than any seen: prefills of others hold decodes up, but hardly
        for longer than their own first tokens take."""
        usual = BETWEEN_PIECES * self.gaps.quantile(0.99) if self.gaps.seen >= ENOUGH else first
        return max(LEAST_QUIET, min(usual, first) + SUSPECT_MARGIN)


def introduce(pool: Sequence[Silence]) -> None:
    """These are of one pool: what one has learned is a guess for another of which little is known."""
    fellows = pool if len(pool) > 1 else []  # itself among them: a list for each would grow with their number's square
    for one in pool:
        one.fellows = fellows


def _bound(owed: Owed, first: float, whole: float | None) -> float:
    """When it is later than any that was seen, and than was predicted of it."""
    if owed.first:
        return owed.sent + max(first, owed.seconds) + SUSPECT_MARGIN
    if whole is not None:
        return owed.sent + max(whole, owed.seconds) + SUSPECT_MARGIN
    return owed.sent + max(first, PATIENCE * owed.seconds + GRACE_SECONDS)
