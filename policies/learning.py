"""How fast an endpoint is, learned from what happens at it: dispatches, first tokens, ends.

Floor: `policies`, pure. Prefill (`Rates.prefill`, `attention`) is learned from busy periods: the work done from a
dispatch to the first tokens, which holds whatever the engine computed in which step. Decoding (`step`, `decode`,
`context`) is learned from the time between first token and end. What the engine reports afterwards (prompt and cached
tokens) replaces what was believed, if it reports at all. Where a cause is unclear nothing is learned.
"""

from __future__ import annotations

from typing import NamedTuple

from policies.busy_period import BusyPeriod
from policies.cost import Rates
from policies.engine_progress import Flight, HiddenPrefills, Marks, Progress
from policies.rate_model import TELLING_STEPS, RateModel

# Above this share of error in the predicted uncached tokens, learning waits until the engine has told the true ones.
DOUBT = 0.05

# Share of a new answer in what is thought of the predictions and of the answers' length: about the last 10, 20 decide.
DOUBT_SMOOTHING = 0.1
OUTPUT_SMOOTHING = 0.05

# Requests remembered at most. Endpoints take fewer; a caller that loses track must not fill the memory.
MAX_FLIGHTS = 4096


class RateSnapshot(NamedTuple):
    """For operators. Seconds per token, per token and token before it, per step with one short sequence. `overhead`:
    what every first token takes besides, network included. `ratio`: seen by predicted prefill time, the last one's.
    `jumps`: how often the engine turned out to be another than believed."""

    samples: int
    decode_samples: int
    prefill: float
    attention: float
    decode_step: float
    overhead: float
    ratio: float | None
    jumps: int


