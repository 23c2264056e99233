"""Gauges of what is promised, beside which the counters are read: tenants' objectives, the version that runs.

Floor: an adapter. Labels are bounded by the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from policies.slo import targets
from policies.types import Tenant
from router import __version__

SERVICE_GAUGES = {
    "promptlane_build_info": (("version",), "1 for the version that runs."),
    "promptlane_reaches_engines": ((), "1 while an engine of any pool answers this process's probes."),
    "promptlane_slo_target_share": (
        ("tenant", "tier", "objective"),
        "Share of the tenant's requests that shall be good, where its tier has a slo (objective=ttft|availability).",
    ),
    "promptlane_slo_ttft_seconds": (("tenant", "tier"), "Time to the first byte that is still good, by the same."),
}


class ServiceCollector(Collector):
    """`tenants`: as they are served now; `reaches`: whether an engine is reached."""

    def __init__(self, tenants: Callable[[], Iterable[Tenant]], reaches: Callable[[], bool]) -> None:
        self._tenants = tenants
        self._reaches = reaches

    def collect(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in SERVICE_GAUGES.items()
        }
        families["promptlane_build_info"].add_metric((__version__,), 1.0)
        families["promptlane_reaches_engines"].add_metric((), float(self._reaches()))
        for tenant in self._tenants():
            if (slo := tenant.tier.slo) is None:
                continue
            labels = (tenant.id, tenant.tier.name)
            families["promptlane_slo_ttft_seconds"].add_metric(labels, slo.ttft_seconds)
            for objective, share in targets(slo).items():
                families["promptlane_slo_target_share"].add_metric((*labels, objective), share)
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        return ()
