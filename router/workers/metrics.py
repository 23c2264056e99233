"""What the supervisor counts itself.

Floor: an adapter. Labels are bounded by `server.workers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.metrics import COUNTERS
from router.workers.place import Stage

_RELOADS = "promptlane_config_reloads"

WORKER_COUNTERS = {
    "promptlane_worker_restarts": (
        ("worker",),
        "Workers that ended unasked and were started again, by number from 0; with server.workers above 1.",
    ),
    "promptlane_worker_hung": (
        ("worker",),
        "Of these, workers that were killed, having given no sign of life for server.worker_timeout seconds.",
    ),
}
WORKER_GAUGES = {
    "promptlane_workers": (
        ("stage",),
        "Workers by what they do (stage=starting|serving|paused: one that ended early again is started later).",
    ),
}


class SupervisorMetrics(Collector):
    """`stages`: of all workers' places now."""

    def __init__(self, stages: Callable[[], Iterable[Stage]]) -> None:
        self.restarts: Counter[str] = Counter()
        self.hung: Counter[str] = Counter()
        self.reloads: Counter[str] = Counter()
        self._stages = stages
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # the workers' are added to it

    def render(self) -> str:
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        for name, totals in (("promptlane_worker_restarts", self.restarts), ("promptlane_worker_hung", self.hung)):
            yield _counter(name, WORKER_COUNTERS[name], totals)
        yield _counter(_RELOADS, COUNTERS[_RELOADS], self.reloads)
        labels, text = WORKER_GAUGES["promptlane_workers"]
        gauge, now = GaugeMetricFamily("promptlane_workers", text, labels=labels), Counter(self._stages())
        for stage in Stage:
            gauge.add_metric((stage.value,), now[stage])
        yield gauge

    def describe(self) -> Iterable[Metric]:
        return ()


def _counter(name: str, row: tuple[tuple[str, ...], str], totals: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, row[1], labels=row[0])
    for value, total in totals.items():
        family.add_metric((value,), total)
    return family
