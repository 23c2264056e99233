"""What an endpoint's engine has done so far, as seen and believed from outside: the sums that intervals are cut from.

Floor: `policies`, pure. One `Progress` and one `HiddenPrefills` per endpoint, owned by its `RateLearner`. A stream
shows when its prefill is done; of an answer in one piece only its end is seen, so its prefill is hidden.
"""

from __future__ import annotations

from collections import deque

from policies.busy_period import BusyPeriod

# Hidden prefills remembered at most: more are not waiting at once on an engine that is well.
MAX_HIDDEN = 64


class Marks:
    """Sums up to the time `at`: ∫ decoding requests dt, ∫ their context dt, seconds and tokens of prefill done, and
    seconds in which there was some to do."""

    __slots__ = ("at", "busy", "context", "done", "requests", "tokens")

    def __init__(self, at: float, requests: float, context: float, done: float, tokens: int, busy: float) -> None:
        self.at = at
        self.requests = requests
        self.context = context
        self.done = done
        self.tokens = tokens
        self.busy = busy


class Flight:
    """A request at the endpoint. `marks`: when its decoding began, or when it was sent if that will not be seen.
    `alone`: when it was sent there was no prefill to be done before its own. `period`: None where its first token was
    not seen. `until`: a hidden prefill is believed to be done by then."""

    __slots__ = ("alone", "cached", "context", "marks", "order", "period", "uncached", "until")

    def __init__(self, order: int, uncached: int, cached: int, marks: Marks, alone: bool) -> None:
        self.order = order
        self.uncached = uncached
        self.cached = cached
        self.marks = marks
        self.alone = alone
        self.period: BusyPeriod | None = None
        self.context = 0.0
        self.until = 0.0


class Progress:
    """The sums. Times never fall."""

    __slots__ = ("_busy", "_context", "_contexts", "_done", "_requests", "_tokens", "decoding", "now")

    def __init__(self) -> None:
        self.now = self._requests = self._context = self._done = self._busy = 0.0
        self._tokens = self.decoding = 0
        self._contexts = 0.0  # tokens that the decoding requests hold now

    def advance(self, now: float, prefilling: bool) -> None:
        """Time has passed."""
        passed = now - self.now
        if passed <= 0:
            return
        self._requests += self.decoding * passed
        self._context += self._contexts * passed
        if prefilling:
            self._busy += passed
        self.now = now

    def prefilled(self, seconds: float, tokens: int, hidden: bool = False) -> None:
        """A prefill is done, as believed; one that is hidden was not seen to be under way either."""
        self._done += seconds
        self._tokens += tokens
        if hidden:
            self._busy += seconds

    def decodes(self, flight: Flight, output: float) -> None:
        """It decodes from now on, in the end with so many tokens of `output`."""
        flight.context = flight.uncached + flight.cached + output / 2
        self.decoding += 1
        self._contexts += flight.context

    def decodes_no_more(self, flight: Flight) -> None:
        self.decoding -= 1
        self._contexts = max(0.0, self._contexts - flight.context) if self.decoding else 0.0

    def marks(self, seconds: float = 0.0, tokens: int = 0) -> Marks:
        """The sums now. `seconds` and `tokens`: of the prefill that is under way."""
        return Marks(self.now, self._requests, self._context, self._done + seconds, self._tokens + tokens, self._busy)


class HiddenPrefills:
    """Prefills that nobody sees end, in order of dispatch: each is believed to be done in its turn."""

    __slots__ = ("_flights", "_until")

    def __init__(self) -> None:
        self._flights: deque[Flight] = deque(maxlen=MAX_HIDDEN)
        self._until = 0.0

    def add(self, flight: Flight, own: float, now: float) -> None:
        """Sent now; it takes `own` seconds when its turn has come."""
        self._until = flight.until = max(self._until, now) + own
        self._flights.append(flight)

    def waiting(self, now: float) -> bool:
        """Whether one is not done yet, as believed. Forgets those that are."""
        while self._flights and self._flights[0].until <= now:
            self._flights.popleft()
        return bool(self._flights)

    def before(self, order: int) -> list[Flight]:
        """Takes out those sent before: engines serve in order of arrival."""
        earlier = []
        while self._flights and self._flights[0].order < order:
            earlier.append(self._flights.popleft())
        return earlier

    def ended(self, flight: Flight, now: float) -> None:
        """Its whole answer is there, so its prefill is done whatever was believed."""
        if flight.until > now and flight in self._flights:
            self._flights.remove(flight)
            if not self._flights:
                self._until = now
