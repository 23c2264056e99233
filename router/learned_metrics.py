"""Gauges of what was learned of tenants' models: bytes per token, lengths of answers.

Floor: an adapter. Labels are bounded by the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from policies.output_length import OutputLengths
from router.calls import ServedModel

_QUANTILES = (0.5, 0.9, 0.99)

LEARNED = {
    "promptlane_bytes_per_token": (("tenant", "model"), "Bytes of prompt text per token, by what engines count."),
    "promptlane_answer_tokens": (
        ("tenant", "model", "quantile"),
        "Tokens that this share of answers does not exceed, each choice by itself.",
    ),
}


class LearnedCollector(Collector):
    """`models`: by tenant and name, as they are served now."""

    def __init__(self, models: Callable[[], Mapping[str, Mapping[str, ServedModel]]], lengths: OutputLengths) -> None:
        self._models = models
        self._lengths = lengths

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in LEARNED.items()}
        for tenant, models in self._models().items():
            for name, served in models.items():
                families["promptlane_bytes_per_token"].add_metric((tenant, name), served.estimator.bytes_per_token)
                for share in _QUANTILES:
                    tokens = self._lengths.quantile(tenant, name, share)
                    if tokens is not None:
                        families["promptlane_answer_tokens"].add_metric((tenant, name, str(share)), tokens)
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        return ()
