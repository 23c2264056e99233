"""Prometheus families: made once, bounded, and live where they show live state."""

from __future__ import annotations

import pytest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from policies.output_length import OutputLengths
from policies.tokens import TokenEstimator
from policies.types import Lane, ModelRoute
from router.calls import ServedModel
from router.learned_metrics import LearnedCollector
from router.metrics import COUNTERS, HISTOGRAMS, Metrics
from router.pool_metrics import GAUGES
from router.pools import Pool
from tests.policies.builders import make_request, make_state
from tests.router.builders import make_pool


def pool_of(name: str, *endpoints: str) -> Pool:
    return make_pool([make_state(one) for one in endpoints], name=name, max_waiting=5)


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Values by their labels, in the order of the labels' names."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def test_every_family_is_there_with_its_help_from_the_first_scrape() -> None:
    metrics = Metrics()
    metrics.watch_pools(lambda: [])
    text = metrics.render().decode()
    for name, (_, meaning) in {**COUNTERS, **HISTOGRAMS, **GAUGES}.items():
        assert f"{name} " in text or f"{name}_total " in text
        assert meaning in text


def test_two_processes_in_one_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.add("promptlane_config_reloads", "ok")
    assert samples(other, "promptlane_config_reloads_total") == {}


def test_counters_and_histograms_add_up_per_label_set() -> None:
    metrics = Metrics()
    for amount in (1.0, 2.0):
        metrics.add("promptlane_prompt_tokens", "acme", "tiny", amount=amount)
        metrics.observe("promptlane_queue_seconds", amount, "pool", "short")
    metrics.add("promptlane_prompt_tokens", "globex", "tiny")
    found = samples(metrics, "promptlane_prompt_tokens_total")
    assert found == {("tiny", "acme"): 3.0, ("tiny", "globex"): 1.0}
    assert list(samples(metrics, "promptlane_queue_seconds_sum").values()) == [3.0]


def test_a_wrong_number_of_labels_is_a_fault_at_once() -> None:
    with pytest.raises(ValueError, match="label"):
        Metrics().add("promptlane_config_reloads")


async def test_live_state_is_read_at_each_scrape_and_follows_a_reload() -> None:
    pools = [pool_of("one", "a", "b")]
    metrics = Metrics()
    metrics.watch_pools(lambda: pools)
    assert samples(metrics, "promptlane_endpoint_in_flight") == {("a", "one"): 0.0, ("b", "one"): 0.0}
    ticket = await pools[0].dispatch(make_request())
    assert samples(metrics, "promptlane_endpoint_in_flight")[ticket.endpoint, "one"] == 1.0
    assert samples(metrics, "promptlane_endpoint_available") == {("a", "one"): 1.0, ("b", "one"): 1.0}
    assert set(samples(metrics, "promptlane_waiting").items()) == {((lane, "one"), 0.0) for lane in Lane}
    assert samples(metrics, "promptlane_endpoint_kv_usage") == {}, "not known is not zero"
    pools[0].states[0].kv_usage = 0.5
    assert samples(metrics, "promptlane_endpoint_kv_usage") == {("a", "one"): 0.5}
    ticket.settle(None)
    pools[:] = [pool_of("two", "c")]
    assert samples(metrics, "promptlane_endpoint_in_flight") == {("c", "two"): 0.0}


def test_what_was_learned_of_models_is_shown_by_tenant_and_name() -> None:
    metrics, lengths, pool = Metrics(), OutputLengths(), pool_of("one", "a")
    served = ServedModel(ModelRoute("big", "one", "tiny"), pool, 1, TokenEstimator(3.5))
    metrics.registry.register(LearnedCollector(lambda: {"acme": {"big": served}}, lengths))
    assert samples(metrics, "promptlane_bytes_per_token") == {("big", "acme"): 3.5}
    assert samples(metrics, "promptlane_answer_tokens") == {}, "nothing is known of answers yet"
    for _ in range(50):
        lengths.observe("acme", "big", 100)
    found = samples(metrics, "promptlane_answer_tokens")
    assert set(found) == {("big", share, "acme") for share in ("0.5", "0.9", "0.99")}
    assert all(90 <= tokens <= 120 for tokens in found.values())


OPEN_METRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def shown(metrics: Metrics, name: str) -> dict[str, tuple[str, float, float]]:
    """The exemplars of a histogram by their bucket: trace, value and time."""
    text, kind = metrics.scraped(OPEN_METRICS)
    assert kind.startswith("application/openmetrics-text")
    return {
        sample.labels["le"]: (
            sample.exemplar.labels["trace_id"],
            sample.exemplar.value,
            float(sample.exemplar.timestamp),
        )
        for family in open_metrics_families(text.decode())
        for sample in family.samples
        if sample.name == f"{name}_bucket" and sample.exemplar is not None
    }


def gateways(text: bytes) -> list[bytes]:
    """The lines of the gateway's own figures: the process's CPU time and memory are others at every look."""
    return [line for line in text.splitlines() if b"promptlane_" in line]


def test_the_last_trace_of_each_bucket_is_its_exemplar_where_the_scraper_reads_such() -> None:
    metrics = Metrics(wall_clock=lambda: 1_700_000_000.5)
    labels = ("acme", "chat", "short")
    for seconds, trace in ((0.2, "a" * 32), (0.21, TRACE), (0.22, None), (7.0, "b" * 32), (1e9, "c" * 32)):
        metrics.observe("promptlane_first_byte_seconds", seconds, *labels, trace=trace)
    assert shown(metrics, "promptlane_first_byte_seconds") == {
        "0.25": (TRACE, 0.21, 1_700_000_000.5),
        "10.0": ("b" * 32, 7.0, 1_700_000_000.5),
        "+Inf": ("c" * 32, 1e9, 1_700_000_000.5),
    }
    assert shown(metrics, "promptlane_request_seconds") == {}
    text, kind = metrics.scraped("text/plain;version=0.0.4")
    assert (kind, TRACE.encode() in text, gateways(text)) == (CONTENT_TYPE, False, gateways(metrics.render()))


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "application/json", OPEN_METRICS])
def test_whatever_a_scraper_asks_for_it_gets_the_same_figures(accept: str) -> None:
    metrics = Metrics()
    metrics.add("promptlane_cost_micro_usd", "acme", "tiny", amount=5)
    text, _ = metrics.scraped(accept)
    assert b'promptlane_cost_micro_usd_total{model="tiny",tenant="acme"} 5.0' in text
