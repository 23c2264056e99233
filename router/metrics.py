"""Prometheus metrics: families made once, labels bounded by the configuration, nothing global.

Floor: an adapter. The hot path adds to numbers in a dictionary; the library makes families of them, and of the live
state of endpoints, when somebody scrapes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from router.pool_metrics import PoolCollector
from router.pools import Pool

# Seconds. From one decode step of a fast engine to a long prompt behind a full queue.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Seconds between two tokens: from a small model on a fast GPU to an engine that is full.
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_LABELS = ("tenant", "api", "lane")

# Every family with its labels and meaning; the table in deploy/observability/README.md is checked against this.
COUNTERS = {
    "promptlane_requests": ((*_LABELS, "status"), "Requests answered, by HTTP status (499: the client left)."),
    "promptlane_rejections": (("tenant", "reason"), "Requests refused by the gateway, by error code."),
    "promptlane_queue_refusals": (
        ("pool", "lane", "reason"),
        "Requests that found no room in the lane (reason=full), or no endpoint in time (reason=deadline).",
    ),
    "promptlane_limit_refusals": (
        ("tenant", "scope", "limit", "mode"),
        "Requests that a limit refused (mode=enforced), or would have if it were no shadow (mode=shadow), by whose "
        "limit it is (scope=tenant|key|model) and which.",
    ),
    "promptlane_limit_calls": (
        ("result",),
        "Calls to what limits are shared by, Redis or the supervisor of workers (result=ok|failed).",
    ),
    "promptlane_limit_alone": (
        ("tenant",),
        "Requests admitted while that was away, by without_redis.",
    ),
    "promptlane_attempt_failures": (
        ("pool", "endpoint", "cause"),
        "Attempts that failed at an endpoint, by the cause.",
    ),
    "promptlane_retries": (("pool", "cause"), "Attempts repeated at another endpoint, by the cause of the failure."),
    "promptlane_retry_budget_exhausted": (
        ("pool",),
        "Failed attempts that were not repeated, as retry_budget allowed no more.",
    ),
    "promptlane_hedges": (
        ("pool", "result"),
        "Late short requests by what came of a second copy: it answered first (result=won), the first did (lost), "
        "neither did (failed), no other endpoint was free (nowhere), hedging.share allowed no more (refused).",
    ),
    "promptlane_resumes": (
        ("pool", "way", "result"),
        "Streams that broke and could have gone on elsewhere: by their tokens, by their text or begun again "
        "(way=tokens|text|again), with what came of the attempt (result=ok|failed; diverged: it "
        "did not say again what the client had of a stream with stop strings), or not attempted "
        "(result=complete: nothing was missing; declined; no_endpoint).",
    ),
    "promptlane_cache_requests": (
        ("tenant", "result"),
        "Requests of tenants with a cache: answered from there (result=hit) or not (miss), not looked for as the "
        "client wished (bypass), or without one answer only (unfit).",
    ),
    "promptlane_cache_answers": (
        ("tenant", "result"),
        "Answers put into the cache (result=stored), those that had to go for them before their time (evicted), and "
        "those not put in: longer than is kept (too_long), too many waited (dropped), Redis was away (failed).",
    ),
    "promptlane_cache_calls": (
        ("result",),
        "Calls to the Redis of caches (result=ok|failed; skipped: it was away a moment ago).",
    ),
    "promptlane_prompt_tokens": (("tenant", "model"), "Prompt tokens, as engines reported them."),
    "promptlane_completion_tokens": (("tenant", "model"), "Completion tokens, as engines reported them."),
    "promptlane_cached_prompt_tokens": (
        ("tenant", "model"),
        "Of these prompt tokens, those that engines report to have had in their cache.",
    ),
    "promptlane_cost_micro_usd": (
        ("tenant", "model"),
        "What requests cost, as their records say it: by the model's prices, or without them by the time of its "
        "engines; in millionths of the configuration's currency.",
    ),
    "promptlane_slo_requests": (
        ("tenant", "objective", "result"),
        "Requests that say something of an objective of their tenant's tier (objective=ttft: streams of the lanes "
        "short and long; availability), by whether they met it (result=good|bad). Wrong requests and those that a "
        "limit or a rule of the tenant refused count for neither.",
    ),
    "promptlane_forecast_seconds": (
        ("pool", "endpoint", "kind"),
        "From the sending of streams to their first byte, as predicted (kind=predicted) and as it was (kind=real).",
    ),
    "promptlane_cached_tokens": (
        ("pool", "endpoint", "kind"),
        "Prompt tokens predicted (kind=predicted) and reported (kind=reported) to be in the engine's cache, of the "
        "answers that report them.",
    ),
    "promptlane_affinity_blind": (
        ("pool", "api", "reason"),
        "Requests sent without a prefix block, which affinity could not help: their prompt is shorter than one "
        "(reason=short), or none was found in the body (reason=no_prompt).",
    ),
    "promptlane_guard_verdicts": (
        ("tenant", "rule", "side", "action"),
        "Things that a tenant's rules found (side=input|output; action=log|redact|block); block also where a rule that "
        "fails closed could not look.",
    ),
    "promptlane_guard_failures": (
        ("tenant", "rule", "side", "cause"),
        "Times that a rule could not examine something (cause=timeout|unreachable|status|nonsense|size|presidio).",
    ),
    "promptlane_kv_events": (("pool", "endpoint"), "KV events received from the engine (pools with kv_events)."),
    "promptlane_kv_gaps": (("pool", "endpoint"), "Times that messages with KV events were missing."),
    "promptlane_kv_replays": (("pool", "endpoint"), "Times that the engine told older KV events again."),
    "promptlane_kv_malformed": (("pool", "endpoint"), "Messages with KV events that could not be read."),
    "promptlane_endpoint_ejections": (
        ("pool", "endpoint", "cause"),
        "Times that an endpoint was taken out though its probes were good: requests failed in a row (cause=failures), "
        "far more often than at the pool's others (cause=outlier), or it was silent (cause=hung).",
    ),
    "promptlane_canaries": (
        ("pool", "endpoint", "result"),
        "Tiny requests of the gateway's own by which an endpoint showed whether it works (result=good|bad), or that it "
        "computes no completions (result=cannot).",
    ),
    "promptlane_failovers": (
        ("pool", "to", "cause"),
        "Changes of who serves a pool (to=hot|warm|cold|degraded; cause=nobody|errors|latency|calm).",
    ),
    "promptlane_recovery_missed": (("tenant", "tier"), "Recoveries that took longer than the tier's rto_seconds."),
    "promptlane_mirrored": (
        ("pool", "result"),
        "Prompts copied to a standby to keep it warm (result=answered|failed|skipped).",
    ),
    "promptlane_drills": (("pool", "fault", "result"), "Drills carried out (result=passed|failed)."),
    "promptlane_key_looks": (
        ("result",),
        "Looks at the database for keys made, revoked or rotated (result=changed|same|failed).",
    ),
    "promptlane_replica_decisions": (
        ("pool", "by"),
        "Requests by who decided where they go: this replica as the pool's owner (by=leads), the owner (follows), this "
        "replica as it reached none (alone); or asked for anew as the owner was gone (again).",
    ),
    "promptlane_replica_asked": (
        ("result",),
        "Requests of other replicas that this one was asked for (result=bound|refused|aside|not_mine).",
    ),
    "promptlane_replica_changes": (("pool", "to"), "Changes of this replica's part (to=leads|follows|alone)."),
    "promptlane_replica_store_failures": (
        (),
        "Looks at Redis, or at the workers' folder, that failed: owners go on as they are.",
    ),
    "promptlane_config_reloads": (("result",), "Reloads of the configuration (result=ok|refused)."),
    "promptlane_internal_errors": (("where",), "Faults of the gateway itself."),
}
HISTOGRAMS = {
    "promptlane_request_seconds": (_LABELS, "From the request's arrival to the end of its answer."),
    "promptlane_first_byte_seconds": (_LABELS, "From the request's arrival to the first byte of its answer."),
    "promptlane_output_token_seconds": (_LABELS, "Between two tokens of a streamed answer, on its average."),
    "promptlane_forecast_error_seconds": (
        ("pool",),
        "How far the predicted time to the first byte of a stream was from the real one, either way.",
    ),
    "promptlane_resume_seconds": (("pool",), "From the failure of a stream's engine to the next token, by another."),
    "promptlane_guard_seconds": (
        ("tenant", "side"),
        "Time that a tenant's rules took for a prompt (side=input) or a whole answer (output), services included.",
    ),
    "promptlane_queue_seconds": (("pool", "lane"), "Time a request waited for an endpoint with room."),
    "promptlane_recovery_seconds": (
        ("tenant", "tier"),
        "From the tenant's first failed or held request to its first good answer, where a standby had to take over.",
    ),
}
_BUCKETS_OF = dict.fromkeys(HISTOGRAMS, _BUCKETS) | {"promptlane_output_token_seconds": _TOKEN_BUCKETS}


class Metrics(Collector):
    """All families of one process. A request adds to plain numbers; families are made of them when somebody scrapes."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock`: Unix seconds."""
        self._wall_clock = wall_clock
        # Of each histogram the last in each bucket: a trace, what it showed, and when.
        self._exemplars: dict[str, dict[tuple[str, ...], dict[int, tuple[str, float, float]]]] = {
            name: {} for name in HISTOGRAMS
        }
        self.registry = CollectorRegistry()
        # Each total is a list of one: to add to it takes one look at the labels, where a number takes two.
        self._totals: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in COUNTERS}
        self._spreads: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in HISTOGRAMS}
        self.registry.register(self)
        ProcessCollector(registry=self.registry)  # process_open_fds, process_resident_memory_bytes and their like

    def watch_pools(self, pools: Callable[[], Iterable[Pool]]) -> None:
        """Exports the live state of whatever `pools` returns at each scrape, so that a reload needs nothing here."""
        self.registry.register(PoolCollector(pools))

    def add(self, name: str, *labels: str, amount: float = 1) -> None:
        """Adds to a counter; `amount` is never negative. Raises ValueError for a wrong number of labels."""
        totals = self._totals[name]
        try:
            totals[labels][0] += amount
        except KeyError:
            _check(name, COUNTERS[name][0], labels)
            totals[labels] = [0.0 + amount]

    def forget(self, pool: str, endpoints: Collection[str]) -> None:
        """These endpoints of the pool are no more: what was counted of them goes, or pods that come and go would be
        counted for ever."""
        for name, (labels, _) in COUNTERS.items():
            if labels[:2] == ("pool", "endpoint"):
                kept = self._totals[name]
                for gone in [one for one in kept if one[0] == pool and one[1] in endpoints]:
                    del kept[gone]

    def total(self, name: str, *labels: str) -> float:
        """The sum of a counter's values whose labels begin with these."""
        return sum(total for found, (total,) in self._totals[name].items() if found[: len(labels)] == labels)

    def observe(self, name: str, seconds: float, *labels: str, trace: str | None = None) -> None:
        """Adds one value to a histogram. `trace`: the id of one that shows what it was."""
        buckets = _BUCKETS_OF[name]
        spread = self._spreads[name].get(labels)
        if spread is None:
            _check(name, HISTOGRAMS[name][0], labels)
            spread = self._spreads[name][labels] = [0.0] * (len(buckets) + 2)  # one per bucket, the rest, the sum
        bucket = bisect_left(buckets, seconds)
        spread[bucket] += 1
        spread[-1] += seconds
        if trace is not None:
            shown = self._exemplars[name].get(labels)
            if shown is None:
                shown = self._exemplars[name][labels] = {}
            shown[bucket] = trace, seconds, self._wall_clock()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def scraped(self, accept: str) -> tuple[bytes, str]:
        """The same as the scraper would `accept` it, and its content type; exemplars are in OpenMetrics alone."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind

    def collect(self) -> Iterator[Metric]:
        for name, (labels, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=labels)
            for values, (total,) in list(self._totals[name].items()):
                counter.add_metric(values, total)
            yield counter
        for name, (labels, text) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, text, labels=labels)
            for values, spread in list(self._spreads[name].items()):
                counts = list(accumulate(spread[:-1]))
                bounds = [*map(str, _BUCKETS_OF[name]), "+Inf"]
                found = self._exemplars[name].get(values, {})
                shown = {at: Exemplar({"trace_id": trace}, *what) for at, (trace, *what) in found.items()}
                pairs = enumerate(zip(bounds, counts, strict=True))
                buckets = [(*pair, shown[at]) if at in shown else pair for at, pair in pairs]
                histogram.add_metric(values, buckets, sum_value=spread[-1])
            yield histogram

    def describe(self) -> Iterable[Metric]:
        return ()


def _check(name: str, wanted: tuple[str, ...], labels: tuple[str, ...]) -> None:
    if len(wanted) != len(labels):
        raise ValueError(f"{name} has the labels {', '.join(wanted)}; got {len(labels)}")
