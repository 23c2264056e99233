"""How finding endpoints goes, as operators see it.

Floor: assembles; made when somebody scrapes. Labels are bounded by the configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.assembly import Runtime

DISCOVERY_GAUGES = {
    "promptlane_discovery_endpoints": (
        ("pool", "status"),
        "Endpoints that were found, by what they get (status=serving|unready|draining; refused: nothing, as another "
        "pool may have the URL). Pools with `discovery`.",
    ),
    "promptlane_discovery_age_seconds": (
        ("pool",),
        "Seconds since these were last known to be right; none before the first time.",
    ),
    "promptlane_discovery_told": (("pool",), "1 while the source tells of endpoints, 0 while what was known stays."),
}
DISCOVERY_COUNTERS = {
    "promptlane_discovery_failures": (
        ("pool", "cause"),
        "Times that endpoints could not be found (cause=unreachable|timeout|credentials|forbidden|missing|status|"
        "expired|ended|malformed|unresolved|internal), or one could not be used (unusable).",
    ),
}
STATUSES = ("serving", "unready", "draining", "refused")


class DiscoveryCollector(Collector):
    """`runtime`: the one of now."""

    def __init__(self, runtime: Callable[[], Runtime]) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        gauges = {
            name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in DISCOVERY_GAUGES.items()
        }
        ((name, (labels, text)),) = DISCOVERY_COUNTERS.items()
        failures = CounterMetricFamily(name, text, labels=labels)
        runtime = self._runtime()
        for pool, source in runtime.sources.items():
            for status, count in found_counts(runtime, pool).items():
                gauges["promptlane_discovery_endpoints"].add_metric((pool, status), count)
            if (age := source.age) is not None:
                gauges["promptlane_discovery_age_seconds"].add_metric((pool,), age)
            told = source.found is not None and source.problem is None
            gauges["promptlane_discovery_told"].add_metric((pool,), float(told))
            for cause, count in source.failures.items():
                failures.add_metric((pool, cause), count)
        yield from gauges.values()
        yield failures

    def describe(self) -> Iterable[Metric]:
        return ()


def found_counts(runtime: Runtime, pool: str) -> dict[str, int]:
    """How many of each status."""
    places = [place for place in runtime.pools[pool].places if place.key is not None]
    counts = Counter(place.state.withdrawn or "serving" for place in places)
    counts["refused"] = len(runtime.roster.refused.get(pool, ())) if runtime.roster is not None else 0
    return {status: counts[status] for status in STATUSES}


def describe_discovery(runtime: Runtime, pool: str) -> dict[str, Any] | None:
    """For `/admin/state`; None where all endpoints are configured."""
    source = runtime.sources.get(pool)
    if source is None:
        return None
    refused = runtime.roster.refused.get(pool, ()) if runtime.roster is not None else ()
    return source.describe() | {
        "endpoints": found_counts(runtime, pool),
        "refused": [{"name": one.name, "url": one.url} for one in refused],
    }
