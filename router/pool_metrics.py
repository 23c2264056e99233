"""Gauges of the live state of pools and endpoints, made when somebody scrapes.

Floor: an adapter. Labels are bounded by the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from policies.admission.saturation import pool_load
from policies.exact_index import ExactIndex
from policies.standby import LEVELS
from router.pools import Place, Pool

GAUGES = {
    "promptlane_waiting": (("pool", "lane"), "Requests waiting for an endpoint with room."),
    "promptlane_pool_saturation": (("pool",), "How full the pool is: 0 idle, 1 full."),
    "promptlane_standby_level": (("pool",), "Who serves the pool: 0 hot, 1 warm, 2 cold, 3 degraded."),
    "promptlane_standby_held": (("pool",), "Requests held until a standby has woken."),
    "promptlane_replica_part": (
        ("pool", "part"),
        "1 for this replica's part in the pool: it decides (part=leads), asks the owner (follows), or reaches none "
        "(alone). Of workers: how many have it. Only with state.redis_url or server.workers.",
    ),
    "promptlane_replica_term": (("pool",), "Number of the pool's ownership; grows with every new owner."),
    "promptlane_replica_seats": (("pool",), "Requests of other replicas under way that this one has an account of."),
    "promptlane_endpoint_available": (("pool", "endpoint"), "1 when the endpoint takes requests."),
    "promptlane_endpoint_status": (
        ("pool", "endpoint", "role", "status"),
        "1 for the endpoint's role (hot|warm|cold) and its status, in the words of /admin/state.",
    ),
    "promptlane_endpoint_hourly_cost": (
        ("pool", "endpoint"),
        "Its hourly_cost, in the configuration's currency; endpoints that have one.",
    ),
    "promptlane_endpoint_in_flight": (("pool", "endpoint"), "Requests under way at the endpoint."),
    "promptlane_endpoint_outstanding_tokens": (("pool", "endpoint"), "Estimated tokens still to be computed there."),
    "promptlane_endpoint_prefix_blocks": (("pool", "endpoint"), "Prefix blocks believed to be in its KV cache."),
    "promptlane_kv_in_sync": (
        ("pool", "endpoint"),
        "1 when KV events say what its cache holds, 0 when they should and an estimate does (pools with kv_events).",
    ),
    "promptlane_endpoint_kv_usage": (("pool", "endpoint"), "Share of KV cache in use, as the engine reports it."),
    "promptlane_endpoint_prefill_seconds_per_token": (("pool", "endpoint"), "Learned prefill time per prompt token."),
    "promptlane_endpoint_attention_seconds_per_pair": (
        ("pool", "endpoint"),
        "Learned prefill time per prompt token and token before it.",
    ),
    "promptlane_endpoint_decode_step_seconds": (("pool", "endpoint"), "Learned time of a decode step of one request."),
    "promptlane_endpoint_index_factor": (
        ("pool", "endpoint"),
        "How much of its nominal size the prefix index has, by what the engine's reports have taught.",
    ),
    "promptlane_endpoint_affinity_useless": (
        ("pool", "endpoint"),
        "1 when the engine finds less than half of the prompt tokens in its cache that were predicted there.",
    ),
    "promptlane_endpoint_connections": (("pool", "endpoint", "state"), "Connections to the engine (idle|busy)."),
}


class PoolCollector(Collector):
    """Makes the families of whatever `pools` returns at each scrape."""

    def __init__(self, pools: Callable[[], Iterable[Pool]]) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in GAUGES.items()}
        for pool in self._pools():
            for lane, count in pool.desk.queue.waiting.items():
                families["promptlane_waiting"].add_metric((pool.name, lane.value), count)
            saturation = pool_load(pool.states, pool.clock()).saturation
            families["promptlane_pool_saturation"].add_metric((pool.name,), saturation)
            if pool.keeper is not None:
                families["promptlane_standby_level"].add_metric((pool.name,), LEVELS.index(pool.keeper.level))
                families["promptlane_standby_held"].add_metric((pool.name,), pool.keeper.held)
            if pool.remote is not None:
                part = pool.remote.describe()
                families["promptlane_replica_part"].add_metric((pool.name, str(part["part"])), 1.0)
                families["promptlane_replica_term"].add_metric((pool.name,), part["term"])
                families["promptlane_replica_seats"].add_metric((pool.name,), part["seats_of_followers"])
            for place in pool.places:
                labels = (pool.name, place.state.endpoint.name)
                for name, extra, value in _readings(place, pool.clock()):
                    families[name].add_metric((*labels, *extra), value)
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        return ()


def _readings(place: Place, now: float) -> Iterator[tuple[str, tuple[str, ...], float]]:
    state, upstream = place.state, place.upstream
    yield "promptlane_endpoint_available", (), float(place.available(now))
    yield "promptlane_endpoint_status", (state.endpoint.role.value, state.status(now)), 1.0
    if state.endpoint.hourly_cost:
        yield "promptlane_endpoint_hourly_cost", (), state.endpoint.hourly_cost
    yield "promptlane_endpoint_in_flight", (), state.in_flight
    yield "promptlane_endpoint_outstanding_tokens", (), state.outstanding_tokens
    yield "promptlane_endpoint_prefix_blocks", (), len(state.index)
    if isinstance(state.index, ExactIndex) and state.index.followed:
        yield "promptlane_kv_in_sync", (), float(state.index.in_sync)
    if state.kv_usage is not None:
        yield "promptlane_endpoint_kv_usage", (), state.kv_usage
    learned = state.learner.snapshot()
    yield "promptlane_endpoint_prefill_seconds_per_token", (), state.rates.prefill
    yield "promptlane_endpoint_attention_seconds_per_pair", (), state.rates.attention
    yield "promptlane_endpoint_decode_step_seconds", (), learned.decode_step
    yield "promptlane_endpoint_index_factor", (), state.feedback.factor
    yield "promptlane_endpoint_affinity_useless", (), float(state.feedback.useless)
    yield "promptlane_endpoint_connections", ("idle",), upstream.idle
    yield "promptlane_endpoint_connections", ("busy",), upstream.busy
