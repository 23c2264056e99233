"""The operator plane: metrics, health, live state, reload, drills, keys. On its own port, never on the tenants'.

Floor: assembles; Starlette carries it, as nothing here is hot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from router.admin_cache import cache_routes
from router.admin_keys import key_routes
from router.assembly import Runtime
from router.config import ConfigError, Problem
from router.drill import Drills
from router.drill_stage import DrillOrder
from router.errors import BadRequest, GatewayError
from router.explain import explain
from router.key_watch import KeyWatch
from router.live_state import describe, describe_pools
from router.metrics import Metrics
from router.operator_bodies import OwnPagesOnly, read_body, refusal
from router.readiness import readiness_of
from router.wire.record import Record

_ORDER_BYTES = 64 * 1024  # far more than an order for a drill has

_CONFIG_BYTES = 64 * 1024 * 1024  # more than a file may have

Reload = Callable[[bool, bytes], Awaitable[list[Problem]]]


def admin_app(
    runtime: Callable[[], Runtime],
    ready: Callable[[], bool],
    reload: Reload,
    metrics: Metrics,
    keys: KeyWatch | None = None,
    record: Callable[[Record], None] | None = None,
) -> Starlette:
    """The ASGI app. `reload` is told whether it is a dry run, and the request's body; it returns warnings or raises
    ConfigError; `ready`: neither starting nor draining; `keys`: None where they are not made at run time; `record`:
    takes the ledger's records, where there is one."""

    drills = Drills(runtime, metrics, record)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        found = readiness_of(runtime(), ready())
        return JSONResponse(
            {"status": "ready" if found.ready else "not ready", "why": found.why}, 200 if found.ready else 503
        )

    async def scrape(request: Request) -> Response:
        text, kind = metrics.scraped(request.headers.get("accept", ""))
        return Response(text, media_type=kind)

    async def state(request: Request) -> Response:
        pool = request.query_params.get("pool")
        if pool is not None:
            return JSONResponse({"pools": describe_pools(runtime(), {pool})})
        return JSONResponse(describe(runtime()) | {"drills": list(drills.results)})

    async def reload_now(request: Request) -> Response:
        dry_run = request.query_params.get("dry_run") in ("1", "true")
        try:
            warnings = await reload(dry_run, await read_body(request, _CONFIG_BYTES))
        except ConfigError as error:
            return JSONResponse({"status": "refused", "problems": [str(problem) for problem in error.problems]}, 400)
        except GatewayError as error:
            return refusal(error)
        done = "good" if dry_run else "reloaded"
        return JSONResponse({"status": done, "warnings": [str(problem) for problem in warnings]})

    async def explain_now(request: Request) -> Response:
        asked = request.query_params
        try:
            lines = await explain(
                runtime(),
                asked.get("tenant", ""),
                await read_body(request, runtime().config.server.max_body_bytes),
                asked.get("path"),
                asked.get("lane"),
                live=True,
            )
        except GatewayError as error:
            return refusal(error)
        return PlainTextResponse("\n".join(lines) + "\n")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
            Route("/admin/state", state),
            Route("/admin/reload", reload_now, methods=["POST"]),
            Route("/admin/explain", explain_now, methods=["POST"]),
            Route("/admin/drill", _drill_handler(drills), methods=["POST"]),
            *key_routes(runtime, keys),
            *cache_routes(runtime),
        ],
        middleware=[Middleware(OwnPagesOnly)],
    )


def _drill_handler(drills: Drills) -> Callable[[Request], Awaitable[Response]]:
    async def drill_now(request: Request) -> Response:
        try:
            order = DrillOrder.model_validate_json(await read_body(request, _ORDER_BYTES))
            return JSONResponse(await drills.run(order))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            return refusal(BadRequest(f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"))
        except GatewayError as error:
            return refusal(error)

    return drill_now
