"""One limit: whose it is, what it counts of a request, and what its counter's answer means.

Floor: `policies`, pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from policies.admission.counting import UNAVAILABLE, UNKNOWN, Counter
from policies.types import LimitSpec, Rejection, RejectReason, Weights

Scope = Literal["tenant", "key", "model"]

# Of 0.1 * 3 tokens nobody means the next whole one.
_ROUNDING: Final = 1e-9


class Use(NamedTuple):
    """What a request uses. At admission an estimate; at its end `running` is 0, and `requests` too where none was sent.

    `cached`: the part of `prompt` that the engine had in its cache. `engine_cost`: what its time costs, in micro-units;
    0 where nobody asks.
    """

    prompt: int = 0
    output: int = 0
    cached: int = 0
    requests: int = 1
    running: int = 1
    engine_cost: int = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a model, in the currency's units per million tokens: which is micro-units per token."""

    input: float
    output: float
    cached: float

    def of(self, use: Use) -> int:
        """Micro-units, rounded up."""
        return _weighed(self.input, self.output, self.cached, use)


Measure = Callable[[Use, Prices | None], int]


class Limit:
    """`measure`: what it counts of a use. `shadow`: it counts and is told of, but refuses nobody."""

    __slots__ = ("counter", "measure", "reason", "scope", "shadow")

    def __init__(self, scope: Scope, reason: RejectReason, counter: Counter, measure: Measure, *, shadow: bool) -> None:
        self.scope = scope
        self.reason = reason
        self.counter = counter
        self.measure = measure
        self.shadow = shadow

    def refusal(self, wait: float, amount: int) -> Rejection:
        """What a counter's answer other than FITS and ASK means."""
        whose = "" if self.scope == "tenant" else f" of this {self.scope}"
        of = f"{self.counter.limit} {_UNITS[self.reason]}{whose}"
        if wait == UNAVAILABLE:
            return Rejection(RejectReason.LIMITS_UNAVAILABLE, 1.0, scope=self.scope)
        if wait != wait:  # NEVER: not a number
            detail = f"{amount} {_WORDS[self.reason]} can never pass a limit of {of}"
            return Rejection(self.reason, detail=detail, scope=self.scope, never=True)
        if wait == UNKNOWN:
            return Rejection(self.reason, detail=f"limit of {of} reached", scope=self.scope)
        return Rejection(self.reason, wait, f"limit of {of} reached", self.scope)


_WORDS: Final = {
    RejectReason.REQUESTS_PER_MINUTE: "requests",
    RejectReason.TOKENS_PER_MINUTE: "tokens",
    RejectReason.CONCURRENCY: "requests",
    RejectReason.TOKENS_PER_DAY: "tokens",
    RejectReason.MONEY_PER_MONTH: "millionths of the currency's unit",
}
_UNITS: Final = {
    RejectReason.REQUESTS_PER_MINUTE: "requests per minute",
    RejectReason.TOKENS_PER_MINUTE: "tokens per minute",
    RejectReason.CONCURRENCY: "requests at once",
    RejectReason.TOKENS_PER_DAY: "tokens per day",
    RejectReason.MONEY_PER_MONTH: "millionths of the currency's unit per month",
}


def amounts(spec: LimitSpec) -> Iterator[tuple[RejectReason, int]]:
    """The limits that are set, the cheapest to check first."""
    for reason, amount in (
        (RejectReason.CONCURRENCY, spec.concurrency),
        (RejectReason.REQUESTS_PER_MINUTE, spec.requests_per_minute),
        (RejectReason.TOKENS_PER_MINUTE, spec.tokens_per_minute),
        (RejectReason.TOKENS_PER_DAY, spec.tokens_per_day),
        (RejectReason.MONEY_PER_MONTH, spec.money_per_month),
    ):
        if amount is not None:
            yield reason, amount


def measure_of(reason: RejectReason, weights: Weights) -> Measure:
    """What a limit of this kind counts of a use."""
    if reason is RejectReason.CONCURRENCY:
        return lambda use, _: use.running
    if reason is RejectReason.REQUESTS_PER_MINUTE:
        return lambda use, _: use.requests
    if reason is RejectReason.MONEY_PER_MONTH:
        return lambda use, prices: use.engine_cost if prices is None else prices.of(use)
    if weights == Weights():
        return lambda use, _: use.prompt + use.output
    return lambda use, _: _weighed(weights.input, weights.output, weights.cached, use)


def harder(one: Rejection, other: Rejection | None) -> Rejection:
    """Of two refusals the one to tell: who comes back after the shorter wait would be refused again by the longer."""
    return one if other is None or _hardness(one) > _hardness(other) else other


def _hardness(refusal: Rejection) -> float:
    if refusal.never:
        return float("inf")
    return -1.0 if refusal.retry_after is None else refusal.retry_after


def _weighed(input: float, output: float, cached: float, use: Use) -> int:
    had = min(use.cached, use.prompt)
    return math.ceil(input * (use.prompt - had) + cached * had + output * use.output - _ROUNDING)
