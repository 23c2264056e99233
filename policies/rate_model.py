"""Two fits, of prefill and of decoding, and what intervals at an engine teach them.

Floor: `policies`, pure. An interval's time has three causes: prefill, decoding beside it, and the steps themselves.
Each fit is taught what is left when the other's belief about the rest is taken away, never more than a part of the
interval, and not from intervals that were mostly the other's.
"""

from __future__ import annotations

from statistics import median

from policies.busy_period import BusyPeriod
from policies.cost import STEP_TOKENS, Rates
from policies.engine_progress import Flight, Marks
from policies.rate_fit import RateFit

# Outside of these no engine is (seconds per token: 5 million to 10 tokens a second; seconds per step).
PREFILL_BOUNDS = (0.2e-6, 0.1)
STEP_BOUNDS = (0.1e-3, 5.0)

# Attention and decodes are at most so many times what prefill and step let expect; the overhead of a first token
# holds the network, which may be far slower than an engine.
TOPS = (10.0, 10.0)
PREFILL_TOPS = (10.0, 1000.0)

# A step of decodes also reads the weights: 9.7 ms beside an overhead of 2.5 ms for the priors' GPU (facts/routing.md).
# This is only where learning starts from, and what keeps the proportions where nothing is known.
WEIGHTS_AND_STEP = 12.2 / 2.5

# With fewer tokens a step takes as long as reading the weights takes, whatever the prompt: that says nothing about the
# seconds per token, but everything about network and overhead.
TELLING_TOKENS = 256

# Fewer tokens after the first tell little about a step: network jitter outweighs them.
TELLING_STEPS = 8

# A step of decodes costs about as much as this many tokens of prefill, within a factor of 3, on GPUs and CPUs alike.
# Tells what most of an interval was without knowing the engine; "most" is 10 to 1, so that the factor does not matter.
STEP_WORTH = 150
MOSTLY = 10

# Decoding is learned beside prefills that are known, if they filled less than this share of the time: which part of a
# prefill falls into an interval is a guess.
BUSY_SHARE = 0.3

# Answers in one piece that are compared with what was predicted before all rates are scaled, if they are clearly off.
# An engine that is believed to be slower than it is gets its answers in one piece that much too slowly, as the end of
# their prefill can only be guessed; one that is believed to be faster gets them all.
WHOLES = 8
CLEAR = 1.1

# Rows before a fit is shown to anyone; twice as many before its belief decides what the other may learn.
ENOUGH = 4

# A new `Rates` is made when one of its rates has moved by this share: others keep predictions made from the old one.
PUBLISHED_CHANGE = 0.05
CONTEXT = 1000  # tokens of a usual request: weighs a decode's two costs, of which only the sum matters


