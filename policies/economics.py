"""What tokens cost on one's own endpoints, beside what they could cost: saturated, bought, or with another fleet.

Floor: `policies`, pure. Money in whole micro-units (a millionth of the currency's unit), time in whole microseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MILLION: Final = 1_000_000
DAY: Final = 86_400 * MILLION  # microseconds


def per_million(cost: int, tokens: int) -> int | None:
    """Micro-units per million tokens of prompt and answer, to the nearest: 10^6 · cost / tokens; None without any."""
    return (2 * cost * MILLION + tokens) // (2 * tokens) if tokens else None


def floor_cost(work: int, paid: int, cost: int) -> int:
    """What `work` (microseconds) would have cost had the `paid` time been full of it: work · cost / paid, rounded down.

    It is the saturated floor: the realised cost times the utilisation, u = work / paid (the utilisation law of queueing
    theory, Denning and Buzen 1978: busy time over time). No price per token can be below it on these engines.
    """
    return work * cost // paid if paid else 0


def utilisation(work: int, paid: int) -> float | None:
    """Share of the time paid for in which there was work: u = B / T (Denning and Buzen 1978); None where none was."""
    return work / paid if paid else None


@dataclass(frozen=True, slots=True)
class BreakEven:
    """`api_cost`: of the same tokens, bought. `tokens`: of the same mix, in the same time, at which both cost the same;
    `utilisation`: what the own endpoints would have then, above 1: never. None where nothing is comparable.
    """

    api_cost: int
    tokens: int | None
    utilisation: float | None


def break_even(cost: int, api_cost: int, tokens: int, used: float | None) -> BreakEven:
    """Own endpoints have a fixed cost C for the time they are kept, an API has p per token: they are equal at C / p
    tokens (cost-volume-profit analysis: fixed cost over margin per unit), where p = api_cost / tokens. Rounded up.
    """
    if not api_cost or not tokens:
        return BreakEven(api_cost, None, None)
    factor = cost / api_cost
    return BreakEven(api_cost, -(-cost * tokens // api_cost), None if used is None else used * factor)


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many endpoints for a day. `tokens`: what they can serve at the utilisation asked; `cost`: micro-units."""

    endpoints: int
    tokens: int
    cost: int

    @property
    def per_million(self) -> int | None:
        """Of the tokens that it can serve."""
        return per_million(self.cost, self.tokens)


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a workload: `work` (microseconds of engines) for `tokens`; `cost` of `paid` microseconds."""

    work: int
    tokens: int
    cost: int
    paid: int

    def __post_init__(self) -> None:
        if self.work <= 0 or self.tokens <= 0 or self.paid <= 0:
            raise ValueError("nothing is known of a workload for which no engine has worked")

    def fleet(self, endpoints: int, target: float) -> Fleet:
        """What so many can do in a day while they are busy for a share of `target` of it."""
        tokens = math.floor(endpoints * DAY * target * self.tokens / self.work)
        return Fleet(endpoints, tokens, endpoints * self._day_cost)

    def for_demand(self, tokens: int, target: float) -> Fleet:
        """The fewest endpoints that serve so many tokens a day: N = ceil(X · S / (T · u)), with X tokens, S = work /
        tokens the seconds of each, T the day and u the `target`: the utilisation law U = X · S / (N · T) solved for N
        (Denning and Buzen 1978)."""
        endpoints = math.ceil(tokens * self.work / (self.tokens * DAY * target))
        while endpoints > 1 and self.fleet(endpoints - 1, target).tokens >= tokens:  # the last bit of a division
            endpoints -= 1
        while self.fleet(endpoints, target).tokens < tokens:
            endpoints += 1
        return self.fleet(endpoints, target)

    def for_budget(self, money: int, target: float) -> Fleet:
        """The most endpoints that so many micro-units a day pay for. Raises ValueError where they cost nothing."""
        if not self._day_cost:
            raise ValueError("endpoints cost nothing: no budget bounds them")
        return self.fleet(money // self._day_cost, target)

    @property
    def _day_cost(self) -> int:
        """Of one endpoint, at the mean price of an hour of those there are."""
        return -(-self.cost * DAY // self.paid)
