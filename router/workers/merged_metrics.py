"""The metrics of N workers as those of one gateway.

Floor: text in, text out. Counters and histograms are added up, and those of workers that have ended stay in the sum, as
they were last heard: a sum that falls would be taken for a restart of all, and counted again. What a gauge of N is, is
said per family.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar, Sample

LEADS = "promptlane_replica_part"


class Rule(Enum):
    """What a gauge is of all workers. Of a pool's, the worker that decides for it says it, who alone knows of the
    requests of all; where none of these workers does (another host's replica may), all of them together."""

    SUM = auto()
    MOST = auto()
    LEAST = auto()
    MEAN = auto()
    OWNERS_OR_SUM = auto()
    OWNERS_OR_MOST = auto()
    OWNERS_ALONE = auto()  # as above, where the labels say it too: what others take for it is left out


RULES = {
    # A follower has nobody waiting; who is alone has its own.
    "promptlane_waiting": Rule.SUM,
    "promptlane_pool_saturation": Rule.OWNERS_OR_MOST,
    "promptlane_standby_level": Rule.OWNERS_OR_MOST,
    "promptlane_standby_held": Rule.SUM,
    "promptlane_replica_part": Rule.SUM,
    "promptlane_replica_term": Rule.MOST,
    "promptlane_replica_seats": Rule.SUM,
    "promptlane_endpoint_available": Rule.OWNERS_OR_MOST,
    "promptlane_endpoint_status": Rule.OWNERS_ALONE,
    "promptlane_endpoint_hourly_cost": Rule.MOST,
    "promptlane_endpoint_in_flight": Rule.OWNERS_OR_SUM,
    "promptlane_endpoint_outstanding_tokens": Rule.OWNERS_OR_SUM,
    "promptlane_endpoint_prefix_blocks": Rule.OWNERS_OR_MOST,
    "promptlane_kv_in_sync": Rule.OWNERS_OR_MOST,
    "promptlane_endpoint_kv_usage": Rule.OWNERS_OR_MOST,
    "promptlane_endpoint_prefill_seconds_per_token": Rule.OWNERS_OR_MOST,
    "promptlane_endpoint_attention_seconds_per_pair": Rule.OWNERS_OR_MOST,
    "promptlane_endpoint_decode_step_seconds": Rule.OWNERS_OR_MOST,
    "promptlane_endpoint_index_factor": Rule.OWNERS_OR_MOST,
    "promptlane_endpoint_affinity_useless": Rule.OWNERS_OR_MOST,
    "promptlane_endpoint_connections": Rule.SUM,
    "promptlane_discovery_endpoints": Rule.OWNERS_OR_MOST,
    "promptlane_discovery_age_seconds": Rule.MOST,
    "promptlane_discovery_told": Rule.LEAST,
    "promptlane_build_info": Rule.MOST,
    "promptlane_reaches_engines": Rule.MOST,
    "promptlane_slo_target_share": Rule.MOST,
    "promptlane_slo_ttft_seconds": Rule.MOST,
    "promptlane_keys": Rule.MOST,
    # In memory each worker keeps its own; in Redis they keep them together.
    "promptlane_cache_bytes": Rule.SUM,
    "promptlane_cache_entries": Rule.SUM,
    "promptlane_cache_shared_bytes": Rule.MOST,
    "promptlane_cache_shared_entries": Rule.MOST,
    "promptlane_keys_look_age_seconds": Rule.MOST,
    # Each worker has a spool and a chain of its own.
    "promptlane_ledger_waiting": Rule.SUM,
    "promptlane_ledger_spool_bytes": Rule.SUM,
    "promptlane_ledger_lag_seconds": Rule.MOST,
    "promptlane_ledger_sequence": Rule.MOST,
    "promptlane_ledger_begun_anew": Rule.MOST,
    "promptlane_ledger_intact": Rule.LEAST,
    # Each worker learns these by itself.
    "promptlane_bytes_per_token": Rule.MEAN,
    "promptlane_answer_tokens": Rule.MEAN,
    "promptlane_output_drift": Rule.MOST,
    "promptlane_output_level": Rule.MEAN,
    "promptlane_workers": Rule.SUM,
    "process_virtual_memory_bytes": Rule.SUM,
    "process_resident_memory_bytes": Rule.SUM,
    "process_open_fds": Rule.SUM,
    "process_max_fds": Rule.SUM,
    "process_start_time_seconds": Rule.LEAST,
}
NOT_OF_WORKERS = frozenset({"promptlane_config_reloads"})
"""A reload is one, however many take part in it: the supervisor counts them."""

Labels = tuple[tuple[str, str], ...]
Values = dict[tuple[str, Labels], float]
_END = "# EOF\n"  # of OpenMetrics, and of nothing else


@dataclass(slots=True)
class Family:
    """`values`: by a sample's name and labels; `exemplars`: of those that have one."""

    kind: str
    text: str
    values: Values = field(default_factory=dict)
    exemplars: dict[tuple[str, Labels], Exemplar] = field(default_factory=dict)

    @property
    def grows(self) -> bool:
        return self.kind in ("counter", "histogram")


Families = dict[str, Family]


class MergedMetrics:
    """`heard` and `left` are told of every worker by its life, which no two have in common."""

    def __init__(self) -> None:
        self._last: dict[str, Families] = {}
        self._gone: Families = {}

    def heard(self, life: str, text: str) -> Families:
        """What a worker says now."""
        found = self._last[life] = read(text)
        for name in NOT_OF_WORKERS & found.keys():
            del found[name]
        return found

    def left(self, life: str) -> None:
        """A worker has ended."""
        for name, family in self._last.pop(life, {}).items():
            if family.grows:
                _add(self._gone, name, family)

    def render(self, now: Mapping[str, Families], own: str) -> bytes:
        """The text that Prometheus scrapes. `now`: what workers have just said; who has not counts as last heard, and
        has no gauges. `own`: the supervisor's."""
        return self.scraped(now, own, "")[0]

    def scraped(self, now: Mapping[str, Families], own: str, accept: str) -> tuple[bytes, str]:
        """The same as the scraper would `accept` it, and its content type."""
        parts = [*now.values(), read(own)]
        silent = [families for life, families in self._last.items() if life not in now]
        merged: Families = {}
        for families in [*parts, *silent, self._gone]:
            for name, family in families.items():
                if family.grows:
                    _add(merged, name, family)
                elif families is not self._gone:
                    merged.setdefault(name, Family(family.kind, family.text))
        for name, family in merged.items():
            if not family.grows:
                family.values = gauge(name, parts)
        encode, kind = choose_encoder(accept)
        return encode(_Registry(merged)), kind


def read(text: str) -> Families:
    """A scrape's families by name."""
    found: Families = {}
    families = open_metrics_families if text.endswith(_END) else text_string_to_metric_families
    for metric in families(text):
        family = found.setdefault(metric.name, Family(metric.type, metric.documentation))
        for sample in metric.samples:
            key = sample.name, tuple(sample.labels.items())
            family.values[key] = float(sample.value)
            if sample.exemplar is not None:
                family.exemplars[key] = sample.exemplar
    return found


def gauge(name: str, parts: Iterable[Families]) -> Values:
    """A gauge of all by its rule; without one it is the most."""
    rule = RULES.get(name, Rule.MOST)
    said: dict[tuple[str, Labels], list[float]] = {}
    owners: Values = {}
    owned: set[str | None] = set()
    for families in parts:
        leads = _leads(families)
        owned |= leads if name in families else set()
        for key, value in families[name].values.items() if name in families else ():
            said.setdefault(key, []).append(value)
            if dict(key[1]).get("pool") in leads:
                owners[key] = value
    if rule is Rule.OWNERS_ALONE:
        said = {key: values for key, values in said.items() if key in owners or dict(key[1]).get("pool") not in owned}
    by_owner = rule in (Rule.OWNERS_OR_SUM, Rule.OWNERS_OR_MOST, Rule.OWNERS_ALONE)
    return {key: owners[key] if by_owner and key in owners else _together(rule, said[key]) for key in said}


def _together(rule: Rule, values: list[float]) -> float:
    if rule in (Rule.SUM, Rule.OWNERS_OR_SUM):
        return sum(values)
    if rule is Rule.LEAST:
        return min(values)
    return sum(values) / len(values) if rule is Rule.MEAN else max(values)


def _leads(families: Families) -> set[str | None]:
    """The pools that this worker decides for."""
    if LEADS not in families:
        return set()
    labels = [dict(labels) for (_, labels), value in families[LEADS].values.items() if value]
    return {one.get("pool") for one in labels if one.get("part") == "leads"}


def _add(to: Families, name: str, family: Family) -> None:
    """Of exemplars the last stays."""
    into = to.setdefault(name, Family(family.kind, family.text))
    for key, value in family.values.items():
        into.values[key] = into.values.get(key, 0.0) + value
    for key, shown in family.exemplars.items():
        if key not in into.exemplars or _at(into.exemplars[key]) < _at(shown):
            into.exemplars[key] = shown


def _at(shown: Exemplar) -> float:
    return float(shown.timestamp or 0)


class _Registry:
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            metric = Metric(name, family.text, family.kind)
            metric.samples = [
                Sample(key[0], dict(key[1]), value, None, family.exemplars.get(key))
                for key, value in family.values.items()
            ]
            yield metric
