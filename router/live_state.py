"""The live state as operators see it (`/admin/state`): who is served by what, how that is doing, what was learned.

Floor: assembles; figures only, never a prompt, a key or a salt.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from policies.admission.saturation import pool_load
from policies.endpoint_state import EndpointState
from policies.output_length import LengthSnapshot
from policies.types import Tenant
from router import __version__
from router.assembly import Runtime
from router.calls import ServedModel
from router.discovery_metrics import describe_discovery
from router.pools import Place, Pool
from router.standbys import Standbys


def describe(runtime: Runtime) -> dict[str, Any]:
    """The live state for operators: who is served by what, and how that is doing. Holds no secret."""
    return {
        "version": __version__,
        "profile": runtime.config.routing.profile,
        "replicas": None if runtime.replicas is None else runtime.replicas.describe(),
        "tenants": {name: _tenant(tenant) for name, tenant in runtime.gateway.directory.by_id.items()},
        "pools": describe_pools(runtime, runtime.pools),
        "calibration": {
            f"{tenant}/{name}": _calibration(served)
            for tenant, models in runtime.gateway.models.items()
            for name, served in models.items()
        },
        "caches": {} if runtime.caches is None else {name: one.describe() for name, one in runtime.caches.of.items()},
        "answers": [_lengths(one) for one in runtime.gateway.services.measurer.lengths.snapshot()],
    }


def describe_pools(runtime: Runtime, names: Collection[str]) -> dict[str, Any]:
    """Those of them that there are."""
    return {
        name: _pool(pool, runtime.standbys.get(name)) | {"discovery": describe_discovery(runtime, name)}
        for name, pool in runtime.pools.items()
        if name in names
    }


def _calibration(served: ServedModel) -> dict[str, Any]:
    estimator = served.estimator
    return {
        "bytes_per_token": round(estimator.bytes_per_token, 3),
        "unsure_factor": round(estimator.unsure_factor, 3),
        "block_bytes": estimator.block_size.now,
    }


def _lengths(one: LengthSnapshot) -> dict[str, Any]:
    return {
        "tenant": one.tenant,
        "model": one.model,
        "answers": one.answers,
        "tokens_mean": one.mean,
        "tokens_p50": one.p50,
        "tokens_p90": one.p90,
        "tokens_p99": one.p99,
        "cut_short": one.cut,
    }


def _tenant(tenant: Tenant) -> dict[str, Any]:
    limits = tenant.limits
    return {
        "tier": tenant.tier.name,
        "anonymous": tenant.anonymous,
        "models": {
            name: {"pool": route.pool, "engine_model": route.engine_model} for name, route in tenant.models.items()
        },
        "limits": {
            "requests_per_minute": limits.requests_per_minute,
            "tokens_per_minute": limits.tokens_per_minute,
            "concurrency": limits.concurrency,
            "tokens_per_day": limits.tokens_per_day,
            "money_per_month": None if limits.money_per_month is None else limits.money_per_month / 1_000_000,
            "without_redis": limits.without_redis.value,
            "shadow": limits.shadow,
        },
    }


def _pool(pool: Pool, standbys: Standbys | None) -> dict[str, Any]:
    now = pool.clock()
    return {
        "profile": pool.profile.name,
        "holds": pool.profile.gate is not None,
        "waiting": len(pool.waiting),
        "waiting_by_lane": {lane.value: count for lane, count in pool.desk.queue.waiting.items()},
        "saturation": round(pool_load(pool.states, now).saturation, 4),
        "drain_per_second": {lane.value: round(drain.rate(now), 3) for lane, drain in pool.desk.drain.items()},
        "replica": None if pool.remote is None else pool.remote.describe(),
        "standby": None if standbys is None else _standby(standbys),
        "endpoints": [_endpoint(place, now) for place in pool.places],
    }


def _standby(standbys: Standbys) -> dict[str, Any]:
    """Who serves, and the last changes of that; the oldest first."""
    return {
        "level": standbys.level.value,
        "rising": None if standbys.rising is None else standbys.rising.value,
        "stays": standbys.machine.held_up,
        "held": standbys.held,
        "held_by_tier": {tier: count for tier, count in standbys.holding.held.items() if count},
        "events": [event.describe() for event in standbys.events],
    }


def _endpoint(place: Place, now: float) -> dict[str, Any]:
    state, upstream = place.state, place.upstream
    return {
        "name": state.endpoint.name,
        "url": state.endpoint.url,
        "source": "configured" if place.key is None else "found",
        "role": state.endpoint.role.value,
        "healthy": place.available(now),
        "health": state.health.state(now),
        "status": state.status(now),
        "ejected": _ejected(state, now),
        "sleeping": state.sleeping,
        "in_flight": state.in_flight,
        "pending_prefill_seconds": round(state.pending_prefill_seconds, 6),
        "outstanding_tokens": round(state.outstanding_tokens),
        "prefix_blocks": len(state.index),
        "prefix_block_capacity": state.index.capacity,
        "kv_capacity_tokens": state.kv_capacity_tokens,
        "kv_tokens_in_flight": round(state.kv_tokens),
        "models": [{"name": one.name, "max_model_len": one.max_model_len} for one in state.served or ()],
        "learned": _learned(state),
        "affinity": _affinity(state),
        "engine": {
            "running": state.engine_running,
            "waiting": state.engine_waiting,
            "kv_usage": state.kv_usage,
            "age_seconds": round(now - state.scraped_at, 3) if state.scraped_at is not None else None,
        },
        "connections": {"idle": upstream.idle, "busy": upstream.busy},
    }


def _learned(state: EndpointState) -> dict[str, Any]:
    """What the endpoint's speed is believed to be. Seconds; per token, per token and token before it, per step."""
    learner = state.learner.snapshot()
    return {
        "samples": learner.samples,
        "decode_samples": learner.decode_samples,
        "prefill_per_token": state.rates.prefill,
        "attention_per_pair": state.rates.attention,
        "decode_step": learner.decode_step,
        "overhead": learner.overhead,
        "last_seen_by_predicted": learner.ratio,
        "first_token_p99": round(state.silence.first_token_seconds, 6),
    }


def _ejected(state: EndpointState, now: float) -> dict[str, Any] | None:
    """Why its circuit is open, and seconds until a canary or a request may show that it works."""
    health = state.health
    if health.cause is None:
        return None
    left = health.retry_after(now)
    return {"cause": health.cause.value, "for_seconds": round(left, 3) if left is not None else None}


def _affinity(state: EndpointState) -> dict[str, Any]:
    """Predicted and found cached tokens, means per judged answer."""
    feedback = state.feedback
    return {
        "judged": feedback.judged,
        "engine_reports": feedback.reports,
        "prompt_tokens": round(feedback.prompt, 1),
        "predicted_tokens": round(feedback.predicted, 1),
        "found_tokens": round(feedback.found, 1),
        "index_factor": round(feedback.factor, 4),
        "kv_room_factor": round(state.kv_fill.factor, 4),
        "useless": feedback.useless,
    }
