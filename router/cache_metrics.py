"""Gauges of the answers that caches keep, made when somebody scrapes.

Floor: an adapter. Labels are bounded by the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.response_cache.cache import TenantCache

CACHE_GAUGES = {
    "promptlane_cache_bytes": (
        ("tenant",),
        "Bytes of the answers that are kept in memory (a cache with store=memory).",
    ),
    "promptlane_cache_entries": (("tenant",), "How many these are."),
    "promptlane_cache_shared_bytes": (
        ("tenant",),
        "Bytes of the answers that are kept in Redis, as it said when this process last put one in (store=redis).",
    ),
    "promptlane_cache_shared_entries": (("tenant",), "How many these are, by the same."),
}
_NAMES: Final = {"memory": "promptlane_cache_", "redis": "promptlane_cache_shared_"}


class CacheCollector(Collector):
    """`caches`: by tenant, as they are now."""

    def __init__(self, caches: Callable[[], Mapping[str, TenantCache]]) -> None:
        self._caches = caches

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in CACHE_GAUGES.items()}
        for tenant, cache in self._caches().items():
            said = cache.store.describe()
            for what in ("bytes", "entries"):
                families[f"{_NAMES[cache.store.kind]}{what}"].add_metric((tenant,), said[what])
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        return ()
