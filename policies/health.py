"""Whether an endpoint may be sent to: what probes say, and a circuit that opens on failures, comparison or proof.

Floor: `policies`, pure. Two judges, both must agree. Probes: unknown until the first good one; a single failed probe
ejects nobody. The circuit opens for a while that doubles, for one of three causes: failures in a row that no request
caused, a share of failures far above the other endpoints' (`policies.outliers`), or an engine that hangs
(`policies.silence`). When the while is over a canary decides: a tiny request of our own, sent by whoever set
`canaried`. Where nobody does, one request of a client is let through, and what becomes of it decides.

    closed --failures, outlier or hung--> open --time--> half-open --canary (or trial) good--> closed, slow start
                                           ^                 | bad, and the time doubles
                                           +-----------------+
"""

from __future__ import annotations

from enum import StrEnum

from policies.outliers import WINDOW_SECONDS, Fellows
from policies.sliding import SlidingShare
from policies.slow_start import SlowStart
from policies.types import FailureCause, Outcome

OPEN_SECONDS = 1.0  # a restart of a process or a lost packet is over by then
MAX_OPEN_SECONDS = 30.0  # an engine that is back must not stay unused longer than a short outage lasts

# A request let through that tells nothing by then (its client left, or it is a long prefill) makes room for another
# (seconds): otherwise one lost report would keep a healthy endpoint out for ever.
TRIAL_SECONDS = 10.0

# Seconds after which requests are let through though canaries were to decide: whoever was to send them does not.
FORGOTTEN_SECONDS = 120.0

# Seconds that an outlier or a hung engine must serve well before its next ejection is short again. Most of an outlier's
# requests succeed, so a success says nothing.
CALM_SECONDS = 60.0

# 501 and 505 are about the request; the engine is well.
REQUEST_CAUSED_5XX = frozenset({501, 505})


