"""Whether an endpoint may be sent to: what probes say, and a circuit that opens on failures in a row.

Floor: `policies`, pure. Two judges, both must agree. Probes: unknown until the first good one; a single failed probe
ejects nobody. The circuit: failures that the request did not cause open it for a while that doubles; then one request
is let through, and what becomes of it decides.
"""

from __future__ import annotations

from enum import StrEnum

from policies.types import FailureCause, Outcome

OPEN_SECONDS = 1.0  # a restart of a process or a lost packet is over by then
MAX_OPEN_SECONDS = 30.0  # an engine that is back must not stay unused longer than a short outage lasts

# A request let through that tells nothing by then (its client left, or it is a long prefill) makes room for another
# (seconds): otherwise one lost report would keep a healthy endpoint out for ever.
TRIAL_SECONDS = 10.0

# 501 and 505 are about the request; the engine is well.
REQUEST_CAUSED_5XX = frozenset({501, 505})


class ProbeState(StrEnum):
    """What the probes say."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class EndpointHealth:
    """Health of one endpoint. `unhealthy_after`, `healthy_after` count probes in a row, `open_after` failures."""

    __slots__ = (
        "_bad_probes",
        "_failures",
        "_good_probes",
        "_healthy_after",
        "_open_after",
        "_open_seconds",
        "_open_until",
        "_trial_until",
        "_unhealthy_after",
        "probes",
        "well",
    )

    def __init__(
        self,
        *,
        assume_healthy: bool = False,
        unhealthy_after: int = 2,
        healthy_after: int = 1,
        open_after: int = 3,
    ) -> None:
        self.probes = ProbeState.HEALTHY if assume_healthy else ProbeState.UNKNOWN
        self._unhealthy_after = unhealthy_after
        self._healthy_after = healthy_after
        self._open_after = open_after
        self._good_probes = 0
        self._bad_probes = 0
        self._failures = 0
        self._open_seconds = OPEN_SECONDS
        self._open_until: float | None = None  # None: the circuit is closed
        self._trial_until: float | None = None
        self.well = assume_healthy  # probes are good and the circuit is closed, as almost always: no time to look at

    def configure(self, *, unhealthy_after: int, healthy_after: int) -> None:
        """Other bounds from now on; what is known stays."""
        self._unhealthy_after = unhealthy_after
        self._healthy_after = healthy_after

    def admits(self, now: float) -> bool:
        """May a request be sent now?"""
        if self.well:
            return True
        if self.probes is not ProbeState.HEALTHY or self._open_until is None:
            return False
        return now >= self._open_until and (self._trial_until is None or now >= self._trial_until)

    def state(self, now: float) -> str:
        """One word for operators: unknown, unhealthy, healthy, open or half-open."""
        if self.probes is not ProbeState.HEALTHY or self._open_until is None:
            return self.probes.value
        return "open" if now < self._open_until else "half-open"

    def retry_after(self, now: float) -> float | None:
        """Seconds until the circuit lets a request through; None when that is not a matter of time."""
        if self.probes is not ProbeState.HEALTHY or self._open_until is None:
            return None
        return max(0.0, self._open_until - now)

    def probe(self, ok: bool, now: float) -> None:
        """Take a probe's verdict. A good one never shortens the time for which the circuit is open."""
        if ok:
            self._bad_probes = 0
            self._good_probes += 1
            if self.probes is ProbeState.UNKNOWN or self._good_probes >= self._healthy_after:
                self.probes = ProbeState.HEALTHY
                self.well = self._open_until is None
            return
        self._good_probes = 0
        self._bad_probes += 1
        if self._bad_probes >= self._unhealthy_after:
            self.probes = ProbeState.UNHEALTHY
            self.well = False

    def on_dispatch(self, now: float) -> None:
        """A request was sent: in a half-open circuit it is the one that decides."""
        if self._open_until is not None and now >= self._open_until:
            self._trial_until = now + TRIAL_SECONDS

    def on_first_token(self, now: float) -> None:
        """Output has been seen. A half-open circuit closes at once (a whole answer may take minutes), but on trust:
        only a complete answer clears the failures, so the next failure opens it again, and for longer."""
        if self._open_until is not None and now >= self._open_until:
            self._close()
            self._failures = self._open_after - 1

    def record(self, outcome: Outcome, now: float) -> None:
        """Take the outcome of an attempt. What the client caused, 4xx included, counts neither way."""
        if is_engine_failure(outcome):
            self._fail(now)
        elif outcome.failure is None and 200 <= outcome.status < 400:
            self._succeed(now)
        elif self._open_until is not None and now >= self._open_until:
            self._trial_until = None  # the trial told nothing: the next request may try

    def _fail(self, now: float) -> None:
        if self._open_until is not None and now < self._open_until:
            return  # sent before it opened: the same outage, already counted
        self._failures += 1
        if self._failures < self._open_after:
            return
        self._open_until = now + self._open_seconds
        self.well = False
        self._open_seconds = min(2 * self._open_seconds, MAX_OPEN_SECONDS)
        self._trial_until = None

    def _succeed(self, now: float) -> None:
        if self._open_until is not None and now < self._open_until:
            return  # sent before it opened: no proof that the endpoint takes new requests
        self._failures = 0
        self._open_seconds = OPEN_SECONDS
        self._close()

    def _close(self) -> None:
        self._open_until = self._trial_until = None
        self.well = self.probes is ProbeState.HEALTHY


def is_engine_failure(outcome: Outcome) -> bool:
    """Whether the endpoint is to blame: every cause but a status, and a 5xx without output."""
    if outcome.failure is None or outcome.failure is FailureCause.STATUS:
        return outcome.status >= 500 and outcome.status not in REQUEST_CAUSED_5XX and not outcome.started
    return True
