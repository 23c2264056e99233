"""Prometheus metrics: families made once, labels bounded by the configuration, nothing global.

Floor: an adapter. The hot path adds to numbers in a dictionary; the library makes families of them, and of the live
state of endpoints, when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router.pool_metrics import PoolCollector
from router.pools import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds. From one decode step of a fast engine to a long prompt behind a full queue.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_LABELS = ("tenant", "api", "lane")

# Every family with its labels and meaning; the README's table is checked against this.
COUNTERS = {
    "promptlane_requests": ((*_LABELS, "status"), "Requests answered, by HTTP status (499: the client left)."),
    "promptlane_rejections": (("tenant", "reason"), "Requests refused by the gateway, by error code."),
    "promptlane_retries": (("pool", "cause"), "Attempts repeated at another endpoint, by the cause of the failure."),
    "promptlane_prompt_tokens": (("tenant", "model"), "Prompt tokens, as engines reported them."),
    "promptlane_completion_tokens": (("tenant", "model"), "Completion tokens, as engines reported them."),
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
    "promptlane_kv_events": (("pool", "endpoint"), "KV events received from the engine (pools with kv_events)."),
    "promptlane_kv_gaps": (("pool", "endpoint"), "Times that messages with KV events were missing."),
    "promptlane_kv_replays": (("pool", "endpoint"), "Times that the engine told older KV events again."),
    "promptlane_kv_malformed": (("pool", "endpoint"), "Messages with KV events that could not be read."),
    "promptlane_drills": (("pool", "fault", "result"), "Drills carried out (result=passed|failed)."),
    "promptlane_config_reloads": (("result",), "Reloads of the configuration (result=ok|refused)."),
    "promptlane_internal_errors": (("where",), "Faults of the gateway itself."),
}
HISTOGRAMS = {
    "promptlane_request_seconds": (_LABELS, "From the request's arrival to the end of its answer."),
    "promptlane_first_byte_seconds": (_LABELS, "From the request's arrival to the first byte of its answer."),
    "promptlane_queue_seconds": (("pool", "lane"), "Time a request waited for an endpoint with room."),
}


class Metrics(Collector):
    """All families of one process. A request adds to plain numbers; families are made of them when somebody scrapes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._totals: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in COUNTERS}
        self._spreads: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in HISTOGRAMS}
        self.registry.register(self)
        ProcessCollector(registry=self.registry)  # process_open_fds, process_resident_memory_bytes and their like

    def watch_pools(self, pools: Callable[[], Iterable[Pool]]) -> None:
        """Exports the live state of whatever `pools` returns at each scrape, so that a reload needs nothing here."""
        self.registry.register(PoolCollector(pools))

    def add(self, name: str, *labels: str, amount: float = 1) -> None:
        """Adds to a counter; `amount` is never negative. Raises ValueError for a wrong number of labels."""
        totals = self._totals[name]
        if labels not in totals:
            _check(name, COUNTERS[name][0], labels)
            totals[labels] = 0.0
        totals[labels] += amount

    def total(self, name: str, *labels: str) -> float:
        """The sum of a counter's values whose labels begin with these."""
        return sum(total for found, total in self._totals[name].items() if found[: len(labels)] == labels)

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Adds one value to a histogram."""
        spreads = self._spreads[name]
        spread = spreads.get(labels)
        if spread is None:
            _check(name, HISTOGRAMS[name][0], labels)
            spread = spreads[labels] = [0.0] * (len(_BUCKETS) + 2)  # one per bucket, the rest, the sum
        spread[bisect_left(_BUCKETS, seconds)] += 1
        spread[-1] += seconds

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        for name, (labels, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=labels)
            for values, total in list(self._totals[name].items()):
                counter.add_metric(values, total)
            yield counter
        for name, (labels, text) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, text, labels=labels)
            for values, spread in list(self._spreads[name].items()):
                counts = list(accumulate(spread[:-1]))
                bounds = [*map(str, _BUCKETS), "+Inf"]
                histogram.add_metric(values, list(zip(bounds, counts, strict=True)), sum_value=spread[-1])
            yield histogram

    def describe(self) -> Iterable[Metric]:
        return ()


def _check(name: str, wanted: tuple[str, ...], labels: tuple[str, ...]) -> None:
    if len(wanted) != len(labels):
        raise ValueError(f"{name} has the labels {', '.join(wanted)}; got {len(labels)}")