class RateLearner:
    """Learns one endpoint's `rates`. Keys are the caller's; unknown ones do nothing. Times never fall.

    `rates` is replaced only when it has changed by more than a few percent.
    """

    __slots__ = (
        "_flights", "_hidden", "_misjudged", "_model", "_orders", "_output", "_pending", "_period", "_progress",
        "_reports",
    )  # fmt: skip

    def __init__(self, prior: Rates | None = None) -> None:
        self._model = RateModel(prior if prior is not None else Rates())
        self._progress = Progress()
        self._hidden = HiddenPrefills()
        self._flights: dict[int, Flight] = {}
        self._pending: dict[int, Flight] = {}  # their first token will be seen, and has not been
        self._period = BusyPeriod(self._progress.marks(), 0, used=True)
        self._orders = 0
        self._output = 0.0  # tokens of an answer, smoothed
        self._reports = False  # the engine tells how much it had cached
        self._misjudged = 0.0  # by what share the uncached tokens were off, where it tells; smoothed

    @property
    def rates(self) -> Rates:
        """The present belief."""
        return self._model.rates

    @property
    def rows(self) -> tuple[int, int]:
        """How many observations of prefill and of decoding the rates are made of (`RateModel.rows`)."""
        return self._model.rows

    def __len__(self) -> int:
        """Requests that are followed now."""
        return len(self._flights)

    def snapshot(self) -> RateSnapshot:
        """What is known now."""
        model = self._model
        prefill, decode = model.prefill, model.decode
        return RateSnapshot(
            samples=prefill.samples,
            decode_samples=decode.samples,
            prefill=model.rates.prefill,
            attention=model.rates.attention,
            decode_step=model.rates.step + model.rates.decode,
            overhead=prefill.values[2],
            ratio=prefill.ratio,
            jumps=prefill.jumps + decode.jumps,
        )

    def dispatched(self, key: int, uncached: int, cached: int, shows_first: bool, now: float) -> None:
        """Sent, with so many prompt tokens to compute after so many cached ones, as believed.

        `shows_first`: its first token will be seen, or its end is one (a stream, an embedding).
        """
        if key in self._flights:
            self.left(key, now)
        elif len(self._flights) >= MAX_FLIGHTS:
            self.left(next(iter(self._flights)), now)
        self._progress.advance(now, bool(self._pending))
        hidden = self._hidden.waiting(now)
        self._orders += 1
        seen_behind_others = shows_first and self._pending
        marks = self._period.began if seen_behind_others else self._marks()  # made anew with the first token
        flight = Flight(self._orders, uncached, cached, marks, not hidden and not self._pending)
        self._flights[key] = flight
        if shows_first:
            if not self._pending:
                unclear = hidden and not self._model.established  # how much of the hidden is left
                self._period = BusyPeriod(marks, self._progress.decoding, used=unclear)
            self._pending[key] = flight
        else:
            own = self._model.own_seconds(uncached, cached)
            self._hidden.add(flight, own, now)
            self._progress.prefilled(own, uncached, hidden=True)
            self._progress.decodes(flight, self._output)

    def first_token(self, key: int, now: float) -> None:
        """The first token of its answer was seen."""
        flight = self._pending.get(key)
        if flight is None:
            return
        self._progress.advance(now, bool(self._pending))
        del self._pending[key]
        period, progress = self._period, self._progress
        if period.full and not period.same_step(now):
            self._close(period)
            period = self._period = BusyPeriod(period.ended, progress.decoding, cut=True)
        for earlier in self._hidden.before(flight.order):
            period.add(earlier.uncached, earlier.cached)
        progress.prefilled(self._model.own_seconds(flight.uncached, flight.cached), flight.uncached)
        period.first_token(flight, progress.marks())
        flight.marks = period.ended
        progress.decodes(flight, self._output)
        if not self._pending:
            self._close(period)

    def finished(
        self,
        key: int,
        now: float,
        output_tokens: int | None = None,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
    ) -> None:
        """The answer is complete. Tokens as the engine counted them, None where it did not; `output_tokens` of one
        choice (divided by `n`)."""
        if key in self._pending:
            if output_tokens is None or output_tokens > 1:
                self.left(key, now)  # an answer without a first token: nothing can be said
                return
            self.first_token(key, now)
        flight = self._take(key, now)
        if flight is None:
            return
        if prompt_tokens and cached_tokens is not None:
            self._correct(flight, prompt_tokens, cached_tokens)
        self._settle(flight)
        if output_tokens is not None:
            self._output += OUTPUT_SMOOTHING * (output_tokens - self._output)
            self._learn_answer(flight, max(0, output_tokens - 1))

    def left(self, key: int, now: float) -> None:
        """It failed or was cancelled."""
        if key not in self._pending:
            flight = self._take(key, now)
            if flight is not None:
                self._settle(flight)
            return
        self._progress.advance(now, bool(self._pending))
        del self._pending[key], self._flights[key]
        self._period.used = True  # who knows how much of it was computed
        if not self._pending:
            self._close(self._period)

    def _marks(self) -> Marks:
        """The sums now, with the share of the prefill under way that is believed to be done."""
        if not self._pending:
            return self._progress.marks()
        head = next(iter(self._pending.values()))
        own = self._model.own_seconds(head.uncached, head.cached)
        return self._progress.marks(min(own, self._progress.now - self._period.ended.at), head.uncached)

    def _take(self, key: int, now: float) -> Flight | None:
        """It decodes no more."""
        flight = self._flights.pop(key, None)
        if flight is not None:
            self._progress.advance(now, bool(self._pending))
            self._progress.decodes_no_more(flight)
            if flight.period is None and not self._pending:
                self._hidden.ended(flight, now)
        return flight

    def _correct(self, flight: Flight, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine's counts replace what was believed."""
        cached = max(0, min(cached_tokens, prompt_tokens - 1))
        uncached = prompt_tokens - cached
        off = abs(uncached - flight.uncached) / max(uncached, flight.uncached)
        self._misjudged += DOUBT_SMOOTHING * (off - self._misjudged)
        self._reports = True
        if flight.period is not None and not flight.period.used:
            flight.period.correct(flight, uncached, cached)
        flight.uncached, flight.cached = uncached, cached

    def _close(self, period: BusyPeriod) -> None:
        period.closed = True
        if not period.unsettled or self._misjudged < DOUBT:
            self._learn(period)

    def _settle(self, flight: Flight) -> None:
        """No more will be told of its prompt. The last one settles its busy period."""
        period = flight.period
        if period is not None:
            period.unsettled -= 1
            if period.closed and not period.unsettled:
                self._learn(period)

    def _learn(self, period: BusyPeriod) -> None:
        if not period.used:
            period.used = True
            if self._model.prefill.rests():
                return
            self._model.learn_period(period, self._reports)

    def _learn_answer(self, flight: Flight, steps: int) -> None:
        """What the tokens after the first took; of an answer in one piece, what can be told from its length."""
        if flight.period is not None:
            if steps >= TELLING_STEPS and not self._model.decode.rests():
                self._model.learn_decoding(flight.marks, self._marks(), steps)
        else:
            now = self._marks()
            alone = flight.alone and flight.order == self._orders
            self._model.learn_whole(flight, now, steps, alone, self._reports)