class RateModel:
    """`rates`: what is believed. `prefill`: seconds per token, per pair and per first token; `decode`: per step, per
    request and per context token in it."""

    __slots__ = ("_prior", "_wholes", "decode", "prefill", "rates")

    def __init__(self, prior: Rates) -> None:
        self.rates = self._prior = prior
        base = prior.step * WEIGHTS_AND_STEP
        self.prefill = RateFit((prior.prefill, prior.attention, base), *PREFILL_BOUNDS, PREFILL_TOPS)
        self.decode = RateFit((base, prior.decode, prior.context), *STEP_BOUNDS, TOPS)
        self._wholes: list[float] = []

    @property
    def established(self) -> bool:
        """Prefill is known well enough to take it out of other times."""
        return self.prefill.fresh >= 2 * ENOUGH

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of prefill and of decoding that `rates` are made of: 1 where one is only inferred from the other or from
        answers in one piece, 0 where nothing is known."""
        prefill, decode = self.prefill, self.decode
        known = min(1, prefill.fresh + decode.fresh + prefill.jumps)
        return max(prefill.fresh, known), max(decode.fresh, known)

    def own_seconds(self, uncached: int, cached: int) -> float:
        """A prefill as believed, without its step."""
        per_token, per_pair, _ = self.prefill.values
        return uncached * (per_token + per_pair * (cached + uncached / 2))

    def learn_period(self, period: BusyPeriod, confirmed: bool) -> None:
        """`confirmed`: the engine tells how much was cached, and predictions are known to be good or were corrected."""
        seconds, tokens = period.seconds, period.tokens
        if seconds <= 0 or tokens <= 0:
            return
        seconds -= min(self._beside(period), seconds * (0.5 if self.decode.fresh >= ENOUGH else 0.1))
        if tokens >= TELLING_TOKENS * period.moments:
            first = 0.0 if period.cut else 1.0
            self._learn_prefill((tokens, period.pairs, first), seconds, 0 if confirmed else period.doubted)
        elif period.prompts == 1 and not period.cut:
            own = tokens * self.prefill.values[0] + period.pairs * self.prefill.values[1]
            self.prefill.learn_last(max(seconds - own, seconds / 2), self._overhead())

    def learn_decoding(self, began: Marks, ended: Marks, steps: int) -> None:
        """So many steps were made from `began` to `ended`, with prefills in them or not."""
        seconds = ended.at - began.at
        if seconds <= 0 or steps < TELLING_STEPS:
            return
        few = MOSTLY * (ended.tokens - began.tokens) <= STEP_WORTH * steps
        if few or (self.established and ended.busy - began.busy < BUSY_SHARE * seconds):
            prefills = min(ended.done - began.done, seconds * (0.1 if few else 0.5))
            if self.decode.learn(_decodes(began, ended), (seconds - prefills) / steps):
                self._publish()

    def learn_whole(self, flight: Flight, ended: Marks, steps: int, alone: bool, confirmed: bool) -> None:
        """An answer in one piece. `alone`: there was no other prefill from its dispatch to its end."""
        began = flight.marks
        seconds = ended.at - began.at
        if seconds <= 0:
            return
        if not self.established:
            self._compare(began, ended, steps)
        if steps * STEP_WORTH >= MOSTLY * flight.uncached:
            self.learn_decoding(began, ended, steps)
        elif alone and flight.uncached >= max(TELLING_TOKENS, MOSTLY * steps * STEP_WORTH):
            seconds -= min(steps * self.decode.values[0], seconds / 2)
            pairs = flight.uncached * (flight.cached + flight.uncached / 2)
            self._learn_prefill((flight.uncached, pairs, 1.0), seconds, 0 if confirmed else flight.cached)

    def _beside(self, period: BusyPeriod) -> float:
        """Seconds of it that went into the decodes in its steps, into the steps themselves but the first, and into the
        step that was under way when it began."""
        _, requests, context = _decodes(period.began, period.ended)
        step, per_request, per_token = self.decode.values
        extra = (per_request + self.prefill.values[0]) * requests + per_token * context
        step /= WEIGHTS_AND_STEP  # what is computed for a prefill takes longer than reading the weights beside it
        beside = period.moments * step + (period.moments + period.tokens / STEP_TOKENS) * extra
        if not period.cut:
            beside += (step + extra) / 2 - step if period.decoding else -step
        return beside

    def _learn_prefill(self, amounts: tuple[float, float, float], seconds: float, doubted: int) -> None:
        jumps = self.prefill.jumps
        if self.prefill.learn(amounts, seconds, amounts[0] / (amounts[0] + doubted), (1.0, self._overhead())):
            if self.prefill.jumps > jumps:
                self.decode.fresh = 0  # another engine: what its steps take is to be seen anew
            self._publish()

    def _overhead(self) -> float:
        """The overhead is thought to be about a step (in multiples of the prior's)."""
        return (self.decode if self.decode.fresh >= ENOUGH else self.prefill).factors[0]

    def _compare(self, began: Marks, ended: Marks, steps: int) -> None:
        """No first tokens are seen: prefill and decoding cannot be told apart, but that all is far slower or faster
        than believed can."""
        per_step, per_request, per_token = self.decode.values
        steps_made, requests, context = _decodes(began, ended)
        step = per_step * steps_made + per_request * requests + per_token * context
        predicted = ended.done - began.done + steps * step + self.prefill.values[2]
        self._wholes.append((ended.at - began.at) / predicted)
        if len(self._wholes) < WHOLES:
            return
        ratio = median(self._wholes)
        self._wholes = []
        if not 1 / CLEAR < ratio < CLEAR:
            self.prefill.scale(ratio**0.5)  # half way: who waited unseen makes it look slower
            self.decode.scale(ratio**0.5)
            self._publish()

    def _publish(self) -> None:
        """Show new rates if they differ from those shown. What is not known goes with what is."""
        prefill, decode, prior, shown = self.prefill, self.decode, self._prior, self.rates
        per_token, per_pair, _ = prefill.values
        step, request, context = decode.values
        if prefill.fresh < ENOUGH <= decode.fresh:
            per_token, per_pair = prior.prefill * decode.factors[0], prior.attention * decode.factors[0]
        overhead = prior.overhead * decode.factors[0]
        if decode.fresh < ENOUGH:
            factor = (prefill if prefill.fresh >= ENOUGH else decode).factors[0]
            # With the weights, as when it is learned: endpoints of which not the same is known must compare.
            step, overhead = prior.step * WEIGHTS_AND_STEP * factor, prior.overhead * factor
            request, context = prior.decode * factor, prior.context * factor
        if (
            _differ(per_token, shown.prefill)
            or _differ(per_pair, shown.attention)
            or _differ(step, shown.step)
            or _differ(request + CONTEXT * context, shown.decode + CONTEXT * shown.context)
        ):
            self.rates = Rates(per_token, per_pair, step, request, context, overhead)


def _decodes(began: Marks, ended: Marks) -> tuple[float, float, float]:
    """A step's decodes in between, on average: 1, requests, context tokens."""
    seconds = ended.at - began.at
    return 1.0, (ended.requests - began.requests) / seconds, (ended.context - began.context) / seconds


def _differ(new: float, old: float) -> bool:
    return abs(new - old) > PUBLISHED_CHANGE * old
