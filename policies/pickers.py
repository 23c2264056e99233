"""From costs to a choice.

Floor: `policies`, pure. One idea a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from random import Random

from policies.rendezvous import affinity_key, first, place
from policies.types import InferenceRequest
from policies.view import View

# A round robin remembers a credit per endpoint name; names come from the configuration, and this bounds what reloads
# with ever new names could leave behind.
MAX_CREDITS = 4096

# Costs this close together are equal, in the costs' unit: predictions are not good to a millisecond, and of slower
# engines not to as many times more.
TIE = 0.001

# c: what one may have, times the mean. Nearer to 1 more of the affinity is lost (what moves grows as 1/(c-1)²), and
# with 2 the fullest may be twice as slow as the mean; at 1.25 it has a quarter more.
BOUND = 1.25


def with_room(columns: Sequence[int], view: View, bound: float) -> list[int]:
    """Those that have in flight less than `bound` times the mean with one more, by weight, rounded up; never none."""
    states = view.states
    in_flight = sum([states[column].in_flight for column in columns])
    if not in_flight:
        return list(columns)  # each may have one
    return _below(columns, view, bound * (1 + in_flight) / sum([states[column].endpoint.weight for column in columns]))


def _below(columns: Sequence[int], view: View, unit: float) -> list[int]:
    """Those that have in flight less than `unit` a unit of weight, rounded up."""
    states = view.states
    return [column for column in columns if states[column].in_flight < ceil(unit * states[column].endpoint.weight)]


class LowestCost:
    """The lowest cost. Costs within `tie_seconds` of the best are equal, and then the prefix decides among those that
    have not much more in flight than others: who is believed to be faster by less than can be known would get all.

    The tie goes by rendezvous hash of the second block's chained id (facts/routing.md): an idle fleet sends one prefix
    to one endpoint without anyone remembering it, and the first block is too often the system prompt that all share.
    """

    def __init__(self, tie_seconds: float = TIE) -> None:
        self._tie = tie_seconds

    def choose(self, request: InferenceRequest, view: View, costs: Sequence[float]) -> int:
        columns, tie = view.open, self._tie * view.slowest
        if len(columns) == len(costs):  # most often, and cheaper
            bound = min(costs) + tie
            ties = [column for column, cost in enumerate(costs) if cost <= bound]
        else:
            bound = min([costs[column] for column in columns]) + tie
            ties = [column for column in columns if costs[column] <= bound]
        if len(ties) > 1:
            ties = with_room(ties, view, BOUND)
        if len(ties) == 1:
            return ties[0]
        return first(view.states, ties, affinity_key(request))

    def sent(self, view: View, column: int) -> None:
        """Nothing is remembered."""


class BoundedLoad:
    """The lowest cost among the endpoints that have room for one more: at most `bound` times the mean of what is in
    flight with this request, by weight, rounded up. Of equal costs the least loaded, then by the prefix.

    "Consistent hashing with bounded loads" (Mirrokni, Thorup, Zadimoghaddam 2016, arXiv 1608.01350) for any order of
    preference: affinity decides as long as it does not pile up. As the bound is at least 1 one always has room.
    """

    def __init__(self, bound: float = BOUND) -> None:
        self._bound = bound

    def choose(self, request: InferenceRequest, view: View, costs: Sequence[float]) -> int:
        states = view.states
        room = self._with_room(view)
        key = affinity_key(request)

        def preference(column: int) -> tuple[float, float, int]:
            state = states[column]
            return costs[column], state.in_flight / state.endpoint.weight, place(state.endpoint, key)

        return min(room, key=preference)

    def _with_room(self, view: View) -> list[int]:
        whole = view.whole
        if whole is None:
            return with_room(view.open, view, self._bound)
        # The mean is that of all, not of the few that are looked at.
        return _below(view.open, view, self._bound * (1 + whole.in_flight) / whole.weight) or view.open

    def sent(self, view: View, column: int) -> None:
        """Nothing is remembered."""


class PowerOfTwo:
    """Two at random, as often as their weights say, and of them the lower cost.

    Two choices instead of one make the fullest endpoint exponentially less full, and unlike the best of all they never
    send everybody to the one that an old measurement praised (Mitzenmacher 2001, "The power of two choices in
    randomized load balancing").
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, request: InferenceRequest, view: View, costs: Sequence[float]) -> int:
        first = self._draw(view, view.open)
        others = [column for column in view.open if column != first]
        if not others:
            return first
        second = self._draw(view, others)
        return first if costs[first] <= costs[second] else second

    def _draw(self, view: View, columns: Sequence[int]) -> int:
        return self._rng.choices(columns, [view.states[column].endpoint.weight for column in columns])[0]

    def sent(self, view: View, column: int) -> None:
        """Nothing is remembered."""


class RoundRobin:
    """Each in turn, as often as its weight says, evenly spread (not weight times in a row).

    At every turn each endpoint earns its weight, the richest goes and pays what all earned together.
    """

    def __init__(self) -> None:
        self._credits: dict[str, float] = {}

    def choose(self, request: InferenceRequest, view: View, costs: Sequence[float]) -> int:
        credits, states = self._credits, view.states
        return max(
            view.open,  # of equals the first in the configured order
            key=lambda column: credits.get(states[column].endpoint.name, 0.0) + states[column].endpoint.weight,
        )

    def sent(self, view: View, column: int) -> None:
        credits = self._credits
        if len(credits) > MAX_CREDITS:
            credits.clear()
        earned = 0.0
        for one in view.open:
            endpoint = view.states[one].endpoint
            credits[endpoint.name] = credits.get(endpoint.name, 0.0) + endpoint.weight
            earned += endpoint.weight
        credits[view.states[column].endpoint.name] -= earned


class RandomPicker:
    """Any, as often as its weight says."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, request: InferenceRequest, view: View, costs: Sequence[float]) -> int:
        weights = [view.states[column].endpoint.weight for column in view.open]
        return self._rng.choices(view.open, weights)[0]

    def sent(self, view: View, column: int) -> None:
        """Nothing is remembered."""


# These take any endpoint: each in turn, or by chance, and costs decide between two of them at most.
DRAWN = (PowerOfTwo, RoundRobin, RandomPicker)