class ProbeState(StrEnum):
    """What the probes say."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Cause(StrEnum):
    """Why a circuit opened."""

    FAILURES = "failures"
    OUTLIER = "outlier"
    HUNG = "hung"


class EndpointHealth:
    """Health of one endpoint. `unhealthy_after`, `healthy_after` count probes in a row, `open_after` failures.

    `canaried`: canaries are sent when an open circuit's time is over. `suspected`: one is to tell whether it hangs.
    `fellows`: the pool's other endpoints; without them nothing bounds who is ejected, and nobody is an outlier.
    """

    __slots__ = (
        "_bad_probes", "_calm_at", "_failures", "_good_probes", "_healthy_after", "_open_after", "_open_seconds",
        "_open_until", "_trial_until", "_unhealthy_after", "canaried", "cause", "ejections", "errors", "fellows",
        "probes", "slow_start", "suspected", "well",
    )  # fmt: skip

    def __init__(
        self,
        *,
        assume_healthy: bool = False,
        unhealthy_after: int = 2,
        healthy_after: int = 1,
        open_after: int = 3,
        slow_start: float = 0.0,
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
        self._calm_at = 0.0  # no success before then makes the next ejection short
        self.well = assume_healthy  # probes are good and the circuit is closed, as almost always: no time to look at
        self.canaried = False
        self.suspected = False
        self.cause: Cause | None = None  # of the open circuit
        self.ejections = dict.fromkeys(Cause, 0)  # so far
        self.errors = SlidingShare(WINDOW_SECONDS)
        self.fellows: Fellows | None = None
        self.slow_start = SlowStart(slow_start)

    def configure(self, *, unhealthy_after: int, healthy_after: int, slow_start: float = 0.0) -> None:
        """Other bounds from now on; what is known stays."""
        self._unhealthy_after = unhealthy_after
        self._healthy_after = healthy_after
        self.slow_start.seconds = slow_start

    @property
    def reachable(self) -> bool:
        """The probes are good."""
        return self.probes is ProbeState.HEALTHY

    @property
    def ejected(self) -> bool:
        """The circuit is not closed."""
        return self._open_until is not None

    def admits(self, now: float) -> bool:
        """May a request be sent now?"""
        if self.well:
            return True
        if self.probes is not ProbeState.HEALTHY or self._open_until is None:
            return False
        if self.canaried and now < self._open_until + FORGOTTEN_SECONDS:
            return False
        return now >= self._open_until and (self._trial_until is None or now >= self._trial_until)

    def state(self, now: float) -> str:
        """One word for operators: unknown, unhealthy, healthy, suspected, open or half-open."""
        if self.probes is not ProbeState.HEALTHY:
            return self.probes.value
        if self._open_until is None:
            return "suspected" if self.suspected else self.probes.value
        return "open" if now < self._open_until else "half-open"

    def retry_after(self, now: float) -> float | None:
        """Seconds until the circuit lets a request through; None when that is not a matter of time."""
        if self.probes is not ProbeState.HEALTHY or self._open_until is None:
            return None
        return max(0.0, self._open_until - now)

    def probe(self, ok: bool, now: float) -> None:
        """Take a probe's verdict. A good one never shortens the time for which the circuit is open."""
        if ok:
            self._good_probe(now)
            return
        self._good_probes = 0
        self._bad_probes += 1
        if self._bad_probes >= self._unhealthy_after:
            self.probes = ProbeState.UNHEALTHY
            self.well = False

    def _good_probe(self, now: float) -> None:
        starts = self.probes is ProbeState.UNHEALTHY or (self.probes is ProbeState.UNKNOWN and self._bad_probes > 0)
        self._bad_probes = 0
        self._good_probes += 1
        if self.probes is ProbeState.UNKNOWN or self._good_probes >= self._healthy_after:
            self.probes = ProbeState.HEALTHY
            self.well = self._open_until is None
            if starts:
                self.slow_start.begin(now)
        if not self.slow_start.under_way(now):
            self.slow_start.end()

    def eject(self, cause: Cause, now: float) -> bool:
        """Open the circuit; False where it is not closed, or where too few others would be left."""
        if self._open_until is not None or (self.fellows is not None and not self.fellows.may_eject(self)):
            return False
        self.cause = cause
        self.ejections[cause] += 1
        self._open(now)
        return True

    def canary_due(self, now: float) -> bool:
        """Whether a canary is to decide about the open circuit."""
        return (
            self.canaried
            and self._open_until is not None
            and now >= self._open_until
            and self.probes is ProbeState.HEALTHY
        )

    def canary(self, ok: bool, now: float) -> None:
        """What became of a canary. In a circuit that is still open for a time it decides nothing."""
        self.suspected = False if ok else self.suspected
        if self._open_until is None or now < self._open_until:
            return
        if ok:
            self._close_on_trust(now)
        else:
            self._open(now)

    def on_dispatch(self, now: float) -> None:
        """A request was sent: in a half-open circuit it is the one that decides."""
        if self._open_until is not None and now >= self._open_until:
            self._trial_until = now + TRIAL_SECONDS

    def on_first_token(self, now: float) -> None:
        """Output has been seen. A half-open circuit closes at once (a whole answer may take minutes), but on trust."""
        if self._decides(now):
            self._close_on_trust(now)

    def record(self, outcome: Outcome, now: float) -> None:
        """Take the outcome of an attempt. What the client caused, 4xx included, counts neither way."""
        if is_engine_failure(outcome):
            self._fail(now)
        elif outcome.failure is None and 200 <= outcome.status < 400:
            self._succeed(now)
        elif self._decides(now):
            self._trial_until = None  # the trial told nothing: the next request may try

    def _decides(self, now: float) -> bool:
        """Whether what clients' requests show closes or opens a circuit that is not closed: only in a trial. Those sent
        before it opened are of the same outage, or no proof that the endpoint takes new ones."""
        if self._open_until is None or now < self._open_until:
            return False
        return not self.canaried or self._trial_until is not None

    def _fail(self, now: float) -> None:
        if self._open_until is not None:
            if self._decides(now):
                self._open(now)
            return
        self.errors.note(True, now)
        self._failures += 1
        if self._failures >= self._open_after:
            self.eject(Cause.FAILURES, now)
        elif self.fellows is not None and self.fellows.is_outlier(self, now):
            self.eject(Cause.OUTLIER, now)

    def _succeed(self, now: float) -> None:
        if self._open_until is not None and not self._decides(now):
            return
        self.errors.note(False, now)
        self._failures = 0
        if self._open_until is not None:
            self._close(now)
        if now >= self._calm_at:
            self._open_seconds = OPEN_SECONDS

    def _open(self, now: float) -> None:
        self._open_until = now + self._open_seconds
        self.well = self.suspected = False
        self._open_seconds = min(2 * self._open_seconds, MAX_OPEN_SECONDS)
        self._trial_until = None
        self.slow_start.end()
        self.errors.clear()

    def _close_on_trust(self, now: float) -> None:
        """Only a complete answer clears the failures, so the next failure opens it again, and for longer."""
        self._close(now)
        self._failures = self._open_after - 1

    def _close(self, now: float) -> None:
        if self.cause is not Cause.FAILURES:
            self._calm_at = now + CALM_SECONDS
        self._open_until = self._trial_until = self.cause = None
        self.well = self.probes is ProbeState.HEALTHY
        self.slow_start.begin(now)


def is_engine_failure(outcome: Outcome) -> bool:
    """Whether the endpoint is to blame: every cause but a status, and a 5xx without output."""
    if outcome.failure is None or outcome.failure is FailureCause.STATUS:
        return outcome.status >= 500 and outcome.status not in REQUEST_CAUSED_5XX and not outcome.started
    return True
