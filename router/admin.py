"""The operator plane: metrics, health, live state, reload. On its own port, never on the tenants'.

Floor: assembles; Starlette carries it, as nothing here is hot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from policies.types import Tenant
from router import __version__
from router.assembly import Runtime
from router.config import ConfigError, Problem
from router.errors import BodyTooLarge, GatewayError
from router.explain import explain
from router.metrics import CONTENT_TYPE, Metrics
from router.pools import Place, Pool
from router.wire.errors import error_body

Reload = Callable[[], Awaitable[list[Problem]]]


def admin_app(runtime: Callable[[], Runtime], ready: Callable[[], bool], reload: Reload, metrics: Metrics) -> Starlette:
    """The ASGI app. `reload` returns warnings or raises ConfigError; `ready`: neither starting nor draining."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        return JSONResponse({"status": "ready"}) if ready() else JSONResponse({"status": "not ready"}, 503)

    async def scrape(_: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    async def state(_: Request) -> Response:
        return JSONResponse(describe(runtime()))

    async def reload_now(_: Request) -> Response:
        try:
            warnings = await reload()
        except ConfigError as error:
            return JSONResponse({"status": "refused", "problems": [str(problem) for problem in error.problems]}, 400)
        return JSONResponse({"status": "reloaded", "warnings": [str(problem) for problem in warnings]})

    async def explain_now(request: Request) -> Response:
        asked = request.query_params
        try:
            lines = await explain(
                runtime(),
                asked.get("tenant", ""),
                await _body(request, runtime().config.server.max_body_bytes),
                asked.get("path"),
                asked.get("lane"),
                live=True,
            )
        except GatewayError as error:
            return Response(error_body(error), error.status, media_type="application/json")
        return PlainTextResponse("\n".join(lines) + "\n")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
            Route("/admin/state", state),
            Route("/admin/reload", reload_now, methods=["POST"]),
            Route("/admin/explain", explain_now, methods=["POST"]),
        ]
    )


async def _body(request: Request, limit: int) -> bytes:
    """The request's body. Raises BodyTooLarge."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise BodyTooLarge(f"The body is longer than {limit} bytes.")
    return bytes(data)


def describe(runtime: Runtime) -> dict[str, Any]:
    """The live state for operators: who is served by what, and how that is doing. Holds no secret."""
    return {
        "version": __version__,
        "profile": runtime.config.routing.profile,
        "tenants": {name: _tenant(tenant) for name, tenant in runtime.gateway.directory.by_id.items()},
        "pools": {name: _pool(pool) for name, pool in runtime.pools.items()},
        "calibration": {
            f"{tenant}/{name}": {"bytes_per_token": round(served.estimator.bytes_per_token, 3)}
            for tenant, models in runtime.gateway.models.items()
            for name, served in models.items()
        },
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
        },
    }


def _pool(pool: Pool) -> dict[str, Any]:
    now = pool.clock()
    return {"waiting": len(pool.waiting), "endpoints": [_endpoint(place, now) for place in pool.places]}


def _endpoint(place: Place, now: float) -> dict[str, Any]:
    state, upstream = place.state, place.upstream
    return {
        "name": state.endpoint.name,
        "url": state.endpoint.url,
        "role": state.endpoint.role.value,
        "healthy": place.available(now),
        "health": state.health.state(now),
        "sleeping": state.sleeping,
        "in_flight": state.in_flight,
        "pending_prefill_seconds": round(state.pending_prefill_seconds, 6),
        "outstanding_tokens": round(state.outstanding_tokens),
        "prefix_blocks": len(state.index),
        "prefix_block_capacity": state.index.capacity,
        "kv_capacity_tokens": state.kv_capacity_tokens,
        "engine": {
            "running": state.engine_running,
            "waiting": state.engine_waiting,
            "kv_usage": state.kv_usage,
            "age_seconds": round(now - state.scraped_at, 3) if state.scraped_at is not None else None,
        },
        "connections": {"idle": upstream.idle, "busy": upstream.busy},
    }
