"""Figures of the answers that are looked at, made when somebody scrapes.

Floor: an adapter. Labels are closed sets, or come from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.ledger.outputs import Outputs

OUTPUT_COUNTERS = {
    "promptlane_output_looks": (
        ("result",),
        "Answers that were to be looked at (governance.output), by what was seen of them (result=whole|part|"
        "unreadable; skipped: there was no time or no room).",
    ),
}
OUTPUT_GAUGES = {
    "promptlane_output_drift": (
        ("tenant", "model", "measure"),
        "How far a model's last answers are from those before (population stability index; above 0.25 they have "
        "changed), where there are enough of both (measure=tokens|finish|repetition|shift|refusal|tool_calls|watched).",
    ),
    "promptlane_output_level": (
        ("tenant", "model", "measure"),
        "Mean of the same over its last answers: tokens; shares of those cut off by their length (finish), that refuse "
        "(refusal) or have odd tool calls (tool_calls); repetition; shift; watched words per 1,000 characters.",
    ),
}


class OutputCollector(Collector):
    """Of a process; None where no records are kept. `models`: names by tenant, as they are served now: of others
    nothing is told, as nothing of them will change any more."""

    def __init__(self, outputs: Outputs | None, models: Callable[[], Mapping[str, Container[str]]]) -> None:
        self._outputs = outputs
        self._models = models

    def collect(self) -> Iterator[Metric]:
        if self._outputs is None:
            return
        labels, text = OUTPUT_COUNTERS["promptlane_output_looks"]
        looks = CounterMetricFamily("promptlane_output_looks", text, labels=labels)
        for result, count in {**self._outputs.looked, "skipped": self._outputs.skipped}.items():
            looks.add_metric((result,), count)
        yield looks
        families = {
            name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in OUTPUT_GAUGES.items()
        }
        models = self._models()
        for key, reading in self._outputs.readings.items():
            if key[1] not in models.get(key[0], ()):
                continue
            families["promptlane_output_level"].add_metric(key, reading.level)
            if reading.drift is not None:
                families["promptlane_output_drift"].add_metric(key, reading.drift)
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        return ()
