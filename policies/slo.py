"""What a finished request means for its tenant's objectives: whether it was answered, and whether soon enough.

Floor: `policies`, pure. Only what the service is to blame for counts: a request that its sender got wrong, or that a
limit of its tenant refused, says nothing. The share of bad requests, divided by the share that may be bad, is the burn
rate of alerts (Site Reliability Workbook, chapter 5, "Alerting on SLOs").
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from policies.types import Slo

TTFT = "ttft"
AVAILABILITY = "availability"


class End(StrEnum):
    """How a request ended, by who is to blame."""

    ANSWERED = "answered"
    FAILED = "failed"
    LEFT = "left"  # its client did, before the end
    EXEMPT = "exempt"  # wrong, or not allowed: nobody's failure


def ending(*, left: bool, exempt: bool, failed: bool) -> End:
    """Of a request whose client has `left`; that was wrong, or that a limit of its tenant refused (`exempt`); or that
    `failed`."""
    if left:
        return End.LEFT
    if exempt:
        return End.EXEMPT
    return End.FAILED if failed else End.ANSWERED


def judge(slo: Slo, end: End, *, timed: bool, first_byte: float | None, total: float) -> Iterator[tuple[str, bool]]:
    """Each objective that the request says something of, and whether it was good.

    `timed`: it is a stream that somebody waits for. `first_byte`, `total`: seconds since it arrived; None: none came.
    A client that left within the time says nothing; one that waited in vain for longer was not served in time.
    """
    if end is End.EXEMPT:
        return
    if end is not End.LEFT:
        yield AVAILABILITY, end is End.ANSWERED
    if timed and (first_byte is not None or end is not End.LEFT or total > slo.ttft_seconds):
        yield TTFT, first_byte is not None and first_byte <= slo.ttft_seconds


def targets(slo: Slo) -> dict[str, float]:
    """The share of good requests that each objective asks for."""
    return {TTFT: slo.share, AVAILABILITY: slo.availability}
