"""Gauges of API keys, made when somebody scrapes.

Floor: an adapter. Labels are bounded by the configuration: a key whose tenant it does not have is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.key_watch import KeyWatch
from router.tenants import TenantDirectory

KEY_GAUGES = {
    "promptlane_keys": (
        ("tenant", "source"),
        "API keys that are valid now, of the configuration and of the database (source=config|database).",
    ),
    "promptlane_keys_look_age_seconds": (
        (),
        "Since the database last answered which keys there are; none before it has, or without one.",
    ),
}


class KeyCollector(Collector):
    """Makes the families of whatever `directory` returns at each scrape. `watch`: None without a database; the clocks
    are the process's, monotonic and Unix seconds."""

    def __init__(
        self,
        directory: Callable[[], TenantDirectory],
        watch: KeyWatch | None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._watch = watch
        self._clock = clock
        self._wall_clock = wall_clock

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in KEY_GAUGES.items()}
        for labels, count in self._directory().live_keys(self._wall_clock()).items():
            families["promptlane_keys"].add_metric(labels, count)
        if self._watch is not None and self._watch.looked_at is not None:
            families["promptlane_keys_look_age_seconds"].add_metric((), self._clock() - self._watch.looked_at)
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        return ()
