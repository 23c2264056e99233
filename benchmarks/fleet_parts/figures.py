"""From exchanges to the figures of a line of the table.

Floor: benchmarks; pure. Times come in on the client's clock and go out in the trace's seconds (`scale` times as long).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.fleet_parts.client import Exchange
from benchmarks.replay_parts.gateway import LONG_TOKENS
from benchmarks.replay_parts.runs import percentile

REFUSED = frozenset({429, 503})
"""Statuses by which a gateway turns a request away; everything else that is no whole answer is an error."""


@dataclass(frozen=True)
class Figures:
    """Seconds of the trace and ratios. `ttft_*` and `tpot_p99` are over whole answers, `rejected` and `errors` counts,
    `refusals` those rejected by what they were told.

    `imbalance`: requests at the fullest engine over the mean, as arrivals find them. `foreseen`: cached tokens that the
    gateway predicted, of those that engines reported; `ttft_seen`: time to first token after dispatch, measured over
    predicted, the median. None where there is nothing to divide.
    """

    answered: int
    rejected: int
    refusals: dict[str, int]
    errors: dict[str, int]
    ttft_mean: float
    ttft_p50: float
    ttft_p90: float
    ttft_p99: float
    short_ttft_p99: float
    tpot_p99: float
    imbalance: float
    cached_ratio: float
    foreseen: float | None
    ttft_seen: float | None
    queued_mean: float


def summarize(exchanges: Sequence[Exchange], scale: float, endpoints: int) -> Figures:
    whole = [one for one in exchanges if not one.answer.failed]
    failed = [one.answer for one in exchanges if one.answer.failed]
    wrong = Counter(answer.failed for answer in failed if answer.status not in REFUSED)
    refused = Counter(answer.failed for answer in failed if answer.status in REFUSED)
    ttft = [scale * one.ttft for one in whole if one.ttft is not None]
    short = [scale * one.ttft for one in whole if one.ttft is not None and one.answer.prompt_tokens <= LONG_TOKENS]
    cached = sum(one.answer.cached_tokens for one in whole)
    return Figures(
        answered=len(whole),
        rejected=refused.total(),
        refusals=dict(refused.most_common()),
        errors=dict(wrong.most_common()),
        ttft_mean=mean(ttft),
        ttft_p50=percentile(ttft, 50),
        ttft_p90=percentile(ttft, 90),
        ttft_p99=percentile(ttft, 99),
        short_ttft_p99=percentile(short, 99),
        tpot_p99=percentile([scale * one.tpot for one in whole if one.tpot is not None], 99),
        imbalance=imbalance(exchanges, endpoints),
        cached_ratio=_ratio(cached, sum(one.answer.prompt_tokens for one in whole)) or 0.0,
        foreseen=_ratio(sum(one.answer.foreseen_cached or 0 for one in whole), cached),
        ttft_seen=_ttft_seen(whole),
        queued_mean=mean([scale * one.answer.queue_seconds for one in whole]),
    )


def imbalance(exchanges: Sequence[Exchange], endpoints: int) -> float:
    """Requests at the fullest engine over the mean of all, summed over arrivals. A request is at its engine from when
    it left the gateway's queue to its last byte; 1 when arrivals find nobody."""
    moments: list[tuple[float, int, str]] = []  # at one moment arrivals look first, then who enters, then who leaves
    for one in exchanges:
        moments.append((one.sent_at, 1, ""))
        if one.answer.endpoint:
            moments.append((one.sent_at + one.answer.queue_seconds, 2, one.answer.endpoint))
            moments.append((max(one.answer.last_at, one.sent_at + one.answer.queue_seconds), 3, one.answer.endpoint))
    at: Counter[str] = Counter()
    fullest = present = 0.0
    for _, kind, endpoint in sorted(moments):
        if kind == 1:
            fullest += max(at.values(), default=0)
            present += at.total() / endpoints
        else:
            at[endpoint] += 1 if kind == 2 else -1
    return fullest / present if present else 1.0


def _ttft_seen(whole: Sequence[Exchange]) -> float | None:
    ratios = [
        (one.ttft - one.answer.queue_seconds) / one.answer.foreseen_ttft
        for one in whole
        if one.ttft is not None and one.answer.foreseen_ttft
    ]
    return percentile(ratios, 50) if ratios else None


def mean(values: Sequence[float]) -> float:
    """0 of none."""
    return sum(values) / len(values) if values else 0.0


def _ratio(value: float, base: float) -> float | None:
    return value / base if base else None
