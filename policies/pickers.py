"""From costs to a ranking.

Floor: `policies`, pure. Every picker returns all candidates, so that the next in line serves failover.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, itemgetter
from random import Random

from xxhash import xxh3_64_intdigest

from policies.decision import Candidate
from policies.types import InferenceRequest

# A round robin remembers a credit per endpoint name; names come from the configuration, and this bounds what reloads
# with ever new names could leave behind.
MAX_CREDITS = 4096


class LowestCost:
    """The lowest cost first. Costs within `tie_seconds` of the best are equal, and then the prefix decides.

    The tie goes by rendezvous hash of the second block's chained id (facts/routing.md): an idle fleet sends one prefix
    to one endpoint without anyone remembering it, and the first block is too often the system prompt that all share.
    """

    def __init__(self, tie_seconds: float = 0.001) -> None:
        self._tie = tie_seconds

    def pick(self, request: InferenceRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        ranked = sorted(candidates, key=_cost)
        bound = ranked[0].cost + self._tie
        ties = 1
        while ties < len(ranked) and ranked[ties].cost <= bound:
            ties += 1
        if ties > 1:
            seed = _affinity_key(request)
            ranked[:ties] = sorted(
                ranked[:ties], key=lambda one: xxh3_64_intdigest(one.state.endpoint.name.encode(), seed)
            )
        return ranked


class RoundRobin:
    """Each in turn, as often as its weight says, evenly spread (not weight times in a row).

    At every pick each candidate earns its weight, the richest goes and pays what all earned together.
    """

    def __init__(self) -> None:
        self._credits: dict[str, float] = {}

    def pick(self, request: InferenceRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        credits = self._credits
        if len(credits) > MAX_CREDITS:
            credits.clear()
        earned = 0.0
        purses: list[tuple[float, Candidate]] = []
        for candidate in candidates:
            endpoint = candidate.state.endpoint
            credit = credits[endpoint.name] = credits.get(endpoint.name, 0.0) + endpoint.weight
            earned += endpoint.weight
            purses.append((credit, candidate))
        purses.sort(key=_first, reverse=True)  # stable: equals keep the configured order
        ranked = [candidate for _, candidate in purses]
        credits[ranked[0].state.endpoint.name] -= earned
        return ranked


class RandomPicker:
    """A random order in which an endpoint comes first as often as its weight says."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, request: InferenceRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        # The least of independent exponential times is each one's with probability proportional to its rate.
        draws = [(self._rng.expovariate(one.state.endpoint.weight), one) for one in candidates]
        draws.sort(key=_first)
        return [candidate for _, candidate in draws]


_cost = attrgetter("cost")
_first = itemgetter(0)


def _affinity_key(request: InferenceRequest) -> int:
    """What a tie is broken by: the second block, or the only one, or for a prompt shorter than a block the request."""
    blocks = request.prefix_blocks
    if len(blocks) > 1:
        return blocks[1]
    return blocks[0] if blocks else xxh3_64_intdigest(request.id.encode())
