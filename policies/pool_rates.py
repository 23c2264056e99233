"""What the endpoints of one pool have in common: equal engines are believed to be equal, and one teaches all.

Floor: `policies`, pure. The endpoints of a pool serve one model, mostly on equal hardware. Where they seem to differ by
chance requests go to the one that seems faster, away from their prefixes; and while some have learned and others still
believe what was configured all requests go where it is more. So an endpoint is believed to be like the others until
what it has shown says otherwise more clearly than chance does (the positive-part James-Stein estimator).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import TYPE_CHECKING

from policies.cost import Rates, own_seconds

if TYPE_CHECKING:  # a state tells its pool what it has learned
    from policies.endpoint_state import EndpointState

# Variance of the logarithm of one row's seconds by what they should be (prompts that are estimated wrongly by 30 %,
# steps that are shared), times 3: equal endpoints are then believed to be equal in nine of ten cases.
CHANCE = 3 * 0.3**2

# Rows that a belief is made of at most (`rate_fit.KEPT_LONG`).
MOST_ROWS = 50

# A new belief is shown when it has moved by this share: others keep predictions made from the old one.
SHOWN_CHANGE = 0.03

# What two beliefs are compared by: a usual prompt and a long one, and a step of a few usual requests.
PROMPT_TOKENS, LONG_TOKENS = 2_000, 32_000
DECODES, CONTEXT_TOKENS = 8, 16_000

# All endpoints are looked at anew when this share of them, or of all that was learned so far, has learned since: with
# 512 a look takes milliseconds, and each of them learns as often in a large pool as in a small one. Up to 8 endpoints
# every time.
LOOK_SHARE = 8

Part = Callable[[Rates], float]


class PoolRates:
    """Of these endpoints; each of them tells when it has learned (`learned`). `looks`: at all of them, so far."""

    __slots__ = ("_common", "_learned", "_learned_since", "_states", "looks")

    def __init__(self, states: Sequence[EndpointState]) -> None:
        self._states = tuple(states)
        self._common: Rates | None = None
        self._learned = self._learned_since = 0
        self.looks = 0

    def join(self) -> None:
        """From now on the endpoints tell these rates, and none that they told before."""
        for state in self._states:
            state.pool_rates = self

    def learned(self, state: EndpointState) -> None:
        """One of the endpoints believes something new of itself: show it what is believed now; and now and then all."""
        self._learned += 1
        self._learned_since += 1
        if self._common is None or self._learned_since * LOOK_SHARE >= min(len(self._states), self._learned):
            self._look()
        else:
            state.show_rates(self._believed(state.learner.rates, *state.learner.rows))

    def _look(self) -> None:
        self._learned_since = 0
        self.looks += 1
        learning = [state for state in self._states if state.learns_rates]
        own = [state.learner.rates for state in learning]
        rows = [state.learner.rows for state in learning]
        common = _joined(_mean(own, [one[0] for one in rows]), _mean(own, [one[1] for one in rows]))
        if self._common is None or differ(common, self._common):
            self._common = common
        alike: set[int] = set()  # beliefs that the common one hardly differs from: most endpoints have the same one
        for state, rates, (prefills, decodes) in zip(learning, own, rows, strict=True):
            before, believed = state.rates, self._believed(rates, prefills, decodes)
            if believed is self._common and id(before) in alike:
                continue
            state.show_rates(believed)
            if believed is self._common and state.rates is before:
                alike.add(id(before))

    def _believed(self, own: Rates, prefills: int, decodes: int) -> Rates:
        common = self._common or own
        if not prefills and not decodes:
            return common  # it has shown nothing
        first, second = _certainty(own, common, prefill_part, prefills), _certainty(own, common, decode_part, decodes)
        if not first and not second:
            return common  # the same for all, to the last digit
        return _joined(_between(common, own, first), _between(common, own, second))


def prefill_part(rates: Rates) -> float:
    """Seconds of a usual prompt."""
    return own_seconds(rates, PROMPT_TOKENS, 0)


def long_part(rates: Rates) -> float:
    """Seconds of a long prompt."""
    return own_seconds(rates, LONG_TOKENS, 0)


def decode_part(rates: Rates) -> float:
    """Seconds of a usual step."""
    return rates.step + DECODES * rates.decode + CONTEXT_TOKENS * rates.context


def differ(one: Rates, other: Rates) -> bool:
    """Whether predictions made from one are wrong by the other."""
    return (
        abs(log(prefill_part(one) / prefill_part(other))) > SHOWN_CHANGE
        or abs(log(long_part(one) / long_part(other))) > SHOWN_CHANGE
        or abs(log(decode_part(one) / decode_part(other))) > SHOWN_CHANGE
    )


def _certainty(own: Rates, common: Rates, part: Part, rows: int) -> float:
    """0: the difference may be chance, or nothing is known of its own; to 1: there is one."""
    distance = log(part(own) / part(common))
    evidence = min(rows, MOST_ROWS) * distance * distance
    return max(0.0, 1.0 - CHANCE / evidence) if evidence > 0 else 0.0


def _mean(own: Sequence[Rates], rows: Sequence[int]) -> Rates:
    """By rows; of all alike where none has any."""
    weights = [min(count, MOST_ROWS) for count in rows]
    if not any(weights):
        weights = [1] * len(own)
    total = sum(weights)
    prefill = attention = step = decode = context = overhead = 0.0
    for rates, weight in zip(own, weights, strict=True):
        if weight:
            share = weight / total
            prefill += share * rates.prefill
            attention += share * rates.attention
            step += share * rates.step
            decode += share * rates.decode
            context += share * rates.context
            overhead += share * rates.overhead
    return Rates(prefill, attention, step, decode, context, overhead)


def _between(common: Rates, own: Rates, share: float) -> Rates:
    rest = 1.0 - share
    return Rates(
        rest * common.prefill + share * own.prefill,
        rest * common.attention + share * own.attention,
        rest * common.step + share * own.step,
        rest * common.decode + share * own.decode,
        rest * common.context + share * own.context,
        rest * common.overhead + share * own.overhead,
    )


def _joined(prefill: Rates, decode: Rates) -> Rates:
    """The prefill of one and the rest of the other."""
    return Rates(prefill.prefill, prefill.attention, decode.step, decode.decode, decode.context, decode.overhead)
